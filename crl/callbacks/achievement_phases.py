"""Auxiliary phases of achievement distillation between the updates of an SB3 on-policy algorithm."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from torch import nn

from crl.callbacks.actor_critic_heads import ActorCriticHeads
from crl.callbacks.attachment import evaluation_mode, isolated_random
from crl.callbacks.find_encoders import check_initialisation, find_encoders, image_space
from crl.callbacks.rollout_window import Rollout, RolloutWindow
from crl.callbacks.stateful import SavedCallback
from crl.contract import Metrics, Spaces
from crl.encoders import ModelEncoder
from crl.losses.policy_distillation import policy_divergence
from crl.networks import faster
from crl.objectives.achievement import AchievementDistillation, draw_negatives
from crl.objectives.goal_matching import MatchedPairs
from crl.objectives.goal_memory import GoalMemory, reached_goals
from crl.objectives.goal_trajectory import GoalTrajectory
from crl.objectives.memory_extractor import IMAGE, MEMORY, memory_width


class _Interrupted(Exception):
    """Somebody does not want to wait for the end of a phase."""


class AchievementPhases(SavedCallback):
    """
    Achievement distillation (Moon et al. 2023, arXiv:2307.03486) on SB3's PPO: after every ``every`` updates of the agent, a
    phase of some epochs over the whole episodes of the rollouts since the last one. Each step adds to its contrast that the
    policy is to stay what it was before the phase, and the value function near the returns.

    Phases run at the start of a rollout (the last one at the end of training): nothing moves between the collection of a
    rollout and the update that learns from it, so PPO's first probability ratio is exactly 1. The agent's optimiser and
    torch's global generators are not touched. A phase can take minutes: set :attr:`interrupted` to be asked meanwhile
    (``crl train`` does, to show progress, to pause and to stop).

    Environments report sub-goals as ``crl.envs.subgoals`` says. The policy's memory input is
    :class:`crl.objectives.goal_memory.GoalMemory` around the environment, which is given the encoder here.

    Logged under ``achievement/``, means over a phase: ``prediction_loss``, ``prediction_accuracy``, ``matching_loss``,
    ``matching_similarity``, ``pairs``, ``policy_divergence``, ``value_error``; and ``episodes``, ``goals`` (an episode),
    ``n_updates`` (so far), ``seconds``.

    :param objective: the contrasts
    :param every: rollouts between two phases, 8 as published
    :param epochs: of a phase, 6 as published
    :param prediction: contrast within episodes
    :param matching: contrast between episodes
    :param contrast: False leaves both contrasts out of the loss and all else as it is: the same batches, as many steps, of
        policy and value distillation alone. The control that tells what further gradient steps do by themselves.
    :param policy_weight: of the policy's divergence
    :param value_weight: of the values' squared error
    :param targets: other episodes that an episode is matched with
    :param batch_size: steps (or pairs) of a gradient step
    :param learning_rate: of the two Adams, one for each contrast, over the whole policy and the heads
    :param max_grad_norm: of all gradients of a step together; ``"auto"``: the model's
    :param seed: of shuffles and negatives; None takes the model's
    :param verbose: see SB3
    :raises ValueError: for values out of range; at the start of ``learn`` for a model that does not fit
    """

    def __init__(
        self,
        objective: AchievementDistillation,
        every: int = 8,
        epochs: int = 6,
        prediction: bool = True,
        matching: bool = True,
        contrast: bool = True,
        policy_weight: float = 1.0,
        value_weight: float = 1.0,
        targets: int = 16,
        batch_size: int = 512,
        learning_rate: float = 3e-4,
        max_grad_norm: float | str | None = "auto",
        seed: int | None = None,
        verbose: int = 0,
    ) -> None:
        super().__init__(verbose)
        if not isinstance(objective, AchievementDistillation):
            raise ValueError(f"objective={objective!r}: pass AchievementDistillation(); others go to AuxiliaryLossCallback")
        if min(every, epochs, targets) < 1 or batch_size < 2:
            raise ValueError(
                f"every={every}, epochs={epochs}, targets={targets}, batch_size={batch_size}: at least 1, the last at least 2"
            )
        if not (policy_weight >= 0 and value_weight >= 0):
            raise ValueError(f"policy_weight={policy_weight}, value_weight={value_weight}: both at least 0")
        if not learning_rate > 0:
            raise ValueError(f"learning_rate={learning_rate}: must be positive")
        if not (max_grad_norm in (None, "auto") or (isinstance(max_grad_norm, float | int) and max_grad_norm > 0)):
            raise ValueError(f"max_grad_norm={max_grad_norm!r}: a positive number, 'auto' or None")
        self.objective = objective
        self.epochs = epochs
        self.prediction = prediction
        self.matching = matching
        self.contrast = contrast
        self.policy_weight = policy_weight
        self.value_weight = value_weight
        self.targets = targets
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.max_grad_norm = max_grad_norm
        self.seed = seed
        self.window = RolloutWindow(every)
        #: asked before each gradient step of a phase, if there is anybody to ask: True undoes the phase, which is due again at
        #: the next start of a rollout, from the same numbers
        self.interrupted: Callable[[], bool] | None = None
        #: gradient steps so far
        self.n_updates = 0
        #: spent in phases so far
        self.seconds = 0.0
        #: by contrast, ``"prediction"`` and ``"matching"``
        self.optimizers: dict[str, th.optim.Optimizer] = {}
        self._extractor: nn.Module | None = None
        self._parameters: list[nn.Parameter] = []
        self._rng: np.random.Generator | None = None
        self._clip: float | None = None
        self._unlocked: list[np.ndarray] = []
        self._old: dict[int, th.Tensor] = {}
        self._sums: dict[str, list[th.Tensor]] = {}
        # of the phase: whoever is asked whether to go on may pause it
        self._waited = 0.0

    @property
    def is_attached(self) -> bool:
        """Whether it belongs to a model."""
        return self._extractor is not None

    # ---- attaching

    def _init_callback(self) -> None:
        model = self.model
        if not isinstance(model, OnPolicyAlgorithm):
            raise ValueError(f"AchievementPhases needs rollouts: PPO or A2C, not {type(model).__name__}")
        self.heads = ActorCriticHeads(model)
        space, _ = image_space(model)
        found = find_encoders(model)
        check_initialisation(model, found)
        self._has_memory = memory_width(model.observation_space) > 0
        width = memory_width(model.observation_space)
        if self._rng is None:
            seed = self.seed if self.seed is not None else model.seed
            self._rng = np.random.default_rng(np.random.SeedSequence(seed).spawn(2)[1])
        encoder = found[0].encoder
        if not self.objective.is_built:
            with isolated_random(model.device, int(self._rng.integers(2**62))):
                self.objective.build(encoder, Spaces(space, model.action_space), width)
        elif (self.objective.encoder.features_dim, self.objective.memory_dim) != (encoder.features_dim, width):
            raise ValueError("this AchievementDistillation was built for another model: pass a new one")
        self.objective.bind(encoder)
        if self._has_memory:
            bind_memory(model.get_env(), encoder)
        other_model = self._extractor is not None and self._extractor is not encoder.extractor
        if model.num_timesteps == 0 or other_model:
            self.window.clear()  # episodes of a training before this one do not go on
        self._clip = model.max_grad_norm if self.max_grad_norm == "auto" else self.max_grad_norm  # type: ignore[assignment]
        self._make_optimizers(model, encoder)
        self._take_up()
        self._unlocked = []

    def _make_optimizers(self, model: OnPolicyAlgorithm, encoder: ModelEncoder) -> None:
        if self._extractor is encoder.extractor:
            return  # a further learn() goes on with the same moments
        self._extractor = encoder.extractor
        self._parameters = [p for p in [*model.policy.parameters(), *self.objective.parameters()] if p.requires_grad]
        adam = faster(th.optim.Adam, {})
        used = {"prediction": self.prediction, "matching": self.matching}
        self.optimizers = {name: adam(self._parameters, lr=self.learning_rate) for name, on in used.items() if on}

    # ---- collecting

    def _on_step(self) -> bool:
        self._unlocked.append(reached_goals(self.locals["infos"]))
        return True

    def _on_rollout_end(self) -> None:
        # These arrays stay what they are: train() reorders into new ones, and the next reset() allocates others
        buffer = self.locals["rollout_buffer"]
        observations = buffer.observations
        self.window.add(
            Rollout(
                observations[IMAGE] if isinstance(observations, dict) else observations,
                buffer.actions,
                buffer.episode_starts.astype(bool),
                np.array(self._unlocked),
                buffer.returns,
                observations[MEMORY] if self._has_memory else None,
            )
        )
        self._unlocked = []

    def _on_rollout_start(self) -> None:
        self._phase_if_due()

    def _on_training_end(self) -> None:
        self._phase_if_due()
        if self.n_updates:
            # SB3 writes its log before it updates, every few rollouts: what the last phase did would not be in it
            self.logger.dump(self.num_timesteps)

    def summary(self) -> dict[str, float]:
        """Of all phases, for a run's summary: gradient steps, and seconds of the training."""
        return {"phase_updates": self.n_updates, "phase_seconds": round(self.seconds, 1)}

    # ---- the phase

    def _phase_if_due(self) -> None:
        if not self.window.full or not self.optimizers:
            return
        began, self._waited = perf_counter(), 0.0
        trajectories = self.window.trajectories()
        before = None if self.interrupted is None else self._snapshot()
        with_goals = [trajectory for trajectory in trajectories if trajectory.n_goals]
        policy = self.model.policy
        policy.set_training_mode(True)  # running statistics of returns move, as in the agent's own updates
        try:
            with evaluation_mode(self._extractor):  # type: ignore[arg-type]
                self._remember_policy(with_goals)
                for _ in range(self.epochs):
                    self._epoch(with_goals)
        except _Interrupted:
            assert before is not None
            self._undo(before)
            return
        finally:
            policy.set_training_mode(False)
            self._old = {}
        self.window.clear()
        self._log(trajectories, perf_counter() - began - self._waited)

    def _snapshot(self) -> dict[str, Any]:
        """All that a phase changes; rollouts are not among it."""
        own = {name: part for name, part in self._parts().items() if name != "window"}
        return copy.deepcopy({"policy": self.model.policy.state_dict(), "own": own})

    def _undo(self, before: dict[str, Any]) -> None:
        self.model.policy.load_state_dict(before["policy"])
        self._restore({**before["own"], "window": self.window.state_dict()})
        self._sums = {}

    def _epoch(self, trajectories: list[GoalTrajectory]) -> None:
        """First all steps that match, then all that predict."""
        assert self._rng is not None
        if self.matching and len(trajectories) > 1:
            for index in self._rng.permutation(len(trajectories)):
                self._match(trajectories, int(index))
        if self.prediction:
            for index in self._rng.permutation(len(trajectories)):
                self._predict(trajectories[index])

    @th.no_grad()
    def _remember_policy(self, trajectories: list[GoalTrajectory]) -> None:
        """Log-probabilities of the policy as it is at the start of the phase: what it looks at does not change within one."""
        for trajectory in trajectories:
            parts = [
                self._policy_and_values(trajectory, steps, self.objective.encode(trajectory, steps))[0]
                for steps in th.arange(len(trajectory)).split(self.batch_size)
            ]
            self._old[id(trajectory)] = th.cat(parts)

    def _policy_and_values(
        self, trajectory: GoalTrajectory, steps: th.Tensor, latents: th.Tensor
    ) -> tuple[th.Tensor, th.Tensor]:
        return self.heads(latents, None if trajectory.memory is None else trajectory.memory[steps])

    def _predict(self, trajectory: GoalTrajectory) -> None:
        """All steps of an episode, shuffled; each is told from the step that another shuffle puts in its place."""
        assert self._rng is not None
        order = th.as_tensor(self._rng.permutation(len(trajectory)))
        other = th.as_tensor(self._rng.permutation(len(trajectory)))
        for steps in order.split(self.batch_size):
            batch = self.objective.prediction(trajectory, steps, other[steps])
            kept = self._kept(trajectory, batch.steps, batch.latents)
            self._step("prediction", batch.loss, kept, batch.metrics)

    def _match(self, trajectories: list[GoalTrajectory], index: int) -> None:
        """One episode's goals with those of some others."""
        assert self._rng is not None
        source = trajectories[index]
        others = np.delete(np.arange(len(trajectories)), index)
        chosen = [trajectories[i] for i in self._rng.permutation(others)[: self.targets]]
        sizes = [target.n_goals for target in chosen]
        goals, of_targets = self._encode_goals(source, chosen)
        pairs = self.objective.find_pairs(goals, of_targets, sizes)
        for number, part in enumerate(_split(pairs, self.batch_size)):
            if number:  # weights have moved
                goals, of_targets = self._encode_goals(source, chosen)
            negatives = draw_negatives(part, sizes, self._rng)
            loss, metrics = self.objective.matching(goals, of_targets, part, negatives)
            steps = th.as_tensor(self._rng.integers(len(source), size=len(part)))
            kept = self._kept(source, steps, self.objective.encode(source, steps))
            self._step("matching", loss, kept, {**metrics, "pairs": th.tensor(float(len(pairs)))})

    def _encode_goals(self, source: GoalTrajectory, targets: list[GoalTrajectory]) -> tuple[th.Tensor, th.Tensor]:
        goals = self.objective.goals(source)
        with th.no_grad():
            return goals, self.objective.goals_of(targets)

    def _kept(self, trajectory: GoalTrajectory, steps: th.Tensor, latents: th.Tensor) -> Metrics:
        """How far policy and values are from where they are to stay, with graph."""
        log_probs, values = self._policy_and_values(trajectory, steps, latents)
        old = self._old[id(trajectory)][steps.to(log_probs.device)]
        return {
            "policy_divergence": policy_divergence(log_probs, old),
            "value_error": self.heads.value_error(values, trajectory.returns[steps]),
        }

    def _step(self, name: str, loss: th.Tensor, kept: Metrics, metrics: Metrics) -> None:
        """One gradient step of the optimiser of a contrast."""
        if self.interrupted is not None:
            began = perf_counter()
            if self.interrupted():
                raise _Interrupted
            self._waited += perf_counter() - began
        total = self.policy_weight * kept["policy_divergence"] + self.value_weight * kept["value_error"]
        if self.contrast:
            total = total + loss
        optimizer = self.optimizers[name]
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        if self._clip is not None:
            nn.utils.clip_grad_norm_(self._parameters, self._clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        self.n_updates += 1
        for key, value in {**metrics, **kept}.items():
            self._sums.setdefault(key, []).append(value.detach())

    def _log(self, trajectories: list[GoalTrajectory], seconds: float) -> None:
        self.seconds += seconds
        for key, values in self._sums.items():
            mean = th.stack([value.float().to(self.model.device) for value in values]).mean().item()
            if not np.isfinite(mean):
                raise FloatingPointError(f"{key} of achievement distillation is {mean}: lower learning_rate")
            self.logger.record(f"achievement/{key}", mean)
        self._sums = {}
        self.logger.record("achievement/episodes", len(trajectories))
        if trajectories:
            self.logger.record("achievement/goals", float(np.mean([trajectory.n_goals for trajectory in trajectories])))
        self.logger.record("achievement/n_updates", self.n_updates)
        self.logger.record("achievement/seconds", seconds)

    # ---- saving

    def _must_fit(self) -> dict[str, Any]:
        return {"parts": [self.prediction, self.matching, self.contrast]}

    def _parts(self) -> dict[str, Any]:
        """Rollouts that wait for their phase, too."""
        assert self._rng is not None
        return {
            "objective": self.objective.state_dict(),
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "window": self.window.state_dict(),
            "rng": self._rng.bit_generator.state,
            "n_updates": self.n_updates,
            "seconds": self.seconds,
        }

    def _restore(self, state: dict[str, Any]) -> None:
        self.objective.load_state_dict(state["objective"])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        self.window.load_state_dict(state["window"])
        assert self._rng is not None
        self._rng.bit_generator.state = state["rng"]
        self.n_updates, self.seconds = state["n_updates"], state["seconds"]


def bind_memory(env: VecEnv | None, encoder: ModelEncoder) -> None:
    """
    :param env: of a model whose policy has a memory input
    :param encoder: the acting one
    :raises ValueError: when none of its wrappers is GoalMemory
    """
    while isinstance(env, VecEnvWrapper):
        if isinstance(env, GoalMemory):
            env.bind(encoder)
            return
        env = env.venv
    raise ValueError("the policy has a memory input and nothing fills it: wrap the environment in GoalMemory")


def _split(pairs: MatchedPairs, size: int) -> Iterator[MatchedPairs]:
    for parts in zip(pairs.source.split(size), pairs.target.split(size), pairs.owner.split(size), strict=True):
        if len(parts[0]):
            yield MatchedPairs(*parts)

"""Trains an encoder of histories on the episodes of a live, unmodified on-policy SB3 or sb3-contrib model."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize

from crl.callbacks.attachment import isolated_random
from crl.callbacks.episode_features import with_features
from crl.callbacks.stateful import SavedCallback, refuse_another_model, refuse_event_callback
from crl.contract import EpisodeBatch
from crl.history import HistoryExtractor, HistoryVecEnv, history_extractor
from crl.history.layout import batch_of_one
from crl.metrics import effective_rank, embedding_std
from crl.networks import faster
from crl.objectives.history_objective import HistoryObjective, PartnerSpaces
from crl.replay.episode_store import EpisodeStore


class AgentModelCallback(SavedCallback):
    """
    Keeps the episodes of an on-policy model that sees histories (:class:`crl.history.HistoryVecEnv`,
    :class:`crl.history.HistoryExtractor`) and trains an encoder on them, beside the agent and from the start.

    The encoder that is trained is this callback's. What the agent acts on is a copy of its EMA, which is set at the start of a
    rollout and at the end of training, and at no other time: values and log-probabilities of a rollout and the updates that
    follow see one and the same encoder, so that PPO's first ratio is exactly 1. No gradient of the agent reaches either.

    Of images, frames are stored, once each, and what the policy's CNN makes of them is computed for each step of the objective
    by the CNN as it is then. No gradient of the objective reaches the CNN. For the histories that are acted on it is computed
    as frames come, and at each start of a rollout once more from the beginning, since the agent's updates have moved the CNN:
    all rows of a history are of one CNN.

    Logged under ``repr/``, once a rollout: ``<objective>_loss`` and what else the objective measures, ``_embedding_std`` and
    ``_effective_rank`` of the acting encoder on whole episodes, ``_n_updates``, ``_episodes``.

    :param objective: ``AgentModel()``, ``LIAM()``, ``PartnerId()``; None: the encoder stays as it was drawn, a control
    :param batch_size: episodes in a step, 512 as in CLAM's code; all that there are while there are fewer
    :param interval: environment steps between two steps of the objective, 250 as in CLAM's code
    :param min_episodes: stored episodes before the first step
    :param min_steps: shorter episodes are not stored
    :param store_size: episodes that are kept
    :param learning_rate: of the own Adam (3e-3 in CLAM's code, whose loss has another scale)
    :param seed: of the own generators; None takes the model's seed, and if that is None too, a random one
    :param verbose: see SB3
    :raises ValueError: for values out of range; at the start of ``learn`` for a model that sees no histories, or an
        environment that does not tell what the objective needs
    """

    def __init__(
        self,
        objective: HistoryObjective | None,
        batch_size: int = 512,
        interval: int = 250,
        min_episodes: int = 64,
        min_steps: int = 8,
        store_size: int = 10_000,
        learning_rate: float = 1e-3,
        seed: int | None = None,
        verbose: int = 0,
    ) -> None:
        super().__init__(verbose)
        if objective is not None and not isinstance(objective, HistoryObjective):
            raise ValueError(f"objective={objective!r}: an objective on histories, for example AgentModel(), or None")
        if min(batch_size, min_episodes) < 2:
            raise ValueError(f"batch_size={batch_size}, min_episodes={min_episodes}: a contrast needs at least 2 episodes")
        if min(interval, min_steps, store_size) < 1 or store_size < min_episodes:
            raise ValueError(
                f"interval={interval}, min_steps={min_steps}, store_size={store_size}: all at least 1, and room for "
                f"min_episodes={min_episodes}"
            )
        if callable(learning_rate) or not learning_rate > 0:
            raise ValueError(f"learning_rate={learning_rate}: a positive number, no schedule")
        self.objective = objective
        self.batch_size = batch_size
        self.interval = interval
        self.min_episodes = min_episodes
        self.min_steps = min_steps
        self.store_size = store_size
        self.learning_rate = learning_rate
        self.seed = seed
        #: episodes; made when ``learn`` starts
        self.store: EpisodeStore | None = None
        #: of encoder and heads
        self.optimizer: th.optim.Optimizer | None = None
        #: steps of the objective
        self.n_updates = 0
        self._steps_since = 0
        self._rng: np.random.Generator | None = None
        self._generator: th.Generator
        self._env: HistoryVecEnv
        self._extractor: HistoryExtractor

    # ---- attaching

    def _init_callback(self) -> None:
        refuse_event_callback(self.parent)
        model = self.model
        extractor = history_extractor(model)
        env = _find_history_env(model.env)
        if not isinstance(model, OnPolicyAlgorithm) or extractor is None or env is None:
            raise ValueError(
                f"{type(model).__name__} does not see histories: make it on HistoryVecEnv(env, spec), with policy_kwargs="
                "dict(features_extractor_class=HistoryExtractor, features_extractor_kwargs=...); on-policy algorithms only"
            )
        if self.objective is not None and (extractor.encoder is None or extractor.trained):
            raise ValueError(
                "the model's HistoryExtractor must hold an encoder that its own loss does not train (modelled=True, "
                "trained=False), or the callback no objective"
            )
        _check_wrappers(model.env, env)
        if extractor is not getattr(model.policy, "vf_features_extractor", extractor):
            raise ValueError(
                "policy_kwargs=dict(share_features_extractor=False): the critic would have an encoder of its own, that nobody "
                "trains; leave it True (actor and critic have layers of their own behind it, see net_arch)"
            )
        self._check_model(extractor)
        self._env, self._extractor = env, extractor
        if extractor.spec.way == "embedding":
            env.bind(extractor.encoder, extractor.see if extractor.of_images else None)
        if self._rng is None:
            seed = self.seed if self.seed is not None else model.seed
            self._rng = np.random.default_rng(np.random.SeedSequence(seed).spawn(1)[0])
            self._generator = th.Generator(model.device)
            self._generator.manual_seed(int(self._rng.integers(2**62)))
        if self.objective is not None:
            self._prepare(self.objective)
        self._take_up()
        self._begin_episodes()
        self._sync()

    def _check_model(self, extractor: HistoryExtractor) -> None:
        """:raises ValueError: for another model than the one whose encoder is trained here"""
        if self.objective is None or not self.objective.is_built or self._pending_state is not None:
            return
        if extractor is not getattr(self, "_extractor", None):
            assert extractor.encoder is not None
            refuse_another_model("history", extractor.encoder.parameters(), self.objective.target.parameters())

    def _prepare(self, objective: HistoryObjective) -> None:
        """Encoder, heads, optimiser and store, unless they are there from an earlier ``learn``."""
        assert self._rng is not None
        if not objective.is_built:
            assert self._extractor.encoder is not None
            encoder = copy.deepcopy(self._extractor.encoder)
            with isolated_random(self.model.device, int(self._rng.integers(2**62))):
                objective.build(encoder, partner_spaces(self._env) if objective.needs else None)
        if self.optimizer is None:
            parameters = [p for p in objective.parameters() if p.requires_grad]
            self.optimizer = faster(th.optim.Adam, {})(parameters, lr=self.learning_rate)
        if self.store is None or self.store.n_envs != self._env.num_envs:
            self.store = EpisodeStore(self.store_size, self._env.num_envs, self.min_steps, objective.needs)

    def _begin_episodes(self) -> None:
        """Of environments whose episode the store does not know: at the start, and after a reset by somebody else."""
        if self.store is None:
            return
        obs = self._env.window.stored(self.model._last_obs)
        infos = self._env.unwrapped.reset_infos
        for index in range(self._env.num_envs):
            if not self.store.is_open(index) or not np.array_equal(self.store.last_obs(index), obs[index]):
                self.store.begin(index, obs[index].copy(), infos[index])

    # ---- while training

    def _on_step(self) -> bool:
        if self.store is None:
            return True
        step = self.locals
        obs = self._env.window.stored(step["new_obs"])
        actions = self._env.window.rows.stored_actions(step.get("clipped_actions", step["actions"]))
        for index, (done, info) in enumerate(zip(step["dones"], step["infos"], strict=True)):
            led = self._env.window.stored(batch_of_one(info["terminal_observation"]))[0] if done else obs[index]
            cut = bool(done and info.get("TimeLimit.truncated", False))
            reward = float(step["rewards"][index])
            self.store.add(index, actions[index].copy(), reward, led.copy(), bool(done) and not cut, cut, info)
            if done:
                self.store.begin(index, obs[index].copy(), self._env.unwrapped.reset_infos[index])
        self._steps_since += self._env.num_envs
        return True

    def _on_rollout_start(self) -> None:
        # the agent's updates have moved the CNN, whether the objective was due or not
        if self._train() or self._extractor.of_images:
            self._sync()

    def _on_training_end(self) -> None:
        if self._train() or self._extractor.of_images:
            self._sync()
        if self.objective is not None and self.store is not None and not self.n_updates:
            warnings.warn(
                f"the encoder of histories was never trained: {len(self.store)} episodes are stored, of at least "
                f"min_steps={self.min_steps} steps each, and training begins with min_episodes={self.min_episodes}, a step "
                f"for each interval={self.interval} environment steps: train for longer, or lower these",
                stacklevel=2,
            )

    def _train(self) -> bool:
        """One step for each interval since the last time; whether there was any."""
        due, self._steps_since = divmod(self._steps_since, self.interval)
        if self.objective is None or self.store is None or not due or len(self.store) < self.min_episodes:
            return False
        sums: dict[str, th.Tensor] = {}
        for _ in range(due):
            for key, value in self.train_step().items():
                sums[key] = sums[key] + value if key in sums else value
        self._log({key: value / due for key, value in sums.items()})
        return True

    def train_step(self) -> dict[str, th.Tensor]:
        """
        One step of the objective.

        :return: what it measured
        """
        assert self.objective is not None and self.store is not None and self.optimizer is not None
        assert self._rng is not None
        n = min(self.batch_size, len(self.store))
        batch = self._seen(self.store.draw(n, self._rng, self.model.device, self._generator))
        self.objective.train()
        self.optimizer.zero_grad(set_to_none=True)
        loss, metrics = self.objective.loss(batch)
        loss.backward()
        self.optimizer.step()
        self.objective.after_step()
        self.n_updates += 1
        return metrics

    def _seen(self, batch: EpisodeBatch) -> EpisodeBatch:
        """Stored episodes as the objective takes them: vectors."""
        extractor = self._extractor
        return with_features(batch, extractor.see, extractor.spec.n_stack) if extractor.of_images else batch

    def _sync(self) -> None:
        """
        The acting encoder becomes the EMA as it is now, and the observations that wait are embedded by it; of images, from
        rows that the CNN as it is now makes of the whole history.
        """
        if self.objective is not None:
            assert self._extractor.encoder is not None
            self._extractor.encoder.load_state_dict(self.objective.target.state_dict())
        if self._extractor.spec.way == "embedding":
            self.model._last_obs = self._env.refresh()  # type: ignore[assignment]

    @th.no_grad()
    def _log(self, metrics: dict[str, th.Tensor]) -> None:
        assert self.objective is not None and self.store is not None and self._rng is not None
        name = self.objective.name
        some = np.arange(max(0, len(self.store) - self.batch_size), len(self.store))
        rows, lengths = self.objective.rows_of(self._seen(self.store.episodes(some, self.model.device)))
        z = self.objective.target.encode_prefixes(rows, lengths)
        metrics = {**metrics, "embedding_std": embedding_std(z), "effective_rank": effective_rank(z)}
        for key, value in metrics.items():
            self.logger.record(f"repr/{name}_{key}", value.item())
        if not metrics["loss"].isfinite():
            raise FloatingPointError(f"the {name} loss is {metrics['loss'].item()}: lower the objective's learning_rate")
        self.logger.record(f"repr/{name}_n_updates", self.n_updates, exclude="tensorboard")
        self.logger.record(f"repr/{name}_episodes", len(self.store), exclude="tensorboard")

    # ---- saving

    @property
    def is_attached(self) -> bool:
        """Whether there is anything to save."""
        return self._rng is not None

    def _must_fit(self) -> dict[str, Any]:
        return {"objective_class": type(self.objective).__name__}

    def _parts(self) -> dict[str, Any]:
        """
        Encoder and heads in training, their optimiser, generators, episodes, the histories of the environments, and the state
        of RecurrentPPO's memory.
        """
        assert self._rng is not None
        memory = getattr(self.model, "_last_lstm_states", None)
        return {
            "objective": None if self.objective is None else self.objective.state_dict(),
            "optimizer": None if self.optimizer is None else self.optimizer.state_dict(),
            "store": None if self.store is None else self.store.state_dict(),
            "rng": self._rng.bit_generator.state,
            "generator": self._generator.get_state(),
            "n_updates": self.n_updates,
            "steps_since": self._steps_since,
            "window": self._env.window.state_dict(),
            "memory": None if memory is None else [tuple(part) for part in memory],
        }

    def _restore(self, state: dict[str, Any]) -> None:
        assert self._rng is not None
        if self.objective is not None:
            assert self.optimizer is not None and self.store is not None
            self.objective.load_state_dict(state["objective"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.store.load_state_dict(state["store"])
        self._rng.bit_generator.state = state["rng"]
        self._generator.set_state(state["generator"])
        self.n_updates, self._steps_since = state["n_updates"], state["steps_since"]
        # environments that cannot restore an episode were reset: their histories begin anew
        last = self._env.window.raw(self.model._last_obs)
        if np.array_equal(state["window"]["last_obs"], last):
            self._env.window.load_state_dict(state["window"])
        memory = getattr(self.model, "_last_lstm_states", None)
        if memory is not None and state["memory"] is not None:
            device = self.model.device
            restored = [tuple(part.to(device) for part in pair) for pair in state["memory"]]
            self.model._last_lstm_states = type(memory)(*restored)  # type: ignore[attr-defined]


def partner_spaces(env: VecEnv) -> PartnerSpaces:
    """
    :param env: with a pool, as lbf/<id> and mpe/<id>
    :raises ValueError: for others
    """
    try:
        pool, others, actions, observation = (
            env.get_attr(name)[0] for name in ("pool_size", "n_partners", "n_partner_actions", "partner_observation_size")
        )
    except AttributeError as error:
        raise ValueError(
            f"this environment has no pool of partners to be told of ({error}): choose lbf/<id> or mpe/<id>, or an objective "
            "that needs none, AgentModel()"
        ) from error
    return PartnerSpaces(pool, others, actions, others * observation)


def _check_wrappers(env: VecEnv | None, histories: HistoryVecEnv) -> None:
    """:raises ValueError: for what changes histories on their way to the model"""
    while env is not None and env is not histories:
        if isinstance(env, VecNormalize) and env.norm_obs:
            raise ValueError(
                "VecNormalize(norm_obs=True) around HistoryVecEnv: embeddings would be scaled, and episodes stored, by "
                "statistics that move; put it inside, HistoryVecEnv(VecNormalize(env), spec), or set norm_obs=False"
            )
        env = env.venv if isinstance(env, VecEnvWrapper) else None


def _find_history_env(env: VecEnv | None) -> HistoryVecEnv | None:
    while env is not None and not isinstance(env, HistoryVecEnv):
        env = env.venv if isinstance(env, VecEnvWrapper) else None
    return env

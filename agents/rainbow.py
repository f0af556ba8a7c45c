"""Rainbow (Hessel et al. 2018, arXiv:1710.02298) on SB3's DQN, with an objective inside its update."""

from __future__ import annotations

import copy
from typing import Any, ClassVar, Literal

import numpy as np
import torch as th
import torch.nn.functional as F
from stable_baselines3 import DQN
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, ReplayBufferSamples, Schedule

from crl.agents.batches import PixelBatch, build_inside
from crl.agents.logged_means import LogsMeans
from crl.agents.n_step_replay import NStepReplay
from crl.agents.network_input import LeanEncoder
from crl.agents.q_projection import QProjectionEncoder
from crl.agents.rainbow_policy import RainbowNetwork, RainbowPolicy
from crl.agents.resets import forget_steps, shrink_and_perturb
from crl.callbacks.attachment import isolated_random
from crl.contract import Objective, Spaces
from crl.encoders import BodyHeadEncoder, ModelEncoder, check_image_space
from crl.losses.categorical import categorical_cross_entropy, categorical_divergence, project_distribution
from crl.networks import ema_update
from crl.replay import FrameReplayBuffer
from crl.replay.prioritized import PrioritizedFrameReplayBuffer, PrioritizedSamples


class Rainbow(NStepReplay, LogsMeans, DQN):
    """
    Distributional, dueling, noisy, double Q-learning on n-step returns from prioritised replay. Each part is a switch: those
    of the network are the policy's (:class:`crl.agents.rainbow_policy.RainbowNetwork`), ``double``, ``n_steps`` and
    ``prioritized`` are here. The defaults are data-efficient Rainbow's (van Hasselt et al. 2019, arXiv:1906.05243) as CURL
    has them.

    An objective on views has its loss added to the loss of every transition, as in CURL's code: importance weights scale it,
    and priorities hold it. One on sequences gets those that begin with the transitions of the batch, and their importance
    weights, and its loss is added to the mean of all, as in SPR's.

    :param policy: ``"RainbowPolicy"``
    :param env: with channels-first images and discrete actions
    :param learning_rate: of Adam
    :param buffer_size: transitions
    :param learning_starts: agent steps before the first update
    :param batch_size: transitions
    :param gamma: discount
    :param train_freq: see SB3
    :param gradient_steps: see SB3
    :param replay_buffer_class: None takes :class:`crl.replay.prioritized.PrioritizedFrameReplayBuffer`, or
        :class:`crl.replay.FrameReplayBuffer` without ``prioritized``
    :param replay_buffer_kwargs: of the buffer
    :param n_steps: of the returns
    :param target_update_interval: agent steps between two copies into the target network. 1: as if it were copied at every
        update (SPR, Dopamine's DrQ): the online network itself, with noise of its own, which shares the encoder's pass.
    :param exploration_initial_eps: of epsilon-greedy beside the noise
    :param exploration_final_eps: likewise
    :param exploration_fraction: see SB3; not used with ``exploration_steps``
    :param max_grad_norm: of the gradient; None: not clipped
    :param double: the online network chooses the next action, the target network values it
    :param prioritized: draw by priorities
    :param beta_start: exponent of the importance weights at ``learning_starts``
    :param beta_end: and at the end of the training, to which it rises evenly
    :param priority: of a transition: ``"loss"``, all that was added up for it; ``"kl"``, how far its predicted distribution is
        from its target, as in SPR
    :param random_start: uniform actions before ``learning_starts``; False: the agent's own from the first step, as in CURL
    :param exploration_steps: epsilon falls within so many agent steps from ``learning_starts`` on; None: see SB3
    :param clip: ``"joint"``: one norm of all gradients; ``"separate"``: one of the Q network's and one of the objective's
        transition model, while its other heads are not clipped, as in SPR
    :param reset_every: updates between two resets, None: never. Dense layers and the objective's heads begin anew, the
        convolutions and its transition model keep a part of their weights (shrink and perturb), the target follows and the
        optimiser forgets (SR-SPR, D'Oro et al. 2023: 40000 updates; BBF, Schwarzer et al. 2023, arXiv:2305.19452). None comes
        within the last half of such a period, which the agent needs to recover.
    :param reset_keep: part of their weights that the convolutions keep; 0.8 in SR-SPR, 0.5 in BBF
    :param evaluation_eps: share of random actions of ``predict(deterministic=True)``, which guards evaluations against an
        agent that is stuck
    :param objective: e.g. ``CURLRainbow()``; a copy is trained and saved with the model
    :param objective_weight: factor of its loss; 0: no objective
    :param metrics_interval: updates between two logs of means; none in between waits for the device
    :param stats_window_size: see SB3
    :param tensorboard_log: see SB3
    :param policy_kwargs: of the policy
    :param verbose: see SB3
    :param seed: see SB3; also of the objective's own draws
    :param device: see SB3
    :param _init_setup_model: see SB3
    :raises ValueError: for values out of range and parts that do not go together
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"RainbowPolicy": RainbowPolicy}
    policy: RainbowPolicy
    q_net: RainbowNetwork
    q_net_target: RainbowNetwork

    def __init__(
        self,
        policy: str | type[RainbowPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 1e-4,
        buffer_size: int = 100_000,
        learning_starts: int = 1600,
        batch_size: int = 32,
        gamma: float = 0.99,
        train_freq: int | tuple[int, str] = 1,
        gradient_steps: int = 1,
        replay_buffer_class: type[ReplayBuffer] | None = None,
        replay_buffer_kwargs: dict[str, Any] | None = None,
        n_steps: int = 20,
        target_update_interval: int = 2000,
        exploration_initial_eps: float = 0.0,
        exploration_final_eps: float = 0.0,
        exploration_fraction: float = 0.1,
        max_grad_norm: float | None = 10.0,
        *,
        double: bool = True,
        prioritized: bool = True,
        beta_start: float = 0.4,
        beta_end: float = 1.0,
        priority: Literal["loss", "kl"] = "loss",
        random_start: bool = True,
        exploration_steps: int | None = None,
        clip: Literal["joint", "separate"] = "joint",
        reset_every: int | None = None,
        reset_keep: float = 0.8,
        evaluation_eps: float = 0.001,
        objective: Objective | None = None,
        objective_weight: float = 1.0,
        metrics_interval: int = 100,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        if min(n_steps, metrics_interval) < 1:
            raise ValueError(f"n_steps={n_steps}, metrics_interval={metrics_interval}: at least 1")
        if not 0.0 <= beta_start <= beta_end <= 1.0 or not 0.0 <= evaluation_eps <= 1.0:
            raise ValueError(
                f"beta_start={beta_start}, beta_end={beta_end}, evaluation_eps={evaluation_eps}: all lie in [0, 1], beta_end "
                "not below beta_start"
            )
        if priority not in ("loss", "kl") or clip not in ("joint", "separate"):
            raise ValueError(f"priority={priority!r}, clip={clip!r}: choose 'loss' or 'kl', and 'joint' or 'separate'")
        if exploration_steps is not None and exploration_steps < 1:
            raise ValueError(f"exploration_steps={exploration_steps}: at least 1, or None")
        if (reset_every is not None and reset_every < 1) or not 0.0 <= reset_keep <= 1.0:
            raise ValueError(
                f"reset_every={reset_every}, reset_keep={reset_keep}: at least 1 update or None, and a share in [0, 1]"
            )
        if objective is not None and (not isinstance(objective, Objective) or objective.is_built):
            raise ValueError(f"objective={objective!r}: a new instance of crl.contract.Objective, for example CURLRainbow()")
        if not objective_weight >= 0:
            raise ValueError(f"objective_weight={objective_weight}: must not be negative")
        self.double = double
        self.prioritized = prioritized
        self.beta_start = beta_start
        self.beta_end = beta_end
        self.priority = priority
        self.random_start = random_start
        self.exploration_steps = exploration_steps
        self.clip = clip
        self.reset_every = reset_every
        self.reset_keep = reset_keep
        self.evaluation_eps = evaluation_eps
        #: as it was passed in; saved with the model, to build :attr:`objective` from
        self.objective_blueprint = copy.deepcopy(objective)
        #: the one that is trained; None without objective, and with weight 0
        self.objective: Objective | None = None
        self.objective_weight = objective_weight
        self.metrics_interval = metrics_interval
        self.objective_seed = int(np.random.SeedSequence(seed).generate_state(1)[0])
        usual = PrioritizedFrameReplayBuffer if prioritized else FrameReplayBuffer
        super().__init__(
            policy,
            env,
            learning_rate=learning_rate,
            buffer_size=buffer_size,
            learning_starts=learning_starts,
            batch_size=batch_size,
            tau=1.0,
            gamma=gamma,
            train_freq=train_freq,
            gradient_steps=gradient_steps,
            replay_buffer_class=replay_buffer_class or usual,
            replay_buffer_kwargs=replay_buffer_kwargs,
            n_steps=n_steps,
            target_update_interval=target_update_interval,
            exploration_initial_eps=exploration_initial_eps,
            exploration_final_eps=exploration_final_eps,
            exploration_fraction=exploration_fraction,
            max_grad_norm=max_grad_norm,  # type: ignore[arg-type]
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=_init_setup_model,
        )

    # ---- building

    def _setup_model(self) -> None:
        super()._setup_model()
        if self.prioritized and not isinstance(self.replay_buffer, PrioritizedFrameReplayBuffer):
            raise ValueError(
                f"prioritized=True needs a PrioritizedFrameReplayBuffer, not {type(self.replay_buffer).__name__}: leave "
                "replay_buffer_class out, or pass prioritized=False"
            )
        if isinstance(self.replay_buffer, FrameReplayBuffer):
            self.replay_buffer.check_model(self)
        # apart from the global streams: evaluations must not disturb a training. A loaded model goes on with its own.
        if not hasattr(self, "_evaluation_random"):
            self._evaluation_random = np.random.default_rng(self.objective_seed)
        if self.objective_blueprint is not None and self.objective_weight > 0:
            self._setup_objective(self.objective_blueprint)

    def _setup_objective(self, blueprint: Objective) -> None:
        objective, data = self._new_objective(blueprint, self.objective_seed)
        self.objective, self._objective_data = objective, data
        heads = [parameter for parameter in objective.parameters() if parameter.requires_grad]
        if heads:
            self.policy.optimizer.add_param_group({"params": heads})

    def _new_objective(self, blueprint: Objective, seed: int) -> Any:
        """A copy of it, built on the agent's encoder, and what answers its requests."""
        assert self.replay_buffer is not None
        network = self.q_net
        space = check_image_space(self.observation_space, not self.policy.normalize_images, "Rainbow")
        extractor = network.features_extractor
        encoder: ModelEncoder
        if not isinstance(extractor, BodyHeadEncoder):
            encoder = ModelEncoder(extractor, space, self.policy.normalize_images)
        elif blueprint.request.kind == "sequence":
            encoder = QProjectionEncoder(extractor, network.first_layers(), space, self.policy.normalize_images)
        else:
            encoder = LeanEncoder(extractor, space, self.policy.normalize_images)
        both = Spaces(space, self.action_space)
        return build_inside(blueprint, encoder, both, self.replay_buffer, self.device, seed)

    # ---- acting

    def _sample_action(self, learning_starts: int, *args: Any, **kwargs: Any) -> tuple[np.ndarray, np.ndarray]:
        self.q_net.reset_noise()
        return super()._sample_action(learning_starts if self.random_start else 0, *args, **kwargs)

    def _on_step(self) -> None:
        super()._on_step()
        if self.exploration_steps is not None:
            done = min(1.0, max(0, self.num_timesteps - self.learning_starts) / self.exploration_steps)
            self.exploration_rate = (1.0 - done) * self.exploration_initial_eps + done * self.exploration_final_eps
            self.logger.record("rollout/exploration_rate", self.exploration_rate)

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """See SB3. Noisy unless ``deterministic``, and then random with probability ``evaluation_eps``."""
        actions, state = super().predict(observation, state, episode_start, deterministic)
        if deterministic and self.evaluation_eps > 0:
            random = self._evaluation_random.random(np.shape(actions)) < self.evaluation_eps
            others = self._evaluation_random.integers(self.q_net.n_actions, size=np.shape(actions))
            actions = np.where(random, others, actions)
        return actions, state

    # ---- the update

    @property
    def beta(self) -> float:
        """Exponent of the importance weights."""
        updating = self._total_timesteps - self.learning_starts
        done = min(1.0, max(0, self.num_timesteps - self.learning_starts) / max(1, updating))
        return self.beta_start + (self.beta_end - self.beta_start) * done

    def train(self, gradient_steps: int, batch_size: int = 32) -> None:
        """
        :param gradient_steps: updates
        :param batch_size: transitions in each
        :raises FloatingPointError: when a loss is no finite number any more
        """
        assert self.replay_buffer is not None
        self.policy.set_training_mode(True)
        # noise in the target network too, which is never moved
        self.q_net_target.train(True)
        self._update_learning_rate(self.policy.optimizer)
        for _ in range(gradient_steps):
            if isinstance(self.replay_buffer, PrioritizedFrameReplayBuffer) and self.prioritized:
                samples = self.replay_buffer.sample_prioritized(batch_size, self.beta, self._vec_normalize_env)
                priorities = self._update(samples.data, samples)  # type: ignore[arg-type]
                self.replay_buffer.update_priorities(samples.items, priorities.cpu().numpy())
            else:
                data = self.replay_buffer.sample(batch_size, env=self._vec_normalize_env)
                self._update(data, None)
            self._end_update()
            if self._resets_now:
                self.reset_networks()
        self.q_net_target.train(False)

    def _update(self, data: ReplayBufferSamples, drawn: PrioritizedSamples | None) -> th.Tensor:
        """One step; priorities of the transitions, ``(batch,)``, without a graph."""
        target = self._targets(data)
        network, objective = self.q_net, self.objective
        sees_map = objective is not None and drawn is not None and objective.request.kind == "sequence"
        sees_map = sees_map and isinstance(network.features_extractor, BodyHeadEncoder)
        feature_map = network.encode_map(data.observations) if sees_map else None
        if feature_map is not None:
            features = network.features_extractor.forward_head(feature_map)  # type: ignore[operator]
        else:
            features = network.encode(data.observations)
        logits = network.logits(features)
        chosen = logits[th.arange(len(logits), device=self.device), data.actions.long().flatten()]
        losses = self._rl_losses(chosen, target)
        self._means.add({"train/q_mean": network.values(logits.detach()).mean(), "train/rl_loss": losses.mean()})
        apart: th.Tensor | float = 0.0
        if objective is not None:
            extra, metrics = self._objective_loss(data, drawn, feature_map)
            self._means.add({f"repr/{objective.name}_{key}": value for key, value in metrics.items()})
            if objective.request.kind == "views":
                losses = losses + self.objective_weight * extra
            else:
                apart = self.objective_weight * extra
        loss = (losses.mean() if drawn is None else (drawn.weights * losses).mean()) + apart
        self.policy.optimizer.zero_grad()
        loss.backward()
        if self.max_grad_norm is not None:
            for parameters in self._clipped_together():
                th.nn.utils.clip_grad_norm_(parameters, self.max_grad_norm)
        self.policy.optimizer.step()
        if objective is not None:
            objective.after_step()
        self._means.add({"train/loss": loss})
        if self.priority == "kl" and network.n_atoms > 1:
            return categorical_divergence(target, chosen.detach())
        return losses.detach()

    def _objective_loss(
        self, data: ReplayBufferSamples, drawn: PrioritizedSamples | None, feature_map: th.Tensor | None
    ) -> tuple[th.Tensor, dict[str, th.Tensor]]:
        assert self.objective is not None and self.replay_buffer is not None
        if drawn is not None and self.objective.request.kind == "sequence":
            slots, env = np.divmod(drawn.items, self.replay_buffer.n_envs)
            windows = self._objective_data.beginning_with(slots, env, drawn.weights, self.device, self._n_updates)
            return self.objective.loss(windows, feature_map)
        batch = PixelBatch(
            data.observations,
            data.observations,
            data.next_observations,
            data.actions,
            data.rewards,
            data.dones,
            self.gamma,
        )
        return self.objective.loss(self._objective_data(batch, self._n_updates))

    def _clipped_together(self) -> list[list[th.nn.Parameter]]:
        """Parameters by the norms that their gradients are clipped to."""
        if self.clip == "joint":
            return [[p for group in self.policy.optimizer.param_groups for p in group["params"]]]
        transition = getattr(self.objective, "transition", None)
        return [list(self.q_net.parameters()), *([] if transition is None else [list(transition.parameters())])]

    @th.no_grad()
    def _targets(self, data: ReplayBufferSamples) -> th.Tensor:
        """
        What the actions that were taken are worth, with the online network's noise drawn anew for the update.

        :param data: the batch
        :return: ``(batch, atoms)``: distributions, or values where there is one atom
        """
        network, rows = self.q_net, th.arange(len(data.rewards), device=self.device)
        network.reset_noise()
        if self.target_update_interval == 1:
            features = network.encode(data.next_observations)
            next_logits = network.logits(features)
            values = network.values(next_logits)
            if network.noisy:
                network.reset_noise()
                values = network.values(network.logits(features)) if self.double else values
        else:
            self.q_net_target.reset_noise()
            next_logits = self.q_net_target.logits_of(data.next_observations)
            values = network(data.next_observations) if self.double else self.q_net_target.values(next_logits)
        best = next_logits[rows, values.argmax(dim=1)]
        discounts = (1.0 - data.dones) * (self.gamma if data.discounts is None else data.discounts)
        if network.n_atoms == 1:
            return data.rewards + discounts * best
        return project_distribution(best.softmax(dim=1), data.rewards.flatten(), discounts.flatten(), network.support)

    def _rl_losses(self, chosen: th.Tensor, target: th.Tensor) -> th.Tensor:
        """
        :param chosen: ``(batch, atoms)`` logits of the actions that were taken
        :param target: from :meth:`_targets`
        :return: ``(batch,)``
        """
        if self.q_net.n_atoms == 1:
            return F.smooth_l1_loss(chosen, target, reduction="none").flatten()
        return categorical_cross_entropy(target, chosen)

    # ---- resets

    @property
    def _resets_now(self) -> bool:
        if self.reset_every is None or self._n_updates % self.reset_every:
            return False
        per_step = self._n_updates / max(1, self.num_timesteps - self.learning_starts)
        left = (self._total_timesteps - self.num_timesteps) * per_step
        return left >= self.reset_every / 2

    def reset_networks(self) -> None:
        """What ``reset_every`` does. Draws come from the run's seed and the number of the update: nothing needs saving."""
        seed = int(np.random.SeedSequence((self.objective_seed, self._n_updates, 1)).generate_state(1)[0])
        with isolated_random(self.device, seed):
            fresh = self.policy.make_q_net()
        for name, part in self.q_net.named_children():
            whole = name == "features_extractor"
            shrink_and_perturb(part, fresh.get_submodule(name), self.reset_keep if whole else 0.0)
        ema_update(self.q_net_target, self.q_net, 1.0)
        objective = self.objective
        if objective is not None:
            assert self.objective_blueprint is not None
            new, _ = self._new_objective(self.objective_blueprint, seed)
            for name, part in objective.named_children():
                shrink_and_perturb(part, new.get_submodule(name), self.reset_keep if name == "transition" else 0.0)
            own, its = (list(module.parameters(recurse=False)) for module in (objective, new))
            with th.no_grad():
                for parameter, start in zip(own, its, strict=True):
                    parameter.copy_(start)
        forget_steps(self.policy.optimizer, [p for group in self.policy.optimizer.param_groups for p in group["params"]])

    # ---- logging, saving

    def record_metrics(self) -> None:
        """See :meth:`crl.agents.logged_means.LogsMeans.record_metrics`."""
        super().record_metrics()
        self.logger.record("train/beta", self.beta)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "objective", "_objective_data"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        names, variables = super()._get_torch_save_params()
        return names + (["objective"] if self.objective is not None else []), variables

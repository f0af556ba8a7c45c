"""Rainbow (Hessel et al. 2018, arXiv:1710.02298) on SB3's DQN, with an objective inside its update."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

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
from crl.agents.rainbow_policy import RainbowNetwork, RainbowPolicy
from crl.contract import Objective, Spaces
from crl.encoders import ModelEncoder, check_image_space
from crl.losses.categorical import categorical_cross_entropy, project_distribution
from crl.networks.noisy import reset_noise
from crl.replay import FrameReplayBuffer
from crl.replay.prioritized import PrioritizedFrameReplayBuffer


class Rainbow(NStepReplay, LogsMeans, DQN):
    """
    Distributional, dueling, noisy, double Q-learning on n-step returns from prioritised replay. Each part is a switch: those
    of the network are the policy's (:class:`crl.agents.rainbow_policy.RainbowNetwork`), ``double``, ``n_steps`` and
    ``prioritized`` are here. The defaults are data-efficient Rainbow's (van Hasselt et al. 2019, arXiv:1906.05243) as CURL
    has them.

    With an objective, its loss is added to the loss of every transition, as in CURL's code: importance weights scale it, and
    priorities hold it.

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
    :param target_update_interval: agent steps between two copies into the target network
    :param exploration_initial_eps: of epsilon-greedy beside the noise
    :param exploration_final_eps: likewise
    :param exploration_fraction: see SB3
    :param max_grad_norm: see SB3
    :param double: the online network chooses the next action, the target network values it
    :param prioritized: draw by priorities
    :param beta_start: exponent of the importance weights at the beginning; it rises to 1 over the training
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
        max_grad_norm: float = 10.0,
        *,
        double: bool = True,
        prioritized: bool = True,
        beta_start: float = 0.4,
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
        if not 0.0 <= beta_start <= 1.0 or not 0.0 <= evaluation_eps <= 1.0:
            raise ValueError(f"beta_start={beta_start}, evaluation_eps={evaluation_eps}: both lie in [0, 1]")
        if objective is not None and (not isinstance(objective, Objective) or objective.is_built):
            raise ValueError(f"objective={objective!r}: a new instance of crl.contract.Objective, for example CURLRainbow()")
        if not objective_weight >= 0:
            raise ValueError(f"objective_weight={objective_weight}: must not be negative")
        self.double = double
        self.prioritized = prioritized
        self.beta_start = beta_start
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
            max_grad_norm=max_grad_norm,
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
        # apart from the global streams: evaluations must not disturb a training
        self._evaluation_random = np.random.default_rng(self.objective_seed)
        if self.objective_blueprint is not None and self.objective_weight > 0:
            self._setup_objective(self.objective_blueprint)

    def _setup_objective(self, blueprint: Objective) -> None:
        assert self.replay_buffer is not None
        space = check_image_space(self.observation_space, not self.policy.normalize_images, "Rainbow")
        encoder = ModelEncoder(self.q_net.features_extractor, space, self.policy.normalize_images)
        both = Spaces(space, self.action_space)
        objective, data = build_inside(blueprint, encoder, both, self.replay_buffer, self.device, self.objective_seed)
        self.objective, self._objective_data = objective, data
        heads = [parameter for parameter in objective.parameters() if parameter.requires_grad]
        if heads:
            self.policy.optimizer.add_param_group({"params": heads})

    # ---- acting

    def _sample_action(self, learning_starts: int, *args: Any, **kwargs: Any) -> tuple[np.ndarray, np.ndarray]:
        reset_noise(self.q_net)
        return super()._sample_action(learning_starts, *args, **kwargs)

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
        """Exponent of the importance weights: linear over the training."""
        return 1.0 - (1.0 - self.beta_start) * self._current_progress_remaining

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
                losses = self._update(samples.data, samples.weights)  # type: ignore[arg-type]
                self.replay_buffer.update_priorities(samples.items, losses.cpu().numpy())
            else:
                data = self.replay_buffer.sample(batch_size, env=self._vec_normalize_env)
                self._update(data, None)
            self._end_update()
        self.q_net_target.train(False)

    def _update(self, data: ReplayBufferSamples, weights: th.Tensor | None) -> th.Tensor:
        """One step; losses of the transitions, ``(batch,)``, without a graph."""
        reset_noise(self.q_net)
        logits = self.q_net.logits_of(data.observations)
        chosen = logits[th.arange(len(logits), device=self.device), data.actions.long().flatten()]
        losses = self._rl_losses(chosen, data)
        self._means.add({"train/q_mean": self.q_net.values(logits.detach()).mean(), "train/rl_loss": losses.mean()})
        if self.objective is not None:
            batch = PixelBatch(
                data.observations,
                data.observations,
                data.next_observations,
                data.actions,
                data.rewards,
                data.dones,
                self.gamma,
            )
            extra, metrics = self.objective.loss(self._objective_data(batch, self._n_updates))
            losses = losses + self.objective_weight * extra
            self._means.add({f"repr/{self.objective.name}_{key}": value for key, value in metrics.items()})
        loss = losses.mean() if weights is None else (weights * losses).mean()
        self.policy.optimizer.zero_grad()
        loss.backward()
        parameters = [p for group in self.policy.optimizer.param_groups for p in group["params"]]
        th.nn.utils.clip_grad_norm_(parameters, self.max_grad_norm)
        self.policy.optimizer.step()
        if self.objective is not None:
            self.objective.after_step()
        self._means.add({"train/loss": loss})
        return losses.detach()

    def _rl_losses(self, chosen: th.Tensor, data: ReplayBufferSamples) -> th.Tensor:
        """
        :param chosen: ``(batch, atoms)`` logits of the actions that were taken
        :param data: the batch
        :return: ``(batch,)``
        """
        discounts = (1.0 - data.dones) * (self.gamma if data.discounts is None else data.discounts)
        with th.no_grad():
            reset_noise(self.q_net_target)
            next_logits = self.q_net_target.logits_of(data.next_observations)
            values = self.q_net(data.next_observations) if self.double else self.q_net_target.values(next_logits)
            best = next_logits[th.arange(len(next_logits), device=self.device), values.argmax(dim=1)]
            if self.q_net.n_atoms == 1:
                target = data.rewards + discounts * best
            else:
                target = project_distribution(
                    best.softmax(dim=1), data.rewards.flatten(), discounts.flatten(), self.q_net.support
                )
        if self.q_net.n_atoms == 1:
            return F.smooth_l1_loss(chosen, target, reduction="none").flatten()
        return categorical_cross_entropy(target, chosen)

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

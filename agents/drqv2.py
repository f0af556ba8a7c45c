"""DrQ-v2: deterministic policy gradients from augmented pixels."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch as th
import torch.nn.functional as F
from stable_baselines3 import TD3
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.noise import ActionNoise, NormalActionNoise
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule

from crl.agents.batches import PixelBatch, draw_batch
from crl.agents.drqv2_policy import DrQv2Actor, DrQv2Policy, DrQv2TargetCritic
from crl.agents.encoder_report import gradient_report
from crl.agents.n_step_replay import NStepReplay
from crl.agents.pixel_agent import PixelAgent, all_q
from crl.agents.scheduled_noise import linear_std, noisy_action
from crl.policies import PixelCritic
from crl.replay import FrameReplayBuffer


class DrQv2(NStepReplay, PixelAgent, TD3):
    """
    DrQ-v2 (Yarats et al. 2021, arXiv:2107.09645): DDPG with two Q networks, n-step returns, shifted images and noise that
    falls over time.

    An update is: one step of critic and encoder on ``R_n + discount^n * min Q_target(h', a')``, where h' is the next
    observation as the *online* conv body sees it and a' the actor's action with clipped noise; one step of the actor, on
    features from before the encoder's step; EMA of the target's trunk and Q networks. Adam works parameter by parameter, so
    that the one which steps encoder and critic is the same as the published two.

    Actions are uniform for ``learning_starts`` agent steps, then the actor's with noise that is not clipped; ``predict()``
    gives them without noise.

    Two differences from the authors' repository, both in the replay: it samples an episode and then a step in it, of finished
    episodes alone, where here every stored transition is equally likely; and it samples full windows of n steps only, where
    here a window that reaches the end of an episode is shorter, as in SB3's n-step buffer. Time limits do not count as the end
    of the returns in either.

    Logged beside SB3's keys: ``train/q_mean``, ``train/exploration_std``, ``train/replay_ratio`` (updates per agent step so
    far); and every ``metrics_interval`` updates ``repr/rl_grad_norm`` on the encoder, ``repr/effective_rank``,
    ``repr/embedding_std``, ``repr/dormant_filters``, ``train/dormant_q_units``.

    :param policy: ``"PixelPolicy"`` (:class:`crl.agents.drqv2_policy.DrQv2Policy`) or a subclass of it
    :param env: with channels-first images and continuous actions
    :param learning_rate: of actor, critic and encoder; 8e-5 for humanoids; or a schedule
    :param buffer_size: transitions; 1,000,000 as published take 22 GB at 84x84
    :param learning_starts: random agent steps before the first update
    :param batch_size: transitions; 512 for walkers
    :param tau: EMA rate of the target's trunk and Q networks
    :param gamma: discount
    :param train_freq: agent steps between two lots of updates; see SB3
    :param gradient_steps: updates in a lot; see SB3
    :param replay_buffer_class: None takes :class:`crl.replay.FrameReplayBuffer`; another has to take ``n_steps`` and ``gamma``
    :param replay_buffer_kwargs: ``dict(augment=RandomShift(4))`` is published; its ``n_steps`` and ``gamma`` are set from here
    :param n_steps: length of the returns, 1 for walkers
    :param std_start: standard deviation of the noise at agent step 0
    :param std_end: and from step ``std_steps`` on
    :param std_steps: agent steps between the two: 100,000 for easy tasks, 500,000 for medium, 2,000,000 for hard ones
    :param noise_clip: of the noise in updates; exploration does not clip
    :param metrics_interval: updates between two looks at gradients and activity; none in between waits for the device
    :param stats_window_size: see SB3
    :param tensorboard_log: see SB3
    :param policy_kwargs: of the policy
    :param verbose: see SB3
    :param seed: see SB3
    :param device: see SB3
    :param _init_setup_model: see SB3
    :raises ValueError: for values out of range and combinations that make no sense; says which
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"PixelPolicy": DrQv2Policy}
    policy: DrQv2Policy
    actor: DrQv2Actor
    critic: PixelCritic
    critic_target: DrQv2TargetCritic

    def __init__(
        self,
        policy: str | type[DrQv2Policy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 1e-4,
        buffer_size: int = 1_000_000,
        learning_starts: int = 2000,
        batch_size: int = 256,
        tau: float = 0.01,
        gamma: float = 0.99,
        train_freq: int | tuple[int, str] = 2,
        gradient_steps: int = 1,
        replay_buffer_class: type[ReplayBuffer] | None = None,
        replay_buffer_kwargs: dict[str, Any] | None = None,
        n_steps: int = 3,
        *,
        std_start: float = 1.0,
        std_end: float = 0.1,
        std_steps: int = 500_000,
        noise_clip: float = 0.3,
        metrics_interval: int = 100,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        if min(n_steps, std_steps, metrics_interval) < 1:
            raise ValueError(f"n_steps={n_steps}, std_steps={std_steps}, metrics_interval={metrics_interval}: at least 1")
        if not 0.0 <= tau <= 1.0:
            raise ValueError(f"tau={tau}: an EMA rate lies in [0, 1]")
        if not min(std_start, std_end, noise_clip) >= 0.0:
            raise ValueError(f"std_start={std_start}, std_end={std_end}, noise_clip={noise_clip}: none may be negative")
        self.std_start = std_start
        self.std_end = std_end
        self.std_steps = std_steps
        self.noise_clip = noise_clip
        self.metrics_interval = metrics_interval
        super().__init__(
            policy,
            env,
            learning_rate=learning_rate,
            buffer_size=buffer_size,
            learning_starts=learning_starts,
            batch_size=batch_size,
            tau=tau,
            gamma=gamma,
            train_freq=train_freq,
            gradient_steps=gradient_steps,
            replay_buffer_class=replay_buffer_class or FrameReplayBuffer,
            replay_buffer_kwargs=replay_buffer_kwargs,
            n_steps=n_steps,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=_init_setup_model,
        )

    # ---- building

    def _create_aliases(self) -> None:
        self.actor = self.policy.actor
        self.critic = self.policy.critic
        self.critic_target = self.policy.critic_target
        # there is no target actor; TD3 asks for one when it looks for running statistics
        self.actor_target = self.actor

    # ---- exploration

    @property
    def exploration_std(self) -> float:
        """Standard deviation of the noise at this agent step."""
        return linear_std(self.num_timesteps, self.std_start, self.std_end, self.std_steps)

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        """See SB3, which would add noise to the uniform actions of the beginning too."""
        if self.num_timesteps >= learning_starts:
            shape = (n_envs, *self.action_space.shape)  # type: ignore[misc]
            action_noise = NormalActionNoise(np.zeros(shape), np.full(shape, self.exploration_std))
        return super()._sample_action(learning_starts, action_noise, n_envs)

    # ---- the update

    def train(self, gradient_steps: int, batch_size: int = 256) -> None:
        """
        :param gradient_steps: updates
        :param batch_size: transitions in each
        :raises FloatingPointError: when a loss is no finite number any more (looked at every ``metrics_interval`` updates)
        """
        assert self.replay_buffer is not None
        self.policy.set_training_mode(True)
        self._update_learning_rate([self.actor.optimizer, self.critic.optimizer])
        self.logger.record("train/exploration_std", self.exploration_std)
        for _ in range(gradient_steps):
            batch = draw_batch(self.replay_buffer, batch_size, self.gamma, self._vec_normalize_env)
            feature_map = self.encoder.forward_body(self._network_input(batch.obs))
            self._critic_step(batch, feature_map)
            self._actor_step(feature_map.detach())
            self.critic_target.follow(self.critic, self.tau)
            self._end_update()

    def _critic_step(self, batch: PixelBatch, feature_map: th.Tensor) -> None:
        """One step of critic and encoder."""
        targets = self._target_values(batch)
        features = self.encoder.forward_head(feature_map)
        q_input = th.cat([features, batch.actions], dim=1)
        q_values = all_q(self.critic, q_input)
        loss = th.stack([F.mse_loss(q, targets) for q in q_values]).sum()
        self.critic.optimizer.zero_grad()
        loss.backward()
        if self._looks:
            gradients = [parameter.grad for parameter in self.encoder.parameters() if parameter.grad is not None]
            self._means.add(gradient_report(gradients, None))
            self._report_activity(features, feature_map, q_input)
        self.critic.optimizer.step()
        self._means.add({"train/critic_loss": loss, "train/q_mean": q_values.mean()})

    @th.no_grad()
    def _target_values(self, batch: PixelBatch) -> th.Tensor:
        """``R_n + (1 - done) * discount^n * min Q_target(s', a')``, ``(batch, 1)``."""
        next_map = self.encoder.forward_body(self._network_input(batch.next_obs))
        next_q = self.critic_target.min_q(next_map, self._explore(next_map))
        return batch.rewards + (1.0 - batch.dones) * batch.discounts * next_q

    def _actor_step(self, feature_map: th.Tensor) -> None:
        """
        One step of the actor on Q values of the critic as it is now.

        :param feature_map: without a graph, from before the encoder's step
        """
        self._step_actor(-self._value(feature_map, self._explore(feature_map)).mean())

    def _explore(self, feature_map: th.Tensor) -> th.Tensor:
        """The actor's actions with clipped noise, from torch's global generator; ``(batch, action_dim)``."""
        mean = self.actor.mean(feature_map)
        return noisy_action(mean, self.exploration_std, th.randn_like(mean), self.noise_clip)

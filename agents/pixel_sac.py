"""SAC from pixels with an objective inside its update: CURL, and everything that is compared with it."""

from __future__ import annotations

import copy
from typing import Any, ClassVar, Literal

import numpy as np
import torch as th
import torch.nn.functional as F
from stable_baselines3 import SAC
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from torch import nn

from crl.agents.batches import PixelBatch, build_inside, draw_batch
from crl.agents.encoder_report import encoder_gradients, gradient_report
from crl.agents.network_input import LeanEncoder
from crl.agents.pixel_agent import PixelAgent, all_q, min_q
from crl.agents.rescaled_policy import RescaledSACActor, RescaledSACPolicy
from crl.contract import Metrics, Objective, Spaces
from crl.encoders import BodyHeadEncoder, check_image_space
from crl.networks import FusedAdam, ema_update
from crl.policies import PixelCritic
from crl.replay import FrameReplayBuffer

#: updates between two looks at both gradients, where their ratio is to be balanced
BALANCE_PERIOD = 25


class PixelSAC(PixelAgent, SAC):
    """
    SAC (Haarnoja et al. 2018, arXiv:1812.05905) on one pixel encoder, and an objective that trains it too.

    An update is: critic; at every ``actor_period``-th one actor and temperature; at every ``target_period``-th one the EMA of
    the targets. The objective takes part in one of two ways:

    - ``joint=True``: the critic's pass over the observations is the objective's anchor as well. One sum of losses, one
      backward, one Adam step on the encoder.
    - ``joint=False``: as in CURL's code (Laskin et al. 2020, arXiv:2004.04136), a step of its own ends the update, and *two*
      Adams step the encoder with the same gradient (https://github.com/MishaLaskin/curl/issues/20).

    Nothing is computed that nobody uses: the actor's gradients stop at the critic's head and Q networks; with
    ``objective_weight=0`` the objective is left out altogether; an encoder that nobody moves is run without a graph, and once
    for online and target network. Losses, heads, Q networks and optimisers are float32; see ``precision`` of the encoder for
    its conv body.

    Logged beside SB3's keys: ``train/alpha`` (SB3's ``ent_coef``), ``train/q_mean``, ``train/entropy``,
    ``train/replay_ratio`` (updates per agent step so far); ``repr/<objective>_*``; and every ``metrics_interval`` updates
    ``repr/rl_grad_norm``, ``repr/objective_grad_norm``, ``repr/grad_ratio``, ``repr/grad_cosine`` on the encoder,
    ``repr/effective_rank``, ``repr/embedding_std``, ``repr/dormant_filters``, ``train/dormant_q_units``.

    :param policy: ``"PixelPolicy"`` (:class:`RescaledSACPolicy`) or a subclass of it; CURL and DrQ have
        ``policy_kwargs=dict(net_arch=[1024, 1024])``
    :param env: with channels-first images and continuous actions
    :param learning_rate: of actor and critic, 1e-3 in CURL (2e-4 on cheetah-run); or a schedule
    :param buffer_size: transitions
    :param learning_starts: random agent steps before the first update
    :param batch_size: transitions; 512 in CURL
    :param tau: EMA rate of the target Q networks
    :param gamma: discount
    :param train_freq: see SB3
    :param gradient_steps: see SB3
    :param replay_buffer_class: None takes :class:`crl.replay.FrameReplayBuffer`
    :param replay_buffer_kwargs: e.g. ``dict(augment=RandomCrop(84))``
    :param ent_coef: see SB3
    :param target_entropy: see SB3
    :param encoder_tau: EMA rate of the target encoder (convolutions and head)
    :param actor_period: updates between two of actor and temperature, counted over the whole training (SB3 counts its
        ``target_update_interval`` within one call of ``train()``, where it has no effect for ``gradient_steps=1``)
    :param target_period: updates between two EMA steps, counted likewise
    :param ent_coef_learning_rate: of the temperature's Adam; None takes ``learning_rate``
    :param ent_coef_beta1: first beta of the temperature's Adam
    :param ent_coef_loss: ``"alpha"`` multiplies the temperature (CURL, DrQ), ``"log_alpha"`` its logarithm (SB3)
    :param critic_before_actor: CURL's order. False: SB3's, in which the actor samples, and the temperature is stepped, before
        the critic's step; Q values in the actor's loss come from the stepped critic in both.
    :param critic_loss_factor: of the sum of both mean squared errors: 1 in CURL, 0.5 in SB3
    :param reuse_features: the actor's loss looks at the conv features that the critic's pass left, from before the critic's
        step, and saves a pass. Changes numbers where the critic's step moves the convolutions; where it does not
        (``encoder_gradient="actor"``, or nobody moves them) they are reused anyway.
    :param online_views: augmented views of each observation in the critic's loss, which is the sum over them (M of DrQ,
        Kostrikov et al. 2021, arXiv:2004.13649)
    :param target_views: augmented views of each next observation, over which the target is averaged (K of DrQ)
    :param objective: e.g. ``CURL(keys="target")``; a copy is trained and saved with the model
    :param objective_weight: factor of the objective's loss in the joint sum; of the encoder's learning rate in its own steps
        (Adam would undo a factor of the loss). 0: no objective.
    :param balance: ``joint=True`` only: scales the objective so that its gradient on the encoder has this multiple of the
        critic's norm (running means, measured every 25 updates), times ``objective_weight``. None: plain weight.
    :param joint: see above
    :param objective_learning_rate: of the objective's heads, and of its own steps on the encoder; None takes
        ``learning_rate``
    :param metrics_interval: updates between two looks at gradients and activity; none in between waits for the device
    :param stats_window_size: see SB3
    :param tensorboard_log: see SB3
    :param policy_kwargs: of the policy
    :param verbose: see SB3
    :param seed: see SB3; also of the objective's own draws
    :param device: see SB3
    :param _init_setup_model: see SB3
    :raises ValueError: for values out of range and combinations that make no sense; says which
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"PixelPolicy": RescaledSACPolicy}
    policy: RescaledSACPolicy
    actor: RescaledSACActor
    critic: PixelCritic
    critic_target: PixelCritic

    def __init__(
        self,
        policy: str | type[RescaledSACPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 1e-3,
        buffer_size: int = 100_000,
        learning_starts: int = 1000,
        batch_size: int = 128,
        tau: float = 0.01,
        gamma: float = 0.99,
        train_freq: int | tuple[int, str] = 1,
        gradient_steps: int = 1,
        replay_buffer_class: type[ReplayBuffer] | None = None,
        replay_buffer_kwargs: dict[str, Any] | None = None,
        ent_coef: str | float = "auto_0.1",
        target_entropy: str | float = "auto",
        *,
        encoder_tau: float = 0.05,
        actor_period: int = 2,
        target_period: int = 2,
        ent_coef_learning_rate: float | None = 1e-4,
        ent_coef_beta1: float = 0.5,
        ent_coef_loss: Literal["alpha", "log_alpha"] = "alpha",
        critic_before_actor: bool = True,
        critic_loss_factor: float = 1.0,
        reuse_features: bool = False,
        online_views: int = 1,
        target_views: int = 1,
        objective: Objective | None = None,
        objective_weight: float = 1.0,
        balance: float | None = None,
        joint: bool = True,
        objective_learning_rate: float | None = None,
        metrics_interval: int = 100,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        if min(actor_period, target_period, metrics_interval) < 1:
            raise ValueError(
                f"actor_period={actor_period}, target_period={target_period}, metrics_interval={metrics_interval}: at least 1"
            )
        if not 0.0 <= tau <= 1.0 or not 0.0 <= encoder_tau <= 1.0:
            raise ValueError(f"tau={tau}, encoder_tau={encoder_tau}: EMA rates lie in [0, 1]")
        if min(online_views, target_views) < 1:
            raise ValueError(f"online_views={online_views}, target_views={target_views}: at least 1")
        if ent_coef_loss not in ("alpha", "log_alpha"):
            raise ValueError(f"ent_coef_loss={ent_coef_loss!r}: choose 'alpha' or 'log_alpha'")
        if objective is not None and (not isinstance(objective, Objective) or objective.is_built):
            raise ValueError(f"objective={objective!r}: a new instance of crl.contract.Objective, for example CURL()")
        if not objective_weight >= 0 or not critic_loss_factor > 0:
            raise ValueError(f"objective_weight={objective_weight} must be >= 0, critic_loss_factor={critic_loss_factor} > 0")
        if balance is not None and (not joint or not balance > 0):
            raise ValueError(f"balance={balance}: a positive ratio, and only with joint=True (Adam undoes a factor)")
        self.encoder_tau = encoder_tau
        self.actor_period = actor_period
        self.target_period = target_period
        self.ent_coef_learning_rate = ent_coef_learning_rate
        self.ent_coef_beta1 = ent_coef_beta1
        self.ent_coef_loss = ent_coef_loss
        self.critic_before_actor = critic_before_actor
        self.critic_loss_factor = critic_loss_factor
        self.reuse_features = reuse_features
        self.online_views = online_views
        self.target_views = target_views
        #: as it was passed in; saved with the model, to build :attr:`objective` from
        self.objective_blueprint = copy.deepcopy(objective)
        #: the one that is trained; None without objective, and with weight 0
        self.objective: Objective | None = None
        self.objective_weight = objective_weight
        self.balance = balance
        self.joint = joint
        self.objective_learning_rate = objective_learning_rate
        self.metrics_interval = metrics_interval
        self.objective_seed = int(np.random.SeedSequence(seed).generate_state(1)[0])
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
            ent_coef=ent_coef,
            target_entropy=target_entropy,
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
        if max(self.online_views, self.target_views) > 1 and getattr(self.replay_buffer, "augment", None) is None:
            raise ValueError(
                f"online_views={self.online_views}, target_views={self.target_views}: several views need a replay buffer that "
                "augments: replay_buffer_kwargs=dict(augment=RandomShift(4))"
            )
        if self.ent_coef_optimizer is not None:
            assert self.log_ent_coef is not None
            rate = self.lr_schedule(1) if self.ent_coef_learning_rate is None else self.ent_coef_learning_rate
            self.ent_coef_optimizer = th.optim.Adam([self.log_ent_coef], lr=rate, betas=(self.ent_coef_beta1, 0.999))
        #: running means of the encoder gradients' norms, critic's and objective's, for ``balance``
        self.gradient_norms = th.zeros(2, device=self.device)
        if self.objective_blueprint is not None and self.objective_weight > 0:
            self._setup_objective(self.objective_blueprint)

    def _setup_objective(self, blueprint: Objective) -> None:
        if self.joint and self.encoder_gradient == "actor":
            raise ValueError("joint=True adds the objective to the critic's loss, which does not move the encoder with "
                             "encoder_gradient='actor': use joint=False")  # fmt: skip
        assert self.replay_buffer is not None
        space = check_image_space(self.observation_space, not self.policy.normalize_images, "PixelSAC")
        scale = self.policy.normalize_images
        encoder = LeanEncoder(self.encoder, space, scale, LeanEncoder(self.target_encoder, space, scale))
        both = Spaces(space, self.action_space)
        objective, data = build_inside(blueprint, encoder, both, self.replay_buffer, self.device, self.objective_seed)
        self.objective, self._objective_data = objective, data
        heads = [parameter for parameter in objective.parameters() if parameter.requires_grad]
        groups: list[dict[str, Any]] = [{"params": heads}] if heads else []
        rate = self.lr_schedule(1) if self.objective_learning_rate is None else self.objective_learning_rate
        if not self.joint:
            of_encoder = {"params": list(self.encoder.parameters()), "lr": rate * self.objective_weight}
            groups.append(dict(of_encoder))
            #: the first of the two Adams that step the encoder
            self.encoder_optimizer = FusedAdam([of_encoder])
        #: of the heads, and in steps of their own the second Adam of the encoder
        self.objective_optimizer = FusedAdam(groups, lr=rate) if groups else None

    @property
    def target_encoder(self) -> BodyHeadEncoder:
        """Its EMA, the target critic's."""
        return self.critic_target.features_extractor

    @property
    def encoder_gradient(self) -> str:
        """Whose gradient moves the conv body, see :class:`crl.policies.PixelSACPolicy`."""
        return self.policy.encoder_gradient

    # ---- the update

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """
        :param gradient_steps: updates
        :param batch_size: transitions in each
        :raises FloatingPointError: when a loss is no finite number any more (looked at every ``metrics_interval`` updates)
        """
        assert self.replay_buffer is not None
        self.policy.set_training_mode(True)
        self._set_learning_rates()
        for _ in range(gradient_steps):
            actor_turn = self._n_updates % self.actor_period == 0
            batch = draw_batch(
                self.replay_buffer, batch_size, self.gamma, self._vec_normalize_env, self.online_views, self.target_views
            )
            images = self._network_input(batch.obs)
            alpha = self._alpha()
            sample = None
            with th.set_grad_enabled(self._body_learns(actor_turn)):
                feature_map = self.encoder.forward_body(images)
            # the actor looks at the first view
            actor_map = feature_map[:batch_size]
            if actor_turn and not self.critic_before_actor:
                sample = self._sample(actor_map)
                self._alpha_step(sample[1])

            self._critic_step(batch, feature_map, alpha)

            if actor_turn:
                if self._critic_step_moves_body and not self.reuse_features:
                    with th.no_grad():
                        actor_map = self.encoder.forward_body(images[:batch_size])
                sample = sample or self._sample(actor_map)
                self._actor_step(sample, actor_map, alpha)
                if self.critic_before_actor:
                    self._alpha_step(sample[1])
            if self._n_updates % self.target_period == 0:
                self._target_step()
            if self.objective is not None and not self.joint:
                self._objective_step(batch)
            self._end_update()

    def _critic_step(self, batch: PixelBatch, feature_map: th.Tensor, alpha: th.Tensor) -> None:
        """One step of critic and encoder, with the objective in ``joint`` updates."""
        targets = self._target_values(batch, alpha)
        own_map = feature_map if self.encoder_gradient == "critic" else feature_map.detach()
        features = self.encoder.forward_head(own_map)
        q_input = th.cat([features, batch.actions.repeat(self.online_views, 1)], dim=1)
        q_values = all_q(self.critic, q_input)
        targets = targets.repeat(self.online_views, 1)
        # a mean over all views, where the sum of each view's mean is asked for
        loss = self.critic_loss_factor * self.online_views * th.stack([F.mse_loss(q, targets) for q in q_values]).sum()
        total, contrast = loss, None
        if self.objective is not None and self.joint:
            anchor = None
            if self._objective_data.shares_anchor:
                anchor = features if own_map is feature_map else self.encoder.forward_head(feature_map)
                anchor = anchor[: len(batch.raw)]
            contrast, metrics = self.objective.loss(self._objective_data(batch, self._n_updates), anchor)
            self._log_objective(metrics)
        if self._looks or (contrast is not None and self.balance is not None and self._n_updates % BALANCE_PERIOD == 0):
            self._compare_gradients(loss, contrast)
        if contrast is not None:
            total = loss + self._objective_scale() * contrast
        self.critic.optimizer.zero_grad()
        if self.objective is not None and self.objective_optimizer is not None:
            self.objective_optimizer.zero_grad()
        total.backward()
        self.critic.optimizer.step()
        if contrast is not None:
            self._after_objective_step()
        self._means.add({"train/critic_loss": loss, "train/q_mean": q_values.mean()})
        if self._looks:
            self._report_activity(features, feature_map, q_input)

    @th.no_grad()
    def _target_values(self, batch: PixelBatch, alpha: th.Tensor) -> th.Tensor:
        """
        ``r + (1 - done) * discount * (min Q_target(s', a') - alpha * log pi(a' | s'))``, the bracket averaged over views
        of s'; ``(batch, 1)``.
        """
        images = self._network_input(batch.next_obs)
        online_map = self.encoder.forward_body(images)
        actions, log_prob = self.actor.sample(online_map)
        target_map = online_map if self._target_body_is_online else self.target_encoder.forward_body(images)
        next_q = min_q(self.critic_target, self.target_encoder.forward_head(target_map), actions)
        value = (next_q - alpha * log_prob).view(self.target_views, -1, 1).mean(dim=0)
        return batch.rewards + (1.0 - batch.dones) * batch.discounts * value

    def _actor_step(self, sample: tuple[th.Tensor, th.Tensor], feature_map: th.Tensor, alpha: th.Tensor) -> None:
        """One step of the actor on Q values of the critic as it is now."""
        actions, log_prob = sample
        self._step_actor((alpha * log_prob - self._value(feature_map, actions)).mean())
        self._means.add({"train/entropy": -log_prob.mean()})

    def _alpha_step(self, log_prob: th.Tensor) -> None:
        """One step of the temperature, where it is learned."""
        self._means.add({"train/ent_coef": self._alpha(), "train/alpha": self._alpha()})
        if self.ent_coef_optimizer is None:
            return
        assert self.log_ent_coef is not None and isinstance(self.target_entropy, float)
        excess = (-log_prob - self.target_entropy).detach()
        factor = self.log_ent_coef.exp() if self.ent_coef_loss == "alpha" else self.log_ent_coef
        loss = (factor * excess).mean()
        self.ent_coef_optimizer.zero_grad()
        loss.backward()
        self.ent_coef_optimizer.step()
        self._means.add({"train/ent_coef_loss": loss})

    def _target_step(self) -> None:
        """EMA of the target critic: its encoder at one rate, its Q networks at another."""
        ema_update(self.target_encoder, self.encoder, self.encoder_tau)
        for target, online in zip(self.critic_target.q_networks, self.critic.q_networks, strict=True):
            ema_update(target, online, self.tau)

    def _objective_step(self, batch: PixelBatch) -> None:
        """The published, separate step: both Adams step the encoder with the same gradient, one of them the heads too."""
        assert self.objective is not None and self.objective_optimizer is not None
        loss, metrics = self.objective.loss(self._objective_data(batch, self._n_updates))
        self.encoder_optimizer.zero_grad()
        self.objective_optimizer.zero_grad()
        loss.backward()
        self._log_objective(metrics)
        if self._looks:
            gradients = [th.zeros_like(p) if p.grad is None else p.grad for p in self.encoder.parameters()]
            self._means.add(gradient_report(self._rl_gradients, gradients))
        self.encoder_optimizer.step()
        self._after_objective_step()

    # ---- parts of it

    def _sample(self, feature_map: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """Actions and log-probabilities with a graph to the actor, and to the body only where the actor moves it."""
        return self.actor.sample(feature_map if self.encoder_gradient == "actor" else feature_map.detach())

    def _alpha(self) -> th.Tensor:
        """The temperature, without gradient."""
        return self.ent_coef_tensor if self.log_ent_coef is None else self.log_ent_coef.detach().exp()

    @property
    def _critic_step_moves_body(self) -> bool:
        return self.encoder_gradient == "critic" or (self.objective is not None and self.joint)

    def _body_learns(self, actor_turn: bool) -> bool:
        """Whether the pass over the observations needs a graph."""
        return self._critic_step_moves_body or (self.encoder_gradient == "actor" and actor_turn)

    @property
    def _target_body_is_online(self) -> bool:
        """Nobody moves the body, so that the target's is a copy of it for ever, unless other weights were loaded into one."""
        if self.encoder_gradient != "objective" or self.objective is not None:
            return False
        pairs = zip(self.encoder.body.state_dict().values(), self.target_encoder.body.state_dict().values(), strict=True)
        return all(th.equal(online, target) for online, target in pairs)

    def _objective_scale(self) -> float | th.Tensor:
        if self.balance is None:
            return self.objective_weight
        critic, objective = self.gradient_norms
        return self.objective_weight * self.balance * critic / objective.clamp_min(1e-12)

    def _after_objective_step(self) -> None:
        assert self.objective is not None
        if self.objective_optimizer is not None:
            self.objective_optimizer.step()
        self.objective.after_step()

    def _set_learning_rates(self) -> None:
        optimizers: list[th.optim.Optimizer] = [self.actor.optimizer, self.critic.optimizer]
        if self.ent_coef_optimizer is not None and self.ent_coef_learning_rate is None:
            optimizers.append(self.ent_coef_optimizer)
        self._update_learning_rate(optimizers)
        if self.objective is None or self.objective_learning_rate is not None:
            return
        rate = self.lr_schedule(self._current_progress_remaining)
        of_encoder = {id(parameter) for parameter in self.encoder.parameters()}
        for optimizer in (self.objective_optimizer, None if self.joint else self.encoder_optimizer):
            for group in [] if optimizer is None else optimizer.param_groups:
                group["lr"] = rate * (self.objective_weight if id(group["params"][0]) in of_encoder else 1.0)

    # ---- logging

    def _compare_gradients(self, loss: th.Tensor, contrast: th.Tensor | None) -> None:
        """Gradients of both losses on the encoder, each by itself; they change nothing but the balance."""
        parameters: list[nn.Parameter] = list(self.encoder.parameters())
        rl = encoder_gradients(loss, parameters)
        self._rl_gradients = rl
        if self.objective is not None and not self.joint:
            return  # reported together with the objective's, at its own step
        report = gradient_report(rl, None if contrast is None else encoder_gradients(contrast, parameters))
        if contrast is not None and self.balance is not None:
            now = th.stack([report["repr/rl_grad_norm"], report["repr/objective_grad_norm"]])
            self.gradient_norms = now if self._n_updates == 0 else th.lerp(self.gradient_norms, now, 0.1)
        if self._looks:
            self._means.add(report)

    def _log_objective(self, metrics: Metrics) -> None:
        assert self.objective is not None
        self._means.add({f"repr/{self.objective.name}_{key}": value for key, value in metrics.items()})

    # ---- saving

    def _excluded_save_params(self) -> list[str]:
        own = ["objective", "objective_optimizer", "encoder_optimizer", "_objective_data", "_rl_gradients"]
        return [*super()._excluded_save_params(), *own]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        states, variables = super()._get_torch_save_params()
        if self.objective is not None:
            states = [*states, "objective"]
            if self.objective_optimizer is not None:
                states = [*states, "objective_optimizer"]
            if not self.joint:
                states = [*states, "encoder_optimizer"]
        return states, [*variables, "gradient_norms"]

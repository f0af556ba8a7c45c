"""SAC from pixels with an objective inside its update: CURL, and everything that is compared with it."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch as th
import torch.nn.functional as F
from crl.agents.running_means import RunningMeans
from stable_baselines3 import SAC
from stable_baselines3.common.type_aliases import GymEnv
from torch import nn

from crl.contract import Objective, Spaces, ViewBatch
from crl.encoders import BodyHeadEncoder, ModelEncoder
from crl.metrics import dormant_fraction, effective_rank, embedding_std, grad_cosine, grad_norm
from crl.networks import ema_update
from crl.policies import PixelCritic, PixelSACActor, PixelSACPolicy
from crl.replay import FrameReplayBuffer


class PixelSAC(SAC):
    """
    SAC (Haarnoja et al. 2018) with the critic's encoder shared by the actor, and an objective that shares it too.

    Two ways of updating:

    - ``joint=True``: one encoder pass over the observations serves critic, objective (its anchor) and actor (which sees the
      conv features of that pass, from before the step, without gradient); one backward; one Adam for critic, encoder and the
      objective's heads.
    - ``joint=False``: as CURL was published (and its code does it): critic step, actor and temperature step on the updated
      critic, EMA, then the contrastive step by two Adams of its own, of which both hold the encoder.

    What SB3's SAC does otherwise is kept: arguments, logging keys, saving. ``tau`` is the EMA rate of the Q heads.

    :param policy: :class:`PixelSACPolicy`
    :param env: environment with channels-first images
    :param objective: for example ``CURL(keys="target")``; None trains without one. Needs a ``FrameReplayBuffer``.
    :param objective_weight: factor of the objective's loss (``joint``), or of its encoder learning rates (else)
    :param objective_learning_rate: of the two Adams (``joint=False``)
    :param joint: see above
    :param encoder_tau: EMA rate of the target encoder, convolutions and head; None takes ``tau``
    :param actor_period: updates between two updates of actor and temperature, counted over the whole training
    :param target_period: updates between two EMA steps, counted likewise
    :param critic_loss_factor: 0.5 in SB3, 1 in CURL and DrQ
    :param ent_coef_learning_rate: of the temperature; None takes the agent's
    :param ent_coef_beta1: of the temperature's Adam: 0.9, 0.5 in CURL
    :param ent_coef_loss: ``"log_alpha"`` multiplies the logarithm (SB3), ``"alpha"`` the temperature itself (CURL, DrQ)
    :param log_interval_updates: updates between two looks at gradients and embeddings, and two lots of metrics
    :param kwargs: as SB3's ``SAC``
    :raises ValueError: for values out of range, another policy or an unsuitable replay buffer
    """

    policy: PixelSACPolicy
    actor: PixelSACActor
    critic: PixelCritic

    def __init__(
        self,
        policy: str | type[PixelSACPolicy],
        env: GymEnv | str,
        learning_rate: Any = 1e-3,
        *,
        objective: Objective | None = None,
        objective_weight: float = 1.0,
        objective_learning_rate: float = 1e-3,
        joint: bool = True,
        encoder_tau: float | None = 0.05,
        actor_period: int = 2,
        target_period: int = 2,
        critic_loss_factor: float = 1.0,
        ent_coef_learning_rate: float | None = 1e-4,
        ent_coef_beta1: float = 0.5,
        ent_coef_loss: str = "alpha",
        log_interval_updates: int = 100,
        **kwargs: Any,
    ) -> None:
        if min(actor_period, target_period, log_interval_updates) < 1:
            raise ValueError(f"actor_period={actor_period}, target_period={target_period}: at least 1 update")
        if ent_coef_loss not in ("alpha", "log_alpha"):
            raise ValueError(f"ent_coef_loss={ent_coef_loss!r}: choose 'alpha' or 'log_alpha'")
        if not objective_weight >= 0:
            raise ValueError(f"objective_weight={objective_weight}: must be >= 0")
        # The user's objective stays as it is: what is saved with the model must not be built yet
        self.objective_prototype = None if objective_weight == 0 else copy.deepcopy(objective)
        self.objective: Objective | None = None
        self.objective_weight = objective_weight
        self.objective_learning_rate = objective_learning_rate
        self.joint = joint
        self.encoder_tau = encoder_tau
        self.actor_period = actor_period
        self.target_period = target_period
        self.critic_loss_factor = critic_loss_factor
        self.ent_coef_learning_rate = ent_coef_learning_rate
        self.ent_coef_beta1 = ent_coef_beta1
        self.ent_coef_loss = ent_coef_loss
        self.log_interval_updates = log_interval_updates
        kwargs = {"ent_coef": "auto_0.1", "tau": 0.01, "batch_size": 128, "learning_starts": 1000, **kwargs}
        super().__init__(policy, env, learning_rate, **kwargs)  # type: ignore[arg-type]

    # ---- building

    def _setup_model(self) -> None:
        super()._setup_model()
        if not isinstance(self.policy, PixelSACPolicy):
            raise ValueError(f"PixelSAC needs PixelSACPolicy, got {type(self.policy).__name__}")
        if self.ent_coef_optimizer is not None:
            rate = self.lr_schedule(1) if self.ent_coef_learning_rate is None else self.ent_coef_learning_rate
            assert self.log_ent_coef is not None
            self.ent_coef_optimizer = th.optim.Adam([self.log_ent_coef], lr=rate, betas=(self.ent_coef_beta1, 0.999))
        self._means = RunningMeans()
        self._heads: list[nn.Parameter] = []
        if self.objective_prototype is not None:
            self._build_objective(self.objective_prototype)

    def _build_objective(self, prototype: Objective) -> None:
        if prototype.request.kind != "views":
            raise ValueError(
                f"PixelSAC takes objectives on views, {type(prototype).__name__} asks for {prototype.request.kind}s"
            )
        if not isinstance(self.replay_buffer, FrameReplayBuffer):
            raise ValueError("PixelSAC with an objective needs replay_buffer_class=FrameReplayBuffer")
        if self.replay_buffer.augment is None and prototype.augment is None and prototype.needs_augmentation:
            raise ValueError(
                f"{type(prototype).__name__} contrasts augmented views: pass replay_buffer_kwargs=dict(augment=...)"
            )
        space = self.observation_space
        target = ModelEncoder(self.critic_target.features_extractor, space)  # type: ignore[arg-type]
        encoder = ModelEncoder(self.encoder, space, target=target)  # type: ignore[arg-type]
        self.objective = copy.deepcopy(prototype)
        self.objective.build(encoder, Spaces(space, self.action_space))  # type: ignore[arg-type]
        self.objective.to(self.device)
        self._heads = [p for p in self.objective.parameters() if p.requires_grad]
        encoder_parameters = list(self.encoder.parameters())
        if self.joint:
            self.critic.optimizer.add_param_group({"params": self._heads})
            return
        rate = self.objective_learning_rate
        # Both hold the encoder, as in the published code: it is stepped twice by each contrastive gradient
        self.encoder_optimizer = th.optim.Adam(encoder_parameters, lr=rate * self.objective_weight)
        groups = [{"params": encoder_parameters, "lr": rate * self.objective_weight}, {"params": self._heads, "lr": rate}]
        self.objective_optimizer = th.optim.Adam(groups)

    @property
    def encoder(self) -> BodyHeadEncoder:
        """The one encoder, inside the critic."""
        return self.policy.encoder

    # ---- training

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """See SB3's ``SAC.train``."""
        self.policy.set_training_mode(True)
        self._update_learning_rate([self.actor.optimizer, self.critic.optimizer])
        update = self._joint_update if self.joint else self._published_update
        for _ in range(gradient_steps):
            self._n_updates += 1
            update(batch_size)
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        if self._n_updates % self.log_interval_updates < gradient_steps:
            self._flush_log()

    def _joint_update(self, batch_size: int) -> None:
        data, views = self._draw(batch_size)
        moves_body = self.policy.encoder_gradient == "critic"
        learns = moves_body or self.objective is not None
        with th.set_grad_enabled(learns):
            feature_map = self._feature_map(data.observations)
        # where RL's gradient must not reach the body, the critic sees the map without its history
        features = self.encoder.forward_head(feature_map if moves_body else feature_map.detach())
        rl_loss, q_mean = self._critic_loss(data, features)
        loss = rl_loss
        metrics: dict[str, th.Tensor] = {}
        contrast: th.Tensor | None = None
        if self.objective is not None:
            anchor = features if moves_body else self.encoder.forward_head(feature_map)
            contrast, metrics = self.objective.loss(ViewBatch((data.observations, *views), self._generator), anchor)
            loss = rl_loss + self.objective_weight * contrast
        if self._looks_closer:
            self._log_closer(rl_loss, contrast, features, feature_map)
        self.critic.optimizer.zero_grad()
        loss.backward()
        self.critic.optimizer.step()
        self._log(critic_loss=rl_loss, q_mean=q_mean)
        self._log_objective(metrics)
        if self._n_updates % self.actor_period == 0:
            self._actor_update(data.observations, feature_map.detach())
        if self._n_updates % self.target_period == 0:
            self._target_update()
        if self.objective is not None:
            self.objective.after_step()

    def _published_update(self, batch_size: int) -> None:
        data, views = self._draw(batch_size)
        with th.set_grad_enabled(self.policy.encoder_gradient == "critic"):
            feature_map = self._feature_map(data.observations)
        features = self.encoder.forward_head(feature_map)
        rl_loss, q_mean = self._critic_loss(data, features)
        if self._looks_closer:
            self._log_closer(rl_loss, None, features, feature_map)
        self.critic.optimizer.zero_grad()
        rl_loss.backward()
        self.critic.optimizer.step()
        self._log(critic_loss=rl_loss, q_mean=q_mean)
        if self._n_updates % self.actor_period == 0:
            with th.no_grad():
                feature_map = self._feature_map(data.observations)
            self._actor_update(data.observations, feature_map)
        if self._n_updates % self.target_period == 0:
            self._target_update()
        if self.objective is None:
            return
        loss, metrics = self.objective.loss(ViewBatch((data.observations, *views), self._generator))
        self.encoder_optimizer.zero_grad()
        self.objective_optimizer.zero_grad()
        loss.backward()
        self.encoder_optimizer.step()
        self.objective_optimizer.step()
        self.objective.after_step()
        self._log_objective(metrics)

    def _draw(self, batch_size: int) -> tuple[Any, tuple[th.Tensor, ...]]:
        if self.objective is None:
            return self.replay_buffer.sample(batch_size, env=self._vec_normalize_env), ()  # type: ignore[union-attr]
        assert isinstance(self.replay_buffer, FrameReplayBuffer)
        # the agent's own view of the observations is the anchor
        return self.replay_buffer.sample_views(batch_size, self.objective.request.views - 1, self._vec_normalize_env)

    @property
    def _generator(self) -> th.Generator:
        assert isinstance(self.replay_buffer, FrameReplayBuffer)
        return self.replay_buffer.generator

    def _feature_map(self, observations: th.Tensor) -> th.Tensor:
        """The online conv body's output."""
        return self.encoder.forward_body(observations.float() / 255.0)

    def _critic_loss(self, data: Any, features: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """Sum over both Q networks of the mean squared error against the soft target, and the mean Q value."""
        discounts = self.gamma if data.discounts is None else data.discounts
        with th.no_grad():
            next_actions, next_log_prob = self.actor.action_log_prob(data.next_observations)
            next_q = th.cat(self.critic_target(data.next_observations, next_actions), dim=1).min(dim=1, keepdim=True)[0]
            next_value = next_q - self._alpha() * next_log_prob.reshape(-1, 1)
            target = data.rewards + (1 - data.dones) * discounts * next_value
        q_input = th.cat([features, data.actions], dim=1)
        q_values = [q_net(q_input) for q_net in self.critic.q_networks]
        loss = self.critic_loss_factor * th.stack([F.mse_loss(q, target) for q in q_values]).sum()
        return loss, q_values[0].mean()

    def _alpha(self) -> th.Tensor:
        """The temperature, without gradient."""
        return self.ent_coef_tensor if self.log_ent_coef is None else self.log_ent_coef.detach().exp()

    def _actor_update(self, observations: th.Tensor, feature_map: th.Tensor) -> None:
        """
        Actor and temperature.

        :param observations: ``(batch, ...)``; only where the actor moves the body
        :param feature_map: of the observations, without gradient
        """
        moves_body = self.policy.encoder_gradient == "actor"
        with th.set_grad_enabled(True):
            own = self._feature_map(observations) if moves_body else feature_map
        mean, log_std = self.actor.gaussian(self.actor.features_extractor(own))
        actions, log_prob = self.actor.action_dist.log_prob_from_params(mean, log_std)
        log_prob = log_prob.reshape(-1, 1)
        with th.no_grad():
            features = self.encoder.forward_head(feature_map)
        q_input = th.cat([features, actions], dim=1)
        q_min = th.cat([q_net(q_input) for q_net in self.critic.q_networks], dim=1).min(dim=1, keepdim=True)[0]
        loss = (self._alpha() * log_prob - q_min).mean()
        parameters = [p for group in self.actor.optimizer.param_groups for p in group["params"]]
        # for the actor alone: backward() would also work out gradients of the Q networks, which nobody wants
        for parameter, gradient in zip(parameters, th.autograd.grad(loss, parameters), strict=True):
            parameter.grad = gradient
        self.actor.optimizer.step()
        self.actor.optimizer.zero_grad()
        self._log(actor_loss=loss, ent_coef=self._alpha(), entropy=-log_prob.mean())
        if self.ent_coef_optimizer is not None:
            assert self.log_ent_coef is not None and isinstance(self.target_entropy, float)
            error = (-log_prob - self.target_entropy).detach()
            scale = self.log_ent_coef.exp() if self.ent_coef_loss == "alpha" else self.log_ent_coef
            ent_coef_loss = (scale * error).mean()
            self.ent_coef_optimizer.zero_grad()
            ent_coef_loss.backward()
            self.ent_coef_optimizer.step()
            self._log(ent_coef_loss=ent_coef_loss)

    def _target_update(self) -> None:
        encoder_tau = self.tau if self.encoder_tau is None else self.encoder_tau
        ema_update(self.critic_target.features_extractor, self.encoder, encoder_tau)
        for target, online in zip(self.critic_target.q_networks, self.critic.q_networks, strict=True):
            ema_update(target, online, self.tau)

    # ---- logging

    @property
    def _looks_closer(self) -> bool:
        return self._n_updates % self.log_interval_updates == 0

    def _log(self, **values: th.Tensor) -> None:
        self._means.add(**{f"train__{key}": value for key, value in values.items()})

    def _log_objective(self, metrics: dict[str, th.Tensor]) -> None:
        if self.objective is not None:
            self._means.add(**{f"repr__{self.objective.name}_{key}": value for key, value in metrics.items()})

    def _log_closer(self, rl_loss: th.Tensor, contrast: th.Tensor | None, features: th.Tensor, feature_map: th.Tensor) -> None:
        """Diagnostics that cost a little: gradients of both losses on the encoder, spread of the embedding, dormant units."""
        body = list(self.encoder.body.parameters())
        if rl_loss.requires_grad and feature_map.requires_grad:
            rl = th.autograd.grad(rl_loss, body, retain_graph=True, allow_unused=True)
            rl_gradients = [th.zeros_like(p) if g is None else g for p, g in zip(body, rl, strict=True)]
            self._means.add(repr__rl_grad_norm=grad_norm(rl_gradients))
            if contrast is not None:
                theirs = th.autograd.grad(contrast, body, retain_graph=True)
                self._means.add(repr__grad_norm=grad_norm(theirs), repr__grad_cosine=grad_cosine(rl_gradients, theirs))
        self._means.add(
            repr__embedding_std=embedding_std(features),
            repr__effective_rank=effective_rank(features.detach()),
            repr__dormant_units=dormant_fraction(feature_map),
        )

    def _flush_log(self) -> None:
        means = self._means.flush(self.logger)
        if self.num_timesteps > 0:
            self.logger.record("train/replay_ratio", self._n_updates / self.num_timesteps)
        bad = [key for key, value in means.items() if not math.isfinite(value)]
        if bad:
            raise FloatingPointError(
                f"{', '.join(bad)} stopped being finite within the last {self.log_interval_updates} updates"
            )

    # ---- saving

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "objective", "encoder_optimizer", "objective_optimizer", "_means", "_heads"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        states, variables = super()._get_torch_save_params()
        if self.objective is not None:
            states = [*states, "objective"]
            if not self.joint:
                states = [*states, "encoder_optimizer", "objective_optimizer"]
        return states, variables

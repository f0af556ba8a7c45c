"""The policy of CURL and DrQ: tanh-rescaled log standard deviation, orthogonal linear layers."""

from __future__ import annotations

from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.sac.policies import LOG_STD_MAX, LOG_STD_MIN
from stable_baselines3.sac.policies import Actor as SACActor

from crl.agents.squashed_gaussian import squashed_sample
from crl.networks import initialize
from crl.policies import PixelSACActor, PixelSACPolicy

Bounds = tuple[float, float]


def rescale_log_std(raw: th.Tensor, bounds: Bounds | None) -> th.Tensor:
    """
    :param raw: the network's output, any shape
    :param bounds: ``low + (high - low) / 2 * (tanh(raw) + 1)``, which has a gradient everywhere; None clamps to SB3's
        [-20, 2]
    :return: log standard deviation, same shape
    """
    if bounds is None:
        return th.clamp(raw, LOG_STD_MIN, LOG_STD_MAX)
    low, high = bounds
    return low + 0.5 * (high - low) * (th.tanh(raw) + 1.0)


class RescaledSACActor(PixelSACActor):
    """
    Actor on the critic's conv body that can be asked for actions by the body's output.

    :param log_std_bounds: see :func:`rescale_log_std`
    :param exact_log_prob: see :func:`crl.agents.squashed_gaussian.squashed_sample`
    :raises ValueError: together with gSDE
    """

    def __init__(self, *args: Any, log_std_bounds: Bounds | None, exact_log_prob: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.use_sde:
            raise ValueError("PixelSAC's policy has no gSDE: leave use_sde out")
        self.log_std_bounds = log_std_bounds
        self.exact_log_prob = exact_log_prob

    def _gaussian(self, features: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        latent = self.latent_pi(features)
        return self.mu(latent), rescale_log_std(self.log_std(latent), self.log_std_bounds)  # type: ignore[operator]

    def get_action_dist_params(self, obs: PyTorchObs) -> tuple[th.Tensor, th.Tensor, dict[str, th.Tensor]]:
        """Mean and log standard deviation, as SB3's actor."""
        return *self._gaussian(self.extract_features(obs, self.features_extractor)), {}

    def sample(self, feature_map: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """
        :param feature_map: the conv body's output, ``(batch, filters, height, width)``
        :return: actions ``(batch, action_dim)`` and log-probabilities ``(batch, 1)``; noise from torch's global generator
        """
        mean, log_std = self._gaussian(self.features_extractor(feature_map))
        return squashed_sample(mean, log_std, th.randn_like(mean), self.exact_log_prob)


class RescaledSACPolicy(PixelSACPolicy):
    """
    :class:`crl.policies.PixelSACPolicy` as CURL and DrQ have it: log standard deviation rescaled by tanh, orthogonal linear
    layers with zero biases in actor and critic.

    :param observation_space: channels-first image space
    :param action_space: Box
    :param lr_schedule: learning rate
    :param log_std_bounds: of the log standard deviation, (-10, 2) as published; None clamps as SB3 does
    :param exact_log_prob: see :func:`crl.agents.squashed_gaussian.squashed_sample`: False in CURL and SB3, True in DrQ
    :param mlp_init: of the linear layers: ``"orthogonal"``, or ``"default"`` (torch's)
    :param kwargs: see :class:`crl.policies.PixelSACPolicy`
    :raises ValueError: for bounds that are none
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Box,
        lr_schedule: Schedule,
        log_std_bounds: Bounds | None = (-10.0, 2.0),
        exact_log_prob: bool = False,
        mlp_init: str = "orthogonal",
        **kwargs: Any,
    ) -> None:
        if log_std_bounds is not None and not log_std_bounds[0] < log_std_bounds[1]:
            raise ValueError(f"log_std_bounds={log_std_bounds}: (low, high) with low < high, or None")
        self._log_std_bounds = log_std_bounds
        self._exact_log_prob = exact_log_prob
        self._mlp_init = mlp_init
        super().__init__(observation_space, action_space, lr_schedule, **kwargs)

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> SACActor:
        """An actor with a new head on the critic's body."""
        kwargs = self._update_features_extractor(self.actor_kwargs, self.encoder.make_head())  # type: ignore[arg-type]
        actor = RescaledSACActor(log_std_bounds=self._log_std_bounds, exact_log_prob=self._exact_log_prob, **kwargs)
        actor.share_body(self.encoder, self.encoder_gradient == "actor")
        for part in (actor.latent_pi, actor.mu, actor.log_std):
            initialize(part, self._mlp_init)  # type: ignore[arg-type]
        return actor.to(self.device)

    def make_critic(self, features_extractor: BaseFeaturesExtractor | None = None) -> ContinuousCritic:
        """A critic with a new encoder."""
        critic = super().make_critic(features_extractor)
        for q_network in critic.q_networks:
            initialize(q_network, self._mlp_init)
        return critic

    def _get_constructor_parameters(self) -> dict[str, Any]:
        own = {"log_std_bounds": self._log_std_bounds, "exact_log_prob": self._exact_log_prob, "mlp_init": self._mlp_init}
        return {**super()._get_constructor_parameters(), **own}

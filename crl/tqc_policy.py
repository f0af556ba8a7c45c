"""``PixelTQCPolicy``: one pixel encoder with a named gradient route, for sb3-contrib's TQC."""

from __future__ import annotations

from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule

from crl.encoders import PixelEncoder
from crl.policies import EncoderGradient, OneEncoder, OnSharedBody, OwnsBody, check_one_encoder

try:
    from sb3_contrib.tqc.policies import Actor, Critic, TQCPolicy
except ModuleNotFoundError as error:
    if str(error.name).partition(".")[0] != "sb3_contrib":
        raise
    raise ImportError("PixelTQCPolicy is for the TQC of sb3-contrib: pip install 'crl[contrib]'") from error


class PixelTQCActor(OnSharedBody, Actor):
    """sb3-contrib's TQC actor on the critic's conv body."""


class PixelQuantileCritic(OwnsBody, Critic):
    """sb3-contrib's quantile networks on the shared encoder."""

    def forward(self, obs: PyTorchObs, action: th.Tensor) -> th.Tensor:
        """Quantiles of the return, ``(batch, n_critics, n_quantiles)``."""
        q_input = self.features_and_actions(obs, action)
        return th.stack([q_net(q_input) for q_net in self.q_networks], dim=1)


class PixelTQCPolicy(OneEncoder, TQCPolicy):
    """
    TQC policy with one pixel encoder (conv body and head) inside the critic; the actor has its own head on the body. It runs
    under sb3-contrib's unmodified ``TQC.train()``.

    :param observation_space: channels-first image space
    :param action_space: Box
    :param lr_schedule: learning rate
    :param encoder_gradient: see :class:`crl.policies.PixelSACPolicy`
    :param features_extractor_class: an encoder of crl
    :param kwargs: as sb3-contrib's ``TQCPolicy``
    :raises ValueError: for an unknown route, or an extractor that is not split into body and head
    """

    _critic_class = PixelQuantileCritic

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Box,
        lr_schedule: Schedule,
        encoder_gradient: EncoderGradient = "critic",
        features_extractor_class: type[BaseFeaturesExtractor] = PixelEncoder,
        **kwargs: Any,
    ) -> None:
        check_one_encoder("PixelTQCPolicy", observation_space, encoder_gradient, features_extractor_class, kwargs)
        self._encoder_gradient: EncoderGradient = encoder_gradient
        super().__init__(
            observation_space, action_space, lr_schedule, features_extractor_class=features_extractor_class, **kwargs
        )

    def _build(self, lr_schedule: Schedule) -> None:
        self.critic = self.make_critic()
        self.critic_target = self.make_critic()
        self.critic_target.load_state_dict(self.critic.state_dict())
        self.actor = self.make_actor()
        self._make_optimizers(lr_schedule(1))
        self.critic_target.set_training_mode(False)

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> Actor:
        """An actor with a new head on the critic's body."""
        kwargs = self._update_features_extractor(self.actor_kwargs, self.encoder.make_head())  # type: ignore[arg-type]
        actor = PixelTQCActor(**kwargs)
        actor.share_body(self.encoder, self._encoder_gradient == "actor")
        return actor.to(self.device)

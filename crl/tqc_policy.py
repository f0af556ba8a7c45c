"""``PixelTQCPolicy``: one pixel encoder with a named gradient route, for sb3-contrib's TQC."""

from __future__ import annotations

import torch as th
from stable_baselines3.common.type_aliases import PyTorchObs

from crl.policies import OneEncoderOneActor, OnSharedBody, OwnsBody

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


class PixelTQCPolicy(OneEncoderOneActor, TQCPolicy):
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

    _name = "PixelTQCPolicy"
    _critic_class = PixelQuantileCritic
    _actor_class = PixelTQCActor

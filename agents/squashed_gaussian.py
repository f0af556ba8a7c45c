"""The squashed Gaussian of SAC, written in terms of its noise."""

from __future__ import annotations

import math

import torch as th


def squashed_sample(mean: th.Tensor, log_std: th.Tensor, noise: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """
    ``tanh(mean + std * noise)`` and its log-probability. The same number as SB3's distribution gives, up to rounding:
    recovering the noise as ``(sample - mean) / std`` loses digits where std is small (CURL's may fall to exp(-10)).

    :param mean: ``(batch, action_dim)`` float32
    :param log_std: ``(batch, action_dim)`` float32
    :param noise: ``(batch, action_dim)``, standard normal
    :return: actions ``(batch, action_dim)`` in [-1, 1], and log-probabilities ``(batch, 1)``
    """
    actions = th.tanh(mean + log_std.exp() * noise)
    gaussian = (-0.5 * noise.square() - log_std - 0.5 * math.log(2.0 * math.pi)).sum(dim=1, keepdim=True)
    squash = th.log(th.relu(1.0 - actions.square()) + 1e-6).sum(dim=1, keepdim=True)
    return actions, gaussian - squash

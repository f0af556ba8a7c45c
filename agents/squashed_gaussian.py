"""The squashed Gaussian of SAC, written in terms of its noise."""

from __future__ import annotations

import math

import torch as th
import torch.nn.functional as F


def squashed_sample(mean: th.Tensor, log_std: th.Tensor, noise: th.Tensor, exact: bool = False) -> tuple[th.Tensor, th.Tensor]:
    """
    ``tanh(mean + std * noise)`` and its log-probability. The same number as SB3's distribution gives, up to rounding:
    recovering the noise as ``(sample - mean) / std`` loses digits where std is small (CURL's may fall to exp(-10)).

    :param mean: ``(batch, action_dim)`` float32
    :param log_std: ``(batch, action_dim)`` float32
    :param noise: ``(batch, action_dim)``, standard normal
    :param exact: take the logarithm of tanh's derivative as it is (DrQ) instead of that of ``1 - action^2 + 1e-6`` (SB3,
        CURL), which stays above log 1e-6 where tanh saturates
    :return: actions ``(batch, action_dim)`` in [-1, 1], and log-probabilities ``(batch, 1)``
    """
    before = mean + log_std.exp() * noise
    actions = th.tanh(before)
    gaussian = (-0.5 * noise.square() - log_std - 0.5 * math.log(2.0 * math.pi)).sum(dim=1, keepdim=True)
    if exact:
        squash = 2.0 * (math.log(2.0) - before - F.softplus(-2.0 * before))
    else:
        squash = th.log(th.relu(1.0 - actions.square()) + 1e-6)
    return actions, gaussian - squash.sum(dim=1, keepdim=True)

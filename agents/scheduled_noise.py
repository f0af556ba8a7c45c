"""The exploration noise of DrQ-v2: a standard deviation that falls linearly, and actions that stay inside their bounds."""

from __future__ import annotations

import torch as th

#: bounds of actions lie this far inside of [-1, 1], where tanh still has a slope
_MARGIN = 1e-6


def linear_std(step: int, start: float, end: float, steps: int) -> float:
    """
    :param step: from 0
    :param start: value at step 0
    :param end: value from step ``steps`` on
    :param steps: length of the way between them, at least 1
    :return: standard deviation at a step
    """
    share = min(max(step / steps, 0.0), 1.0)
    return (1.0 - share) * start + share * end


def noisy_action(mean: th.Tensor, std: float, noise: th.Tensor, clip: float) -> th.Tensor:
    """
    ``mean + clip(std * noise)``, clamped into the bounds; gradients pass the clamp as if it were not there.

    :param mean: ``(batch, action_dim)`` in [-1, 1]
    :param std: of the noise
    :param noise: ``(batch, action_dim)``, standard normal
    :param clip: largest absolute value of ``std * noise``
    :return: ``(batch, action_dim)`` in [-1 + 1e-6, 1 - 1e-6]
    """
    action = mean + (std * noise).clamp(-clip, clip)
    clamped = action.detach().clamp(-1.0 + _MARGIN, 1.0 - _MARGIN)
    return action - action.detach() + clamped

"""Shape checks and normalisation shared by the losses."""

from __future__ import annotations

import torch as th
import torch.nn.functional as F

# Under it a row counts as zero: its direction is undefined, and dividing by its norm would make infinite gradients.
NORM_EPS = 1e-8


def check_pair(a: th.Tensor, b: th.Tensor, names: tuple[str, str]) -> tuple[th.Tensor, th.Tensor]:
    """
    :param a: ``(batch, width)``
    :param b: ``(batch, width)``
    :param names: of the two, for messages
    :return: both in float32 (float64 stays): a log-softmax of bf16 logits loses the small ones
    :raises ValueError: for other ranks, unequal shapes or a batch of 1
    """
    if a.dim() != 2 or a.shape != b.shape:
        raise ValueError(
            f"{names[0]} and {names[1]} must both be (batch, width), row i of one belonging to row i of the other; "
            f"got {tuple(a.shape)} and {tuple(b.shape)}"
        )
    if a.shape[0] < 2:
        raise ValueError("a contrast needs a batch of at least 2: with 1 there is no negative and the loss is always 0")
    return at_least_float32(a), at_least_float32(b)


def at_least_float32(x: th.Tensor) -> th.Tensor:
    """bf16 and fp16 become float32, float64 stays."""
    return x if x.dtype == th.float64 else x.float()


def check_temperature(temperature: float) -> None:
    """:raises ValueError: when it is not positive"""
    if not temperature > 0:
        raise ValueError(f"temperature={temperature}: must be positive (usual: 0.07 to 0.5)")


def unit_rows(x: th.Tensor) -> th.Tensor:
    """Rows scaled to length 1; zero rows stay zero, with a finite gradient."""
    return F.normalize(x, dim=1, eps=NORM_EPS)

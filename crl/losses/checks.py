"""Shape checks and normalisation shared by the losses."""

from __future__ import annotations

import math

import torch as th

#: Rows shorter than this count as zero: their direction is rounding noise, and its gradient grows with 1 / length.
NORM_EPS = 1e-8


def check_pair(a: th.Tensor, b: th.Tensor, names: tuple[str, str]) -> tuple[th.Tensor, th.Tensor]:
    """
    :param a: ``(batch, width)``
    :param b: ``(batch, width)``
    :param names: of the two, for messages
    :return: both in float32, or in float64 when one of them is: a log-softmax of bf16 logits loses the small ones
    :raises ValueError: for other ranks, unequal shapes or a batch of 1
    """
    if a.dim() != 2 or a.shape != b.shape:
        raise ValueError(
            f"{names[0]} and {names[1]} must both be (batch, width), row i of one belonging to row i of the other; "
            f"got {tuple(a.shape)} and {tuple(b.shape)}. Flatten what has more dimensions with flatten(1)"
        )
    check_batch(a.shape[0])
    dtype = common_float(a, b)
    return a.to(dtype), b.to(dtype)


def check_batch(batch: int) -> None:
    """:raises ValueError: when there is no negative"""
    if batch < 2:
        raise ValueError(
            f"a contrast needs a batch of at least 2, got {batch}: without a negative the loss is always 0. Raise batch_size"
        )


def check_temperature(temperature: float) -> None:
    """:raises ValueError: when it is not positive and finite"""
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError(f"temperature={temperature}: must be positive and finite (usual: 0.07 to 0.5)")


def check_mask(mask: th.Tensor, shape: th.Size, name: str) -> None:
    """:raises ValueError: for another shape, or a mask that is not bool"""
    if mask.shape != shape or mask.dtype != th.bool:
        raise ValueError(
            f"{name} must be {tuple(shape)} bool, got {tuple(mask.shape)} {mask.dtype}; .bool() turns zeros and ones into one"
        )


def common_float(*tensors: th.Tensor) -> th.dtype:
    """The dtype to compute in: float64 when one of the tensors is, else float32."""
    return th.float64 if any(x.dtype == th.float64 for x in tensors) else th.float32


def unit_rows(x: th.Tensor) -> th.Tensor:
    """
    Rows scaled to length 1. Zero rows stay zero and get no gradient: dividing by a clamped length would hand them one of
    1e8, which is finite and ruins the optimiser's moments all the same.

    :param x: ``(batch, width)`` float32 or float64
    """
    length = th.linalg.vector_norm(x, dim=1, keepdim=True)
    zero = length < NORM_EPS
    return x.masked_fill(zero, 0.0) / length.masked_fill(zero, 1.0)

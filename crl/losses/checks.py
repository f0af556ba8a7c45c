"""Shape checks and normalisation shared by the losses."""

from __future__ import annotations

import math

import torch as th

#: Rows shorter than this count as zero: their direction is rounding noise, and its gradient grows with 1 / length.
NORM_EPS = 1e-8


#: why one row is not enough, for the losses whose negatives are other rows, and for those that take statistics
NO_NEGATIVE = "a contrast needs a batch of at least 2, got {}: without a negative the loss is always 0. Raise batch_size"
NO_STATISTICS = "variance and covariance need a batch of at least 2, got {}. Raise batch_size"


def check_pair(
    a: th.Tensor, b: th.Tensor, names: tuple[str, str], single: str | None = NO_NEGATIVE
) -> tuple[th.Tensor, th.Tensor]:
    """
    :param a: ``(batch, width)``
    :param b: ``(batch, width)``
    :param names: of the two, for messages
    :param single: what is wrong with a batch of 1; None: nothing
    :return: both in float32, or in float64 when one of them is: a log-softmax of bf16 logits loses the small ones
    :raises ValueError: for other ranks, unequal shapes, an empty batch or a batch of 1
    """
    if a.dim() != 2 or a.shape != b.shape:
        raise ValueError(
            f"{names[0]} and {names[1]} must both be (batch, width), row i of one belonging to row i of the other; "
            f"got {tuple(a.shape)} and {tuple(b.shape)}. Flatten what has more dimensions with flatten(1)"
        )
    if a.shape[0] == 0 or a.shape[1] == 0:
        raise ValueError(f"{names[0]} and {names[1]} are empty: {tuple(a.shape)}")
    if single is not None:
        check_batch(a.shape[0], single)
    dtype = common_float(a, b)
    return a.to(dtype), b.to(dtype)


def check_batch(batch: int, single: str = NO_NEGATIVE) -> None:
    """:raises ValueError: when there is but one row, with what is wrong with that"""
    if batch < 2:
        raise ValueError(single.format(batch))


def check_temperature(temperature: float, name: str = "temperature") -> None:
    """:raises ValueError: when it is not positive and finite"""
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError(f"{name}={temperature}: must be positive and finite (usual: 0.07 to 0.5)")


def check_queue(queue: th.Tensor, width: int, least: int = 1) -> None:
    """:raises ValueError: when it is not ``(size, width)`` of at least so many rows"""
    if queue.dim() != 2 or queue.shape[1] != width or queue.shape[0] < least:
        raise ValueError(f"queue must be (size, {width}), size at least {least}, got {tuple(queue.shape)}")


def check_number(name: str, value: float, low: float, high: float = math.inf, strict: bool = False) -> None:
    """:raises ValueError: when it is not finite or outside ``[low, high]`` (``strict``: ``low`` itself as well)"""
    if not math.isfinite(value) or value < low or value > high or (strict and value == low):
        interval = f"{'(' if strict else '['}{low}, {high}{']' if math.isfinite(high) else ')'}"
        raise ValueError(f"{name}={value}: a finite number in {interval}")


def check_mask(mask: th.Tensor, shape: th.Size, name: str) -> None:
    """:raises ValueError: for another shape, or a mask that is not bool"""
    if mask.shape != shape or mask.dtype != th.bool:
        raise ValueError(
            f"{name} must be {tuple(shape)} bool, got {tuple(mask.shape)} {mask.dtype}; .bool() turns zeros and ones into one"
        )


def common_float(*tensors: th.Tensor) -> th.dtype:
    """The dtype to compute in: float64 when one of the tensors is, else float32."""
    return th.float64 if any(x.dtype == th.float64 for x in tensors) else th.float32


def row_mean(values: th.Tensor, rows: th.Tensor | None) -> th.Tensor:
    """
    :param values: ``(batch,)``
    :param rows: ``(batch,)`` bool, False leaves row i out; None: all count. With none left the mean is 0, with a graph
    :raises ValueError: for a mask of another shape or dtype
    """
    if rows is None:
        return values.mean()
    check_mask(rows, values.shape, "rows")
    return values.masked_fill(~rows, 0.0).sum() / rows.sum().clamp(min=1)


def unit_rows(x: th.Tensor) -> th.Tensor:
    """
    Rows scaled to length 1. Zero rows stay zero and get no gradient: dividing by a clamped length would hand them one of
    1e8, which is finite and ruins the optimiser's moments all the same.

    :param x: ``(batch, width)`` float32 or float64
    """
    length = th.linalg.vector_norm(x, dim=1, keepdim=True)
    zero = length < NORM_EPS
    return x.masked_fill(zero, 0.0) / length.masked_fill(zero, 1.0)

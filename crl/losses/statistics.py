"""Means and covariances over the rows of a batch that count."""

from __future__ import annotations

import torch as th

from crl.losses.checks import check_mask


def centred(z: th.Tensor, rows: th.Tensor | None) -> tuple[th.Tensor, th.Tensor | int]:
    """
    :param z: ``(batch, width)``
    :param rows: ``(batch,)`` bool, False leaves row i out; None: all count
    :return: ``z`` less its mean over the rows that count, the others zero; and how many count
    """
    if rows is None:
        return z - z.mean(dim=0), z.shape[0]
    check_mask(rows, z.shape[:1], "rows")
    count = rows.sum()
    z = z.masked_fill(~rows[:, None], 0.0)
    return (z - z.sum(dim=0) / count.clamp(min=1)).masked_fill(~rows[:, None], 0.0), count


def at_least_one(count: th.Tensor | int) -> th.Tensor | int:
    """What may be divided by; with fewer rows the numerator is zero."""
    return count.clamp(min=1) if isinstance(count, th.Tensor) else max(count, 1)

"""Alignment and uniformity on the unit sphere."""

from __future__ import annotations

import torch as th

from crl.losses.checks import NO_NEGATIVE, check_mask, check_number, check_pair, row_mean, unit_rows
from crl.losses.two_views import masked_logsumexp


def alignment(z1: th.Tensor, z2: th.Tensor, alpha: float = 2.0, *, rows: th.Tensor | None = None) -> th.Tensor:
    """
    ``mean_i |u1[i] - u2[i]|^alpha`` of unit rows (Wang and Isola 2020, arXiv:2005.10242); 0 when all pairs coincide. Alone it
    collapses: see :func:`alignment_uniformity`.

    :param z1: ``(batch, width)``, first views; a batch of 1 is fine
    :param z2: ``(batch, width)``, second views
    :param alpha: > 0; 2 in the paper
    :param rows: ``(batch,)`` bool, False leaves row i out of the mean
    :return: scalar float32
    :raises ValueError: when shapes do not fit, or for an alpha out of range
    """
    check_number("alpha", alpha, 0.0, strict=True)
    z1, z2 = check_pair(z1, z2, ("z1", "z2"), single=None)
    squared = (unit_rows(z1) - unit_rows(z2)).square().sum(dim=1)
    # the root of 0 has an infinite slope
    same = squared == 0
    distance = squared.masked_fill(same, 1.0).pow(alpha / 2.0).masked_fill(same, 0.0)
    return row_mean(distance, rows)


def uniformity(
    z: th.Tensor, t: float = 2.0, *, rows: th.Tensor | None = None, negatives: th.Tensor | None = None
) -> th.Tensor:
    """
    ``log mean_{i < j} exp(-t |u[i] - u[j]|^2)`` of unit rows (Wang and Isola 2020, arXiv:2005.10242): 0 when all coincide,
    lower the more evenly they cover the sphere.

    :param z: ``(batch, width)``
    :param t: > 0; 2 in the paper
    :param rows: ``(batch,)`` bool, False leaves all pairs of row i out
    :param negatives: ``(batch, batch)`` bool, False leaves the pair out; of a mask that is not symmetric both halves count
    :return: scalar float32
    :raises ValueError: when shapes do not fit, for a batch of 1, or for a t out of range
    """
    check_number("t", t, 0.0, strict=True)
    z, _ = check_pair(z, z, ("z", "z"), single=NO_NEGATIVE)
    batch = z.shape[0]
    pairs = ~th.eye(batch, dtype=th.bool, device=z.device)
    if negatives is not None:
        check_mask(negatives, pairs.shape, "negatives")
        pairs = pairs & negatives
    if rows is not None:
        check_mask(rows, z.shape[:1], "rows")
        pairs = pairs & rows[:, None] & rows[None, :]
    u = unit_rows(z)
    with th.autocast(z.device.type, enabled=False):
        length = u.square().sum(dim=1)  # 1, or 0 of a zero row
        squared = length[:, None] + length[None, :] - 2.0 * u @ u.T
    log_sum, some = masked_logsumexp((-t * squared).flatten()[None], pairs.flatten()[None])
    count = pairs.sum().clamp(min=1).to(z.dtype)
    return (log_sum - count.log()).masked_fill(~some, 0.0).squeeze(0)


def alignment_uniformity(
    z1: th.Tensor,
    z2: th.Tensor,
    alpha: float = 2.0,
    t: float = 2.0,
    weight: float = 1.0,
    *,
    rows: th.Tensor | None = None,
    negatives: th.Tensor | None = None,
) -> th.Tensor:
    """
    The two together as a loss (Wang and Isola 2020): ``alignment(z1, z2) + weight * (uniformity(z1) + uniformity(z2)) / 2``.

    :param z1: ``(batch, width)``, first views
    :param z2: ``(batch, width)``, second views
    :param alpha: see :func:`alignment`
    :param t: see :func:`uniformity`
    :param weight: of uniformity, >= 0; 1 in the paper
    :param rows: ``(batch,)`` bool, False leaves row i out of both
    :param negatives: ``(batch, batch)`` bool, see :func:`uniformity`
    :return: scalar float32
    :raises ValueError: when shapes do not fit, for a batch of 1, or for parameters out of range
    """
    check_number("weight", weight, 0.0)
    z1, z2 = check_pair(z1, z2, ("z1", "z2"))
    spread = [uniformity(z, t, rows=rows, negatives=negatives) for z in (z1, z2)]
    return alignment(z1, z2, alpha, rows=rows) + weight * (spread[0] + spread[1]) / 2.0

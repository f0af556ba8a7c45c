"""Barlow Twins: the cross-correlation of two views should be the identity."""

from __future__ import annotations

import torch as th

from crl.losses.checks import NO_STATISTICS, check_number, check_pair
from crl.losses.statistics import at_least_one, centred

#: under the root of the standard deviation, as in the BatchNorm of the authors' code
_EPS = 1e-5


def barlow_twins(z1: th.Tensor, z2: th.Tensor, lambd: float = 0.0051, *, rows: th.Tensor | None = None) -> th.Tensor:
    """
    Barlow Twins (Zbontar et al. 2021, arXiv:2103.03230): every dimension of both views is standardised over the batch (biased
    variance, 1e-5 under the root, always by the batch's own statistics); with ``C = z1^T z2 / batch``,
    ``sum_i (C_ii - 1)^2 + lambd sum_{i != j} C_ij^2``. The authors' variant: a sum, which grows with the width, not scaled
    down further.

    :param z1: ``(batch, width)``, first views, behind a projector
    :param z2: ``(batch, width)``, second views; in the paper both carry gradient
    :param lambd: weight of the redundancy, >= 0; 0.0051 in the authors' code
    :param rows: ``(batch,)`` bool, False leaves row i out of all statistics; with fewer than 2 left the loss is 0
    :return: scalar float32
    :raises ValueError: when shapes do not fit, for a batch of 1, or for a negative lambd
    """
    check_number("lambd", lambd, 0.0)
    z1, z2 = check_pair(z1, z2, ("z1", "z2"), single=NO_STATISTICS)
    (z1, count), (z2, _) = centred(z1, rows), centred(z2, rows)
    count = at_least_one(count)
    with th.autocast(z1.device.type, enabled=False):
        z1 = z1 / th.sqrt(z1.square().sum(dim=0) / count + _EPS)
        z2 = z2 / th.sqrt(z2.square().sum(dim=0) / count + _EPS)
        correlation = z1.T @ z2 / count
    diagonal = th.eye(z1.shape[1], dtype=th.bool, device=z1.device)
    on = (correlation.diagonal() - 1.0).square().sum()
    off = correlation.masked_fill(diagonal, 0.0).square().sum()
    loss = on + lambd * off
    return loss if rows is None else loss.masked_fill(rows.sum() < 2, 0.0)

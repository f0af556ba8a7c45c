"""VICReg: variance, invariance, covariance."""

from __future__ import annotations

import torch as th
import torch.nn.functional as F

from crl.losses.checks import NO_STATISTICS, check_number, check_pair, row_mean
from crl.losses.statistics import at_least_one, centred


def vicreg(
    z1: th.Tensor,
    z2: th.Tensor,
    invariance: float = 25.0,
    variance: float = 25.0,
    covariance: float = 1.0,
    eps: float = 1e-4,
    *,
    rows: th.Tensor | None = None,
) -> th.Tensor:
    """
    VICReg (Bardes et al. 2022, arXiv:2105.04906): no negatives; views agree while each dimension keeps a standard deviation
    of 1 and dimensions stay uncorrelated. With Cov unbiased (``batch - 1``) and
    ``var(z) = mean_d relu(1 - sqrt(Cov_dd + eps))``, ``cov(z) = sum_{a != b} Cov_ab^2 / width``:
    ``invariance * mean((z1 - z2)^2) + variance * (var(z1) + var(z2)) / 2 + covariance * (cov(z1) + cov(z2))``.
    The variant of the authors' code, which halves the sum of variances; other libraries do not. Embeddings are not normalised.

    :param z1: ``(batch, width)``, first views, behind a projector
    :param z2: ``(batch, width)``, second views; in the paper both carry gradient
    :param invariance: weight >= 0; 25 in the paper
    :param variance: weight >= 0; 25 in the paper
    :param covariance: weight >= 0; 1 in the paper
    :param eps: added under the root, > 0, so that a dead dimension has a finite gradient; 1e-4 in the paper
    :param rows: ``(batch,)`` bool, False leaves row i out of all statistics
    :return: scalar float32
    :raises ValueError: when shapes do not fit, for a batch of 1, or for parameters out of range
    """
    for name, value in (("invariance", invariance), ("variance", variance), ("covariance", covariance)):
        check_number(name, value, 0.0)
    check_number("eps", eps, 0.0, strict=True)
    z1, z2 = check_pair(z1, z2, ("z1", "z2"), single=NO_STATISTICS)
    loss = invariance * row_mean((z1 - z2).square().mean(dim=1), rows)
    for z in (z1, z2):
        spread, correlation = _variance_and_covariance(z, eps, rows)
        loss = loss + variance * spread / 2.0 + covariance * correlation
    return loss


def _variance_and_covariance(z: th.Tensor, eps: float, rows: th.Tensor | None) -> tuple[th.Tensor, th.Tensor]:
    z, count = centred(z, rows)
    with th.autocast(z.device.type, enabled=False):
        cov = z.T @ z / at_least_one(count - 1)
    variances = cov.diagonal()
    spread = F.relu(1.0 - th.sqrt(variances + eps)).mean()
    if isinstance(count, th.Tensor):
        spread = spread.masked_fill(count < 2, 0.0)  # one row has no variance that could be too small
    diagonal = th.eye(z.shape[1], dtype=th.bool, device=z.device)
    return spread, cov.masked_fill(diagonal, 0.0).square().sum() / z.shape[1]

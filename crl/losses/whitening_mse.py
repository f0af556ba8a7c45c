"""W-MSE: distance of views whose batch is whitened."""

from __future__ import annotations

import torch as th

from crl.losses.checks import NO_STATISTICS, check_number, check_pair, row_mean, unit_rows
from crl.losses.statistics import at_least_one, centred


def whitening_mse(
    z1: th.Tensor, z2: th.Tensor, eps: float = 1e-3, *, normalize: bool = True, rows: th.Tensor | None = None
) -> th.Tensor:
    """
    Whitening MSE (W-MSE, Ermolov et al. 2021, arXiv:2007.06346). Each view is whitened on its own, by Cholesky: with S its
    unbiased covariance and ``(1 - eps) S + eps I = L L^T``, L lower triangular, ``w = L^-1 (z - mean)``. The loss is
    ``2 - 2 mean cos(w1, w2)``. Whitened batches cannot collapse, so there are no negatives, and both views carry gradient,
    through L as well. Of the authors' code it is the case of one slice, ``w_size = batch``; computed in float64.

    :param z1: ``(batch, width)``, first views; the batch several times the width, or whitening fits noise
    :param z2: ``(batch, width)``, second views
    :param eps: shrinks the covariance towards the identity, in [0, 1). 0 in the paper, for batches far larger than the width;
        1e-3 here, which no batch makes singular
    :param normalize: False: ``mean((w1 - w2)^2)`` over all entries instead of cosines, the paper's Euclidean variant
    :param rows: ``(batch,)`` bool, False leaves row i out of statistics and mean
    :return: scalar float32
    :raises ValueError: when shapes do not fit, for a batch of 1, for eps out of range, or when ``eps=0`` and the covariance is
        singular, as it is when the batch is not larger than the width
    """
    check_number("eps", eps, 0.0, 1.0)
    if eps == 1.0:
        raise ValueError("eps=1.0: then nothing is whitened; a number in [0, 1), 1e-3 for example")
    z1, z2 = check_pair(z1, z2, ("z1", "z2"), single=NO_STATISTICS)
    if eps == 0.0 and z1.shape[0] <= z1.shape[1]:
        raise ValueError(f"eps=0 needs a batch larger than the width, got {tuple(z1.shape)}: use eps=1e-3, or project first")
    w1, w2 = whitened(z1, eps, rows), whitened(z2, eps, rows)
    if normalize:
        losses = 2.0 - 2.0 * (unit_rows(w1) * unit_rows(w2)).sum(dim=1)
    else:
        losses = (w1 - w2).square().mean(dim=1)
    return row_mean(losses, rows).to(z1.dtype)


def whitened(z: th.Tensor, eps: float, rows: th.Tensor | None = None) -> th.Tensor:
    """
    :param z: ``(batch, width)``
    :param eps: see :func:`whitening_mse`
    :param rows: ``(batch,)`` bool, which count
    :return: ``(batch, width)`` float64, of mean 0 and, with ``eps=0``, covariance I
    """
    # A float32 covariance of large embeddings has errors above eps, and then no Cholesky factor
    z, count = centred(z.double(), rows)
    with th.autocast(z.device.type, enabled=False):
        cov = (1.0 - eps) * (z.T @ z) / at_least_one(count - 1)
    diagonal = th.full_like(cov.diagonal(), eps)
    if eps > 0.0:
        # beside a large covariance eps may be below rounding; so much the root always needs
        diagonal = diagonal + 1e-12 * cov.diagonal().detach().mean()
    root, failed = th.linalg.cholesky_ex(cov + diagonal.diag())
    # only then: looking at it waits for the device
    if eps == 0.0 and bool(failed):
        raise ValueError("eps=0 and a singular covariance (equal rows, or dimensions that depend on each other): use eps=1e-3")
    return th.linalg.solve_triangular(root, z.T, upper=False).T

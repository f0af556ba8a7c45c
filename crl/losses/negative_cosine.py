"""Negative cosine similarity with a stop-gradient: BYOL and SimSiam."""

from __future__ import annotations

import torch as th

from crl.losses.checks import check_pair, row_mean, unit_rows


def negative_cosine(p: th.Tensor, z: th.Tensor, *, rows: th.Tensor | None = None) -> th.Tensor:
    """
    ``-mean_i cos(p[i], sg(z[i]))``, in [-1, 1]: SimSiam's D(p, z) (Chen and He 2021, arXiv:2011.10566), one direction. BYOL's
    loss (Grill et al. 2020, arXiv:2006.07733) is ``2 + 2 * negative_cosine(p, z)``, with the same optimum. There are no
    negatives: what keeps it from collapsing is the stop-gradient, made here, with a predictor that gives ``p``, and in BYOL an
    EMA encoder that gives ``z``.

    :param p: ``(batch, width)``, predictions of the online branch; a batch of 1 is fine
    :param z: ``(batch, width)``, projections of the target branch; detached here
    :param rows: ``(batch,)`` bool, False leaves row i out of the mean
    :return: scalar float32
    :raises ValueError: when shapes do not fit
    """
    p, z = check_pair(p, z.detach(), ("p", "z"), single=None)
    return -row_mean((unit_rows(p) * unit_rows(z)).sum(dim=1), rows)

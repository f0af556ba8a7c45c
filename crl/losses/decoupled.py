"""Decoupled contrastive learning: the positive leaves the denominator."""

from __future__ import annotations

import torch as th

from crl.losses.checks import check_temperature, row_mean
from crl.losses.two_views import masked_logsumexp, two_views


def decoupled_contrastive(
    z1: th.Tensor,
    z2: th.Tensor,
    temperature: float = 0.1,
    *,
    sigma: float | None = None,
    rows: th.Tensor | None = None,
    negatives: th.Tensor | None = None,
) -> th.Tensor:
    """
    Decoupled contrastive loss (Yeh et al. 2022, arXiv:2110.06848) over 2 * batch embeddings: mean over i of
    ``-w_i * p_i / T + log sum_j exp(n_ij / T)``, p_i the cosine with the other view, n_ij those with all other samples in
    both views. Easy positives do not weaken the gradient of the negatives, which helps small batches most. It may be
    negative. The mean over both views, as in the authors' code with both directions halved.

    :param z1: ``(batch, width)``, first views
    :param z2: ``(batch, width)``, second views
    :param temperature: positive; 0.1 in the paper
    :param sigma: None: DCL, ``w = 1``. A positive number: DCLW, ``w_i = 2 - batch * softmax_i(p_i / sigma)``, without
        gradient, which pulls harder at pairs that are far apart; 0.5 in the paper
    :param rows: ``(batch,)`` bool, False leaves sample i out of the mean; it stays a negative of the others
    :param negatives: ``(batch, batch)`` bool, False takes sample j, in both views, out of sample i's negatives; with none left
        its loss is 0
    :return: scalar float32
    :raises ValueError: when shapes do not fit, for a batch of 1, or when temperature or sigma is not positive
    """
    check_temperature(temperature)
    if sigma is not None:
        check_temperature(sigma, "sigma")
    pairs = two_views(z1, z2, rows, negatives)
    pull = pairs.positive / temperature
    if sigma is not None:
        pull = _far_pairs_first(pairs.positive[: len(z1)].detach() / sigma, rows).repeat(2) * pull
    push, some = masked_logsumexp(pairs.cosine / temperature, pairs.negative)
    return row_mean((push - pull).masked_fill(~some, 0.0), pairs.rows)


def _far_pairs_first(logits: th.Tensor, rows: th.Tensor | None) -> th.Tensor:
    """``(batch,)`` weights whose mean is 1, over the rows that count."""
    if rows is None:
        return 2.0 - len(logits) * th.softmax(logits, dim=0)
    # all rows left out: any finite weights do, none of them counts
    logits = logits.masked_fill(~rows & rows.any(), float("-inf"))
    return 2.0 - rows.sum() * th.softmax(logits, dim=0)

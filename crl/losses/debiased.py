"""Debiased contrastive loss: negatives that are positives in disguise are taken off the sum."""

from __future__ import annotations

import torch as th

from crl.losses.checks import check_number, check_temperature, row_mean
from crl.losses.two_views import TwoViews, masked_logsumexp, two_views


def debiased_contrastive(
    z1: th.Tensor,
    z2: th.Tensor,
    temperature: float = 0.5,
    tau_plus: float = 0.1,
    *,
    rows: th.Tensor | None = None,
    negatives: th.Tensor | None = None,
) -> th.Tensor:
    """
    Debiased contrastive loss (Chuang et al. 2020, arXiv:2007.00224) over 2 * batch embeddings: the mean over i of
    ``-log(e_i / (e_i + G_i))``, where ``e_i = exp(p_i / T)`` for the other view and, with ``x_ij = exp(n_ij / T)`` of the
    ``M = 2 * batch - 2`` negatives, ``G_i = max((sum_j x_ij - M tau_plus e_i) / (1 - tau_plus), M exp(-1 / T))``. As in the
    authors' code for SimCLR: one positive sample stands for the positive class. Where the maximum takes the floor, G has no
    gradient. ``tau_plus=0`` is NT-Xent.

    :param z1: ``(batch, width)``, first views
    :param z2: ``(batch, width)``, second views
    :param temperature: positive; 0.5 in the paper
    :param tau_plus: chance that a negative shows what the anchor shows, in [0, 1); 0.1 in the paper, in RL about 1 over the
        number of situations that look different
    :param rows: ``(batch,)`` bool, False leaves sample i out of the mean; it stays a negative of the others
    :param negatives: ``(batch, batch)`` bool, False takes sample j, in both views, out of sample i's negatives (M counts what
        is left); with none left its loss is 0
    :return: scalar float32
    :raises ValueError: when shapes do not fit, for a batch of 1, or for parameters out of range
    """
    check_temperature(temperature)
    check_tau_plus(tau_plus)
    pairs = two_views(z1, z2, rows, negatives)
    log_sum, _ = masked_logsumexp(pairs.cosine / temperature, pairs.negative)
    return loss_of_debiased_sum(pairs, log_sum, temperature, tau_plus)


def check_tau_plus(tau_plus: float) -> None:
    """:raises ValueError: outside [0, 1)"""
    check_number("tau_plus", tau_plus, 0.0, 1.0)
    if tau_plus == 1.0:
        raise ValueError("tau_plus=1.0: then there are no negatives; a chance in [0, 1), 0.1 in the paper")


def loss_of_debiased_sum(pairs: TwoViews, log_sum: th.Tensor, temperature: float, tau_plus: float) -> th.Tensor:
    """
    :param pairs: of the batch
    :param log_sum: ``(2 batch,)``, logarithm of the summed (and perhaps weighted) negatives; of any value where there are none
    :param temperature: of both
    :param tau_plus: see :func:`debiased_contrastive`
    """
    count = pairs.negative.sum(dim=1).to(log_sum.dtype)  # M of each row
    some = count > 0
    log_positive = pairs.positive / temperature
    # all exponentials relative to the larger of the two: exp(1 / T) overflows float32 at T = 0.01
    top = th.maximum(log_positive, log_sum).detach()
    positive, negative = th.exp(log_positive - top), th.exp(log_sum - top)
    floor = count * th.exp(-1.0 / temperature - top)
    debiased = th.maximum((negative - tau_plus * count * positive) / (1.0 - tau_plus), floor).masked_fill(~some, 0.0)
    # log1p(G / e), in a form that holds when e is as good as zero beside G
    losses = th.log(positive + debiased) + top - log_positive
    return row_mean(losses.masked_fill(~some, 0.0), pairs.rows)

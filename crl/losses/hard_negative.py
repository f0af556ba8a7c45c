"""Contrast that weights negatives by how hard they are."""

from __future__ import annotations

import torch as th

from crl.losses.checks import check_number, check_temperature
from crl.losses.debiased import check_tau_plus, loss_of_debiased_sum
from crl.losses.two_views import masked_logsumexp, two_views


def hard_negative_contrastive(
    z1: th.Tensor,
    z2: th.Tensor,
    temperature: float = 0.5,
    tau_plus: float = 0.1,
    beta: float = 1.0,
    *,
    rows: th.Tensor | None = None,
    negatives: th.Tensor | None = None,
) -> th.Tensor:
    """
    Hard negative sampling by importance weights (HCL, Robinson et al. 2021, arXiv:2010.04592): the debiased loss with
    ``sum_j w_ij x_ij / mean_j w_ij`` in place of ``sum_j x_ij``, where ``x_ij = exp(n_ij / T)`` and ``w_ij = x_ij ** beta``.
    As in the authors' code the gradient flows through the weights. ``beta=0`` is :func:`debiased_contrastive`; that and
    ``tau_plus=0`` NT-Xent. Harmful where most hard negatives are false ones, as in slow or static scenes: mask these.

    :param z1: ``(batch, width)``, first views
    :param z2: ``(batch, width)``, second views
    :param temperature: positive; 0.5 in the paper
    :param tau_plus: chance that a negative shows what the anchor shows, in [0, 1); 0.1 in the paper
    :param beta: concentration on hard negatives, >= 0; 1 in the paper
    :param rows: ``(batch,)`` bool, False leaves sample i out of the mean; it stays a negative of the others
    :param negatives: ``(batch, batch)`` bool, False takes sample j, in both views, out of sample i's negatives; with none left
        its loss is 0
    :return: scalar float32
    :raises ValueError: when shapes do not fit, for a batch of 1, or for parameters out of range
    """
    check_temperature(temperature)
    check_tau_plus(tau_plus)
    check_number("beta", beta, 0.0)
    pairs = two_views(z1, z2, rows, negatives)
    logits = pairs.cosine / temperature
    weighted, _ = masked_logsumexp((1.0 + beta) * logits, pairs.negative)
    weights, _ = masked_logsumexp(beta * logits, pairs.negative)
    log_sum = weighted - weights + pairs.negative.sum(dim=1).clamp(min=1).to(logits.dtype).log()
    return loss_of_debiased_sum(pairs, log_sum, temperature, tau_plus)

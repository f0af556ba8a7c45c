"""Model-aware contrast: the temperature follows the alignment of the batch."""

from __future__ import annotations

import torch as th
import torch.nn.functional as F

from crl.losses.checks import check_number, check_temperature, row_mean
from crl.losses.two_views import masked_logsumexp, two_views

#: Least factor of the temperature. With alpha <= 0.5 it cannot be met; with alpha = 1 a negative one could.
_LEAST_FACTOR = 0.01
#: Least ``1 - P`` in the weight ``1 / (1 - P)``.
_LEAST_MISS = 1e-8


def model_aware_contrastive(
    z1: th.Tensor,
    z2: th.Tensor,
    temperature: float = 0.1,
    alpha: float = 0.5,
    a0: float = 0.0,
    *,
    reweight: bool = True,
    rows: th.Tensor | None = None,
    negatives: th.Tensor | None = None,
) -> th.Tensor:
    """
    Model-aware contrastive loss (MACL, Huang et al. 2023, arXiv:2207.07874) over 2 * batch embeddings. With P_i the softmax
    probability of the other view (as in NT-Xent) at temperature ``T (1 + alpha (A - a0))``, A the mean cosine of positives:
    the mean over i of ``-log(P_i) / (1 - P_i)``. Neither A nor the weight ``1 / (1 - P_i)`` gets a gradient, as in the
    authors' code. As the batch aligns the temperature grows, and hard negatives, then likely false, are pushed less. The
    weight cancels the ``1 - P_i`` that slows NT-Xent: the gradient is that of :func:`decoupled_contrastive`.

    :param z1: ``(batch, width)``, first views
    :param z2: ``(batch, width)``, second views
    :param temperature: positive; 0.1 in the paper
    :param alpha: how far the temperature follows, in [0, 1]; 0.5 in the paper
    :param a0: alignment at which ``temperature`` holds, in [0, 1]; 0 in the paper
    :param reweight: False leaves out the weight; with ``alpha=0`` as well, this is NT-Xent
    :param rows: ``(batch,)`` bool, False leaves sample i out of both means; it stays a negative of the others
    :param negatives: ``(batch, batch)`` bool, False takes sample j, in both views, out of sample i's negatives; with none left
        its loss is 0
    :return: scalar float32
    :raises ValueError: when shapes do not fit, for a batch of 1, or for parameters out of range
    """
    check_temperature(temperature)
    check_number("alpha", alpha, 0.0, 1.0)
    check_number("a0", a0, 0.0, 1.0)
    pairs = two_views(z1, z2, rows, negatives)
    alignment = row_mean(pairs.positive.detach(), pairs.rows)
    adapted = temperature * (1.0 + alpha * (alignment - a0)).clamp(min=_LEAST_FACTOR)
    push, some = masked_logsumexp(pairs.cosine / adapted, pairs.negative)
    # P = sigmoid(-margin): both -log P and 1 - P keep their digits where P is as good as 1
    margin = push - pairs.positive / adapted
    losses = F.softplus(margin)
    if reweight:
        losses = losses / th.sigmoid(margin.detach()).clamp(min=_LEAST_MISS)
    return row_mean(losses.masked_fill(~some, 0.0), pairs.rows)

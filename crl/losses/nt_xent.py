"""NT-Xent, the loss of SimCLR."""

from __future__ import annotations

import torch as th

from crl.losses.checks import check_temperature, row_mean
from crl.losses.two_views import two_views


def nt_xent(
    z1: th.Tensor,
    z2: th.Tensor,
    temperature: float = 0.5,
    *,
    rows: th.Tensor | None = None,
    negatives: th.Tensor | None = None,
) -> th.Tensor:
    """
    Normalised temperature-scaled cross-entropy (Chen et al. 2020, arXiv:2002.05709): each of the 2 * batch embeddings
    should pick its other view among the remaining ``2 * batch - 1``, the negatives of its own view included. Symmetric.

    :param z1: ``(batch, width)``, first views
    :param z2: ``(batch, width)``, second views
    :param temperature: positive; 0.5 in SimCLR
    :param rows: ``(batch,)`` bool, False leaves sample i out of the mean; it stays a negative of the others
    :param negatives: ``(batch, batch)`` bool, False takes sample j, in both views, out of sample i's negatives
    :return: scalar float32
    :raises ValueError: when shapes do not fit, for a batch of 1, or when the temperature is not positive
    """
    check_temperature(temperature)
    pairs = two_views(z1, z2, rows, negatives)
    logits = pairs.cosine / temperature
    partner = th.eye(len(z1), dtype=th.bool, device=logits.device).repeat(2, 2).fill_diagonal_(False)
    logits = logits.masked_fill(~(pairs.negative | partner), float("-inf"))
    return row_mean(th.logsumexp(logits, dim=1) - pairs.positive / temperature, pairs.rows)

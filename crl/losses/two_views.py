"""What losses on 2 * batch embeddings, the two views of a batch stacked, have in common."""

from __future__ import annotations

from typing import NamedTuple

import torch as th

from crl.losses.checks import check_mask, check_pair, unit_rows


class TwoViews(NamedTuple):
    """
    :param positive: ``(2 batch,)``, cosine of each embedding and its other view
    :param cosine: ``(2 batch, 2 batch)``, of all pairs
    :param negative: ``(2 batch, 2 batch)`` bool, True where column j is a negative of row i: not i itself, not its other view
    :param rows: ``(2 batch,)`` bool, which embeddings count in the mean; None: all
    """

    positive: th.Tensor
    cosine: th.Tensor
    negative: th.Tensor
    rows: th.Tensor | None


def two_views(z1: th.Tensor, z2: th.Tensor, rows: th.Tensor | None, negatives: th.Tensor | None) -> TwoViews:
    """
    :param z1: ``(batch, width)``, first views
    :param z2: ``(batch, width)``, second views
    :param rows: ``(batch,)`` bool, False leaves both views of sample i out of the mean; they stay negatives of the others
    :param negatives: ``(batch, batch)`` bool, False takes both views of sample j out of the negatives of sample i
    :raises ValueError: when shapes do not fit, for masks that are not bool, or for a batch of 1
    """
    z1, z2 = check_pair(z1, z2, ("z1", "z2"))
    batch = z1.shape[0]
    with th.autocast(z1.device.type, enabled=False):
        u = unit_rows(th.cat([z1, z2]))  # (2 batch, width)
        cosine = u @ u.T
    # the partner of row i is row i + batch, and the other way round
    positive = th.cat([cosine.diagonal(batch), cosine.diagonal(-batch)])
    negative = ~th.eye(batch, dtype=th.bool, device=cosine.device)
    if negatives is not None:
        check_mask(negatives, negative.shape, "negatives")
        negative = negative & negatives
    if rows is not None:
        check_mask(rows, th.Size([batch]), "rows")
        rows = rows.repeat(2)
    return TwoViews(positive, cosine, negative.repeat(2, 2), rows)


def masked_logsumexp(logits: th.Tensor, mask: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """
    ``logsumexp`` over the columns where the mask is True. Rows without any give 0 and no gradient.

    :param logits: ``(n, m)``
    :param mask: ``(n, m)`` bool
    :return: ``(n,)`` sums, and ``(n,)`` bool, whether the row had a column
    """
    some = mask.any(dim=1)
    # the gradient of a logsumexp of nothing is nan: such rows are given zeros to sum
    logits = logits.masked_fill(~mask & some[:, None], float("-inf")).masked_fill(~some[:, None], 0.0)
    return th.logsumexp(logits, dim=1).masked_fill(~some, 0.0), some

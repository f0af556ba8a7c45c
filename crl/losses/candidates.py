"""Cross-entropy over any number of candidates, of which some may not count."""

from __future__ import annotations

import torch as th

from crl.losses.checks import check_mask, common_float


def candidate_cross_entropy(
    logits: th.Tensor, labels: th.Tensor, rows: th.Tensor | None = None, candidates: th.Tensor | None = None
) -> th.Tensor:
    """
    Mean over i of ``logsumexp_j(logits[i, j]) - logits[i, labels[i]]``: an InfoNCE whose positives may stand in any column.

    :param logits: ``(rows, candidates)`` of any float type; computed in float32 (float64 stays)
    :param labels: ``(rows,)`` int64, the column of each row's positive
    :param rows: ``(rows,)`` bool, False leaves row i out of the mean. With no row left the loss is 0 and has a graph.
    :param candidates: ``(rows, candidates)`` bool, or a shape that broadcasts to it; False takes column j out of row i's
        negatives. Positives always count.
    :return: scalar float32
    :raises ValueError: when shapes do not fit, or for masks that are not bool
    """
    if logits.dim() != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(
            f"logits must be (rows, candidates) and labels (rows,), got {tuple(logits.shape)} and {tuple(labels.shape)}"
        )
    logits = logits.to(common_float(logits))
    if candidates is not None:
        logits = mask_candidates(logits, labels, candidates)
    if rows is not None:
        check_mask(rows, logits.shape[:1], "rows")
        # before the logsumexp: the gradient of a row that holds infinities is nan, even when it is multiplied by zero later
        logits = logits.masked_fill(~rows[:, None], 0.0)
    losses = th.logsumexp(logits, dim=1) - logits.gather(1, labels[:, None]).squeeze(1)
    if rows is None:
        return losses.mean()
    return losses.masked_fill(~rows, 0.0).sum() / rows.sum().clamp(min=1)


def mask_candidates(logits: th.Tensor, labels: th.Tensor, candidates: th.Tensor) -> th.Tensor:
    """
    ``-inf`` where a candidate does not count, unless it is the row's positive.

    :param logits: ``(rows, candidates)``
    :param labels: ``(rows,)`` int64
    :param candidates: bool, broadcasts to ``logits``
    :raises ValueError: for a mask that does not fit or is not bool
    """
    if candidates.dtype != th.bool or th.broadcast_shapes(candidates.shape, logits.shape) != logits.shape:
        raise ValueError(
            f"candidates must be bool and broadcast to {tuple(logits.shape)}, got {tuple(candidates.shape)} {candidates.dtype}"
        )
    positive = labels[:, None] == th.arange(logits.shape[1], device=logits.device)
    return logits.masked_fill(~(candidates | positive), float("-inf"))

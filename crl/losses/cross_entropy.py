"""Cross-entropy whose right answer for row i is column i."""

from __future__ import annotations

import torch as th

from crl.losses.checks import check_batch, check_mask, common_float


def diagonal_cross_entropy(logits: th.Tensor, rows: th.Tensor | None = None, negatives: th.Tensor | None = None) -> th.Tensor:
    """
    Mean over i of ``logsumexp_j(logits[i, j]) - logits[i, i]``.

    :param logits: ``(batch, batch)`` of any float type; computed in float32
    :param rows: ``(batch,)`` bool, False leaves row i out of the mean (its positive lies behind the end of an episode, say);
        as a column, a negative of the others, it stays. With no row left the loss is 0 and has a graph.
    :param negatives: ``(batch, batch)`` bool, False takes column j out of row i's negatives (the same scene, say); the
        diagonal always counts. A row with no negative left has loss 0 and counts in the mean, unless ``rows`` leaves it out
    :return: scalar float32
    :raises ValueError: when shapes do not fit, for masks that are not bool, or for a batch of 1
    """
    if logits.dim() != 2 or logits.shape[0] != logits.shape[1]:
        raise ValueError(f"logits must be (batch, batch), the positives on the diagonal; got {tuple(logits.shape)}")
    check_batch(logits.shape[0])
    logits = logits.to(common_float(logits))
    if negatives is not None:
        check_mask(negatives, logits.shape, "negatives")
        diagonal = th.eye(logits.shape[0], dtype=th.bool, device=logits.device)
        logits = logits.masked_fill(~(negatives | diagonal), float("-inf"))
    if rows is None:
        return (th.logsumexp(logits, dim=1) - logits.diagonal()).mean()
    check_mask(rows, logits.shape[:1], "rows")
    # Before the logsumexp: the gradient of a row that holds infinities is nan, even when it is multiplied by zero later
    logits = logits.masked_fill(~rows[:, None], 0.0)
    losses = th.logsumexp(logits, dim=1) - logits.diagonal()
    return losses.masked_fill(~rows, 0.0).sum() / rows.sum().clamp(min=1)

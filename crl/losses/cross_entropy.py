"""Cross-entropy whose right answer for row i is column i."""

from __future__ import annotations

import torch as th

from crl.losses.checks import at_least_float32


def diagonal_cross_entropy(logits: th.Tensor, rows: th.Tensor | None = None, negatives: th.Tensor | None = None) -> th.Tensor:
    """
    Mean over i of ``logsumexp_j(logits[i, j]) - logits[i, i]``.

    :param logits: ``(batch, batch)`` of any float type; computed in float32
    :param rows: ``(batch,)`` bool, False leaves row i out of the mean (its positive lies behind the end of an episode, say);
        as a column, a negative of the others, it stays. With no row left the loss is 0 and has a graph.
    :param negatives: ``(batch, batch)`` bool, False takes column j out of row i's negatives (the same scene, say); the
        diagonal always counts
    :return: scalar
    :raises ValueError: when shapes do not fit
    """
    if logits.dim() != 2 or logits.shape[0] != logits.shape[1]:
        raise ValueError(f"logits must be (batch, batch), got {tuple(logits.shape)}")
    logits = at_least_float32(logits)
    if negatives is not None:
        if negatives.shape != logits.shape:
            raise ValueError(f"negatives must be {tuple(logits.shape)} bool, got {tuple(negatives.shape)}")
        diagonal = th.eye(logits.shape[0], dtype=th.bool, device=logits.device)
        logits = logits.masked_fill(~(negatives | diagonal), float("-inf"))
    losses = th.logsumexp(logits, dim=1) - logits.diagonal()
    if rows is None:
        return losses.mean()
    if rows.shape != losses.shape:
        raise ValueError(f"rows must be {tuple(losses.shape)} bool, got {tuple(rows.shape)}")
    # where() and not a product: a row that does not count may hold infinities
    return th.where(rows, losses, losses.new_zeros(())).sum() / rows.sum().clamp(min=1)

"""What objectives on windows of steps share: views of several steps, what counts, who may be a negative, other losses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch as th

from crl.contract import Encoder, Objective, SequenceBatch, ViewBatch
from crl.losses import PairLoss, pair_loss
from crl.losses.candidates import candidate_cross_entropy, mask_candidates
from crl.losses.checks import common_float
from crl.metrics import contrast_metrics, negative_similarity, positive_similarity, top1_accuracy


def device_of(encoder: Encoder) -> th.device:
    """Where the encoder's weights are."""
    return next(iter(encoder.parameters())).device


def as_windows(objective: Objective, batch: ViewBatch | SequenceBatch) -> SequenceBatch:
    """
    :param objective: what it asks for is what it must get
    :param batch: the answer to its request
    :return: the same batch
    :raises ValueError: for views, or windows of too few steps
    """
    name, steps = type(objective).__name__, objective.request.steps
    if not isinstance(batch, SequenceBatch):
        raise ValueError(f"{name} needs windows of {steps} steps and got views: answer its request, {objective.request}")
    if batch.steps < steps:
        raise ValueError(f"{name} needs windows of {steps} steps, got {batch.steps}: answer its request, {objective.request}")
    return batch


def views_of(batch: SequenceBatch, steps: Sequence[int]) -> th.Tensor:
    """
    Freshly augmented views of several steps, one after the other, for one pass through an encoder.

    :param batch: of windows
    :param steps: each 0..T
    :return: ``(len(steps) * batch, channels, height, width)``; row ``i * batch + j`` shows step ``steps[i]`` of window j
    """
    return th.cat([batch.view(t) for t in steps]) if len(steps) > 1 else batch.view(steps[0])


def counted(batch: SequenceBatch) -> th.Tensor:
    """``(batch, T + 1)`` bool: which observations count."""
    return th.cat([th.ones_like(batch.mask[:, :1]), batch.mask], dim=1)


def check_negatives(name: str, hard_negatives: int, negative_window: int) -> None:
    """:raises ValueError: for numbers below 0, or for both at once"""
    if hard_negatives < 0 or negative_window < 0:
        raise ValueError(
            f"{name}(hard_negatives={hard_negatives}, negative_window={negative_window}): both at least 0, and 0 is off"
        )
    if hard_negatives and negative_window:
        raise ValueError(
            f"{name}(hard_negatives={hard_negatives}, negative_window={negative_window}): one adds neighbours of the "
            "positive to the negatives, the other takes them out; choose one"
        )


def far_apart(batch: SequenceBatch, window: int) -> th.Tensor | None:
    """
    Which windows may be negatives of each other: all but those of the same episode less than ``window`` steps apart. These
    look so much alike that pushing them apart teaches noise.

    :param batch: with :attr:`SequenceBatch.episode` and ``time``
    :param window: 0: all may be, and None is returned
    :return: ``(batch, batch)`` bool; the diagonal means nothing
    :raises ValueError: when the windows do not tell where they are from
    """
    if window == 0:
        return None
    episode, time = origin_of(batch, window)
    near = (time[:, None] - time).abs() < window
    return ~(near & (episode[:, None] == episode))


def candidates_of(rows: th.Tensor, negatives: th.Tensor | None) -> th.Tensor:
    """
    :param rows: ``(batch,)`` bool, rows that count; a key whose query does not is no negative either, for it may be padding
    :param negatives: ``(batch, batch)`` bool, see :func:`far_apart`; None: all
    :return: ``(batch, batch)`` bool, which keys each query is compared with
    """
    candidates = rows[None].expand(len(rows), len(rows))
    return candidates if negatives is None else candidates & negatives


def origin_of(batch: SequenceBatch, window: int) -> tuple[th.Tensor, th.Tensor]:
    """
    :param batch: of windows
    :param window: for the message
    :return: episode and time of each window's first step, ``(batch,)`` int64
    :raises ValueError: when the windows do not tell where they are from
    """
    if batch.episode is None or batch.time is None:
        raise ValueError(
            f"negative_window={window} needs windows that tell where they are from: the batch has no episode and time "
            "(DataRequest(origin=True) asks for them)"
        )
    return batch.episode, batch.time


def pair_contrast(
    query: th.Tensor,
    key: th.Tensor,
    rows: th.Tensor,
    negatives: th.Tensor | None = None,
    hard: th.Tensor | None = None,
    hard_counts: th.Tensor | None = None,
) -> tuple[th.Tensor, dict[str, th.Tensor]]:
    """
    InfoNCE of dot products: each query should pick its own key among those of the batch and its own hard negatives.

    :param query: ``(batch, width)``
    :param key: ``(batch, width)``
    :param rows: ``(batch,)`` bool, queries that count; a key whose query does not is no negative either, for it may be padding
    :param negatives: ``(batch, batch)`` bool, see :func:`far_apart`
    :param hard: ``(n, batch, width)``, further negatives of each query alone
    :param hard_counts: ``(n, batch)`` bool, those of them that count
    :return: loss and metrics
    """
    batch = len(query)
    dtype = common_float(query, key)
    with th.autocast(query.device.type, enabled=False):
        query = query.to(dtype)
        logits = query @ key.to(dtype).T
        if hard is not None:
            logits = th.cat([logits, th.einsum("bd,nbd->bn", query, hard.to(dtype))], dim=1)
    labels = th.arange(batch, device=query.device)
    candidates = candidates_of(rows, negatives)
    if hard_counts is not None:
        candidates = th.cat([candidates, hard_counts.T], dim=1)
    loss = candidate_cross_entropy(logits, labels, rows, candidates)
    scores = logits.detach()
    metrics = {
        "loss": loss.detach(),
        "accuracy": top1_accuracy(mask_candidates(scores, labels, candidates), rows),
        "positive_similarity": positive_similarity(scores, rows),
        "negative_similarity": negative_similarity(scores[:, :batch], rows),
    }
    return loss, metrics


def other_loss(
    name: str, own: str, loss: str, loss_kwargs: dict[str, Any] | None, negative_window: int = 0
) -> PairLoss | None:
    """
    The loss of pairs that a user wants in place of an objective's own.

    :param name: of the objective, for messages
    :param own: its own loss
    :param loss: see :func:`crl.losses.pair_loss`
    :param loss_kwargs: parameters
    :param negative_window: of the objective
    :return: None for its own
    :raises ValueError: for what does not exist, and for a negative window where the batch holds no negatives
    """
    try:
        pair = pair_loss(loss, **(loss_kwargs or {}))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    if pair.name == own:
        if loss_kwargs:
            raise ValueError(f"{name}(loss={loss!r}) is its own loss and takes no loss_kwargs")
        return None
    if negative_window and pair.spec.negatives != "batch":
        raise ValueError(f"{name}(loss={loss!r}) has no negatives in the batch: leave negative_window at 0")
    return pair


def contrast_by(
    pair: PairLoss, query: th.Tensor, key: th.Tensor, rows: th.Tensor, negatives: th.Tensor | None = None
) -> tuple[th.Tensor, dict[str, th.Tensor]]:
    """
    As :func:`pair_contrast`, by another loss.

    :param pair: built for the width
    :param query: ``(batch, width)``
    :param key: ``(batch, width)``; its gradient is cut where the loss would collapse with it
    :param rows: ``(batch,)`` bool
    :param negatives: ``(batch, batch)`` bool
    :return: loss and metrics
    """
    if pair.spec.needs_predictor:
        key = key.detach()
    candidates = candidates_of(rows, negatives) if pair.spec.negatives == "batch" else None
    loss = pair(query, key, rows, candidates)
    return loss, contrast_metrics(loss, pair.scores(query, key), rows)


def contrast_steps_by(pair: PairLoss, predictions: th.Tensor, targets: th.Tensor, mask: th.Tensor) -> th.Tensor:
    """
    Each step of a rollout on its own, since time alone would tell those of another step apart; the mean over all rows that
    count.

    :param pair: built for the width
    :param predictions: ``(k, batch, width)``
    :param targets: ``(k, batch, width)``
    :param mask: ``(k, batch)`` bool
    """
    total = n_rows = th.zeros((), device=mask.device)
    for prediction, target, rows in zip(predictions, targets, mask, strict=True):
        n = rows.sum()
        total = total + contrast_by(pair, prediction, target, rows)[0] * n
        n_rows = n_rows + n
    return total / n_rows.clamp(min=1)

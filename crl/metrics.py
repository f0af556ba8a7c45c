"""
What a representation looks like: numbers for the log.

Every function returns a detached 0-dim float32 tensor on the inputs' device. None waits for the device, except
:func:`effective_rank` on a GPU, whose singular values do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch as th
import torch.nn.functional as F


@th.no_grad()
def top1_accuracy(logits: th.Tensor, rows: th.Tensor | None = None) -> th.Tensor:
    """
    Share of rows whose largest logit is on the diagonal. Among equal logits the first counts as the largest, so a collapsed
    representation gets 1 / batch and not 1.

    :param logits: ``(batch, batch)``
    :param rows: ``(batch,)`` bool, False leaves row i out of the mean; nan when none is left
    """
    labels = th.arange(logits.shape[0], device=logits.device)
    return _mean((logits.argmax(dim=1) == labels).float(), rows)


@th.no_grad()
def positive_similarity(logits: th.Tensor, rows: th.Tensor | None = None) -> th.Tensor:
    """
    Mean of the diagonal.

    :param logits: ``(batch, batch)``, similarities of any kind
    :param rows: ``(batch,)`` bool, False leaves row i out of the mean; nan when none is left
    """
    return _mean(logits.diagonal().float(), rows)


@th.no_grad()
def negative_similarity(logits: th.Tensor, rows: th.Tensor | None = None) -> th.Tensor:
    """
    Mean of everything off the diagonal.

    :param logits: ``(batch, batch)``, batch at least 2; before negatives are masked with -inf
    :param rows: ``(batch,)`` bool, False leaves row i out of the mean (as a column it stays); nan when none is left
    """
    logits = logits.float()
    diagonal = th.eye(logits.shape[0], dtype=th.bool, device=logits.device)
    return _mean(logits.masked_fill(diagonal, 0.0).sum(dim=1) / (logits.shape[0] - 1), rows)


def contrast_metrics(loss: th.Tensor, scores: th.Tensor, rows: th.Tensor | None = None) -> dict[str, th.Tensor]:
    """
    What every contrast logs.

    :param loss: scalar
    :param scores: ``(batch, batch)``, similarities with the pairs on the diagonal
    :param rows: see :func:`top1_accuracy`
    :return: ``loss``, ``accuracy``, ``positive_similarity``, ``negative_similarity``
    """
    return {
        "loss": loss.detach(),
        "accuracy": top1_accuracy(scores, rows),
        "positive_similarity": positive_similarity(scores, rows),
        "negative_similarity": negative_similarity(scores, rows),
    }


def _mean(values: th.Tensor, rows: th.Tensor | None) -> th.Tensor:
    """Over the rows that count. Not ``values[rows]``, which waits for the device."""
    return values.mean() if rows is None else values.masked_fill(~rows, 0.0).sum() / rows.sum()


@th.no_grad()
def embedding_std(z: th.Tensor) -> th.Tensor:
    """
    Standard deviation over the batch, averaged over dimensions; it goes to 0 when a representation collapses.

    :param z: ``(batch, width)``
    """
    return z.float().std(dim=0, correction=0).mean()


@th.no_grad()
def effective_rank(z: th.Tensor) -> th.Tensor:
    """
    Exponential of the entropy of the normalised singular values (Roy & Vetterli 2007), of the centred embeddings: how many
    directions are really used, from 1 to ``min(batch - 1, width)``. A collapsed batch gives 1, one that is not finite nan.
    Centred, because the direction that all embeddings share tells none of them apart.

    :param z: ``(batch, width)``
    """
    z = z.float()
    z = z - z.mean(dim=0)
    finite = z.isfinite().all()
    # svdvals raises for what is not finite, and a number for the log must not end a run
    values = th.linalg.svdvals(th.where(finite, z, 0.0))
    share = values / values.sum().clamp_min(1e-12)
    return th.exp(th.special.entr(share).sum()).where(finite, th.nan)


@th.no_grad()
def dormant_fraction(activations: th.Tensor, tau: float = 0.025) -> th.Tensor:
    """
    Share of units whose mean absolute activation is at most ``tau`` times that of their layer (Sokar et al. 2023,
    arXiv:2302.12902).

    :param activations: ``(batch, units, ...)`` of one layer; conv maps count one unit a channel
    :param tau: threshold; 0.025 for the networks of the paper, 0 counts units that are exactly silent
    """
    score = activations.detach().float().abs().transpose(0, 1).flatten(1).mean(dim=1)
    return (score <= tau * score.mean()).float().mean()


@th.no_grad()
def alignment(z1: th.Tensor, z2: th.Tensor) -> th.Tensor:
    """
    Mean squared distance of the two views on the unit sphere (Wang & Isola 2020, arXiv:2005.10242); 0 is best.

    :param z1: ``(batch, width)``
    :param z2: ``(batch, width)``
    """
    return (F.normalize(z1.float(), dim=1) - F.normalize(z2.float(), dim=1)).square().sum(dim=1).mean()


@th.no_grad()
def uniformity(z: th.Tensor) -> th.Tensor:
    """
    Logarithm of the mean Gaussian potential of all pairs on the unit sphere (Wang & Isola 2020): 0 when all coincide, lower
    is more spread.

    :param z: ``(batch, width)``, batch at least 2
    """
    distances = th.pdist(F.normalize(z.float(), dim=1))
    return th.logsumexp(-2.0 * distances.square(), dim=0) - math.log(max(len(distances), 1))


@th.no_grad()
def grad_norm(gradients: Sequence[th.Tensor | None]) -> th.Tensor:
    """
    Euclidean norm of all gradients together. Of parameters: ``grad_norm([p.grad for p in parameters])``.

    :param gradients: tensors of any shape; None, a parameter that got no gradient, counts as zero
    """
    given = [g.detach().float() for g in gradients if g is not None]
    return th.nn.utils.get_total_norm(given)


@th.no_grad()
def grad_cosine(a: Sequence[th.Tensor | None], b: Sequence[th.Tensor | None]) -> th.Tensor:
    """
    Cosine of two gradients of the same parameters, in [-1, 1]; 0 when one of them is zero.

    :param a: tensors; None, a parameter that got no gradient, counts as zero
    :param b: tensors of the same shapes, or None
    """
    norms = grad_norm(a) * grad_norm(b)
    both = [(x, y) for x, y in zip(a, b, strict=True) if x is not None and y is not None]
    if not both:
        return th.zeros_like(norms)
    dot = th.stack([th.sum(x.detach().float() * y.detach().float()) for x, y in both]).sum()
    # rounding may go past 1
    return (dot / norms.clamp_min(1e-30)).clamp(-1.0, 1.0)

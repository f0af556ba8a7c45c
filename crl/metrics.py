"""
What a representation looks like: numbers for the log.

Every function returns a detached 0-dim tensor on the inputs' device and never waits for the device.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch as th
import torch.nn.functional as F


@th.no_grad()
def top1_accuracy(logits: th.Tensor) -> th.Tensor:
    """
    Share of rows whose largest logit is on the diagonal.

    :param logits: ``(batch, batch)``
    """
    labels = th.arange(logits.shape[0], device=logits.device)
    return (logits.argmax(dim=1) == labels).float().mean()


@th.no_grad()
def positive_similarity(logits: th.Tensor) -> th.Tensor:
    """
    Mean of the diagonal.

    :param logits: ``(batch, batch)``, similarities of any kind
    """
    return logits.diagonal().float().mean()


@th.no_grad()
def negative_similarity(logits: th.Tensor) -> th.Tensor:
    """
    Mean of everything off the diagonal.

    :param logits: ``(batch, batch)``, batch at least 2
    """
    n = logits.shape[0]
    return (logits.float().sum() - logits.diagonal().float().sum()) / (n * (n - 1))


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
    directions are really used, from 1 to ``min(batch - 1, width)``. A collapsed batch gives 1.

    :param z: ``(batch, width)``
    """
    z = z.float()
    values = th.linalg.svdvals(z - z.mean(dim=0))
    share = values / values.sum().clamp_min(1e-12)
    return th.exp(th.special.entr(share).sum())


@th.no_grad()
def dormant_fraction(activations: th.Tensor, tau: float = 0.025) -> th.Tensor:
    """
    Share of units whose mean absolute activation is at most ``tau`` times that of their layer (Sokar et al. 2023,
    arXiv:2302.12902).

    :param activations: ``(batch, units, ...)`` of one layer; conv maps count one unit a channel
    :param tau: threshold
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
    return th.logsumexp(-2.0 * distances.square(), dim=0) - th.log(th.tensor(float(len(distances)), device=z.device))


@th.no_grad()
def grad_norm(gradients: Sequence[th.Tensor]) -> th.Tensor:
    """
    Euclidean norm of all gradients together.

    :param gradients: tensors of any shape, at least one
    """
    return th.linalg.vector_norm(th.stack(th._foreach_norm([g.detach().float() for g in gradients])))


@th.no_grad()
def grad_cosine(a: Sequence[th.Tensor], b: Sequence[th.Tensor]) -> th.Tensor:
    """
    Cosine of two gradients of the same parameters, in [-1, 1]; 0 when one of them is zero.

    :param a: tensors
    :param b: tensors of the same shapes
    """
    dot = th.stack([(x.detach().float() * y.detach().float()).sum() for x, y in zip(a, b, strict=True)]).sum()
    return dot / (grad_norm(a) * grad_norm(b)).clamp_min(1e-30)

"""Distributions of returns on a fixed grid (Bellemare et al. 2017, arXiv:1707.06887)."""

from __future__ import annotations

import torch as th


def project_distribution(probabilities: th.Tensor, rewards: th.Tensor, discounts: th.Tensor, support: th.Tensor) -> th.Tensor:
    """
    The distribution of ``r + discount * z``, brought back onto the grid: the mass of each shifted atom, cut off at the grid's
    ends, is shared by its two neighbours in proportion to nearness.

    Each grid point gathers from all atoms through a triangular kernel: one small matrix product instead of scattered sums, no
    rounding at whole atoms to be mended, nothing that waits for the device.

    :param probabilities: ``(batch, atoms)`` of the next state, rows sum to 1
    :param rewards: ``(batch,)``, n-step returns
    :param discounts: ``(batch,)``, discount to the power of the steps, 0 where the episode ended
    :param support: ``(atoms,)``, evenly spaced, ascending
    :return: ``(batch, atoms)``, rows sum to 1
    :raises ValueError: for shapes that do not belong together
    """
    batch, atoms = probabilities.shape
    if support.shape != (atoms,) or atoms < 2 or rewards.shape != (batch,) or discounts.shape != (batch,):
        raise ValueError(
            f"probabilities {tuple(probabilities.shape)} need a support ({atoms},) of at least 2 atoms, and rewards and "
            f"discounts ({batch},); got {tuple(support.shape)}, {tuple(rewards.shape)}, {tuple(discounts.shape)}"
        )
    low, high = support[0], support[-1]
    spacing = (high - low) / (atoms - 1)
    moved = rewards[:, None] + discounts[:, None] * support  # (batch, atoms)
    moved = th.minimum(th.maximum(moved, low), high)
    kernel = (1.0 - (moved[:, None, :] - support[None, :, None]).abs() / spacing).clamp(min=0.0)  # (batch, to, from)
    return (kernel @ probabilities[:, :, None]).squeeze(2)


def categorical_cross_entropy(target: th.Tensor, logits: th.Tensor) -> th.Tensor:
    """
    ``-sum_j target_j log softmax(logits)_j`` of each row: not reduced, as prioritised replay weighs rows and remembers them.

    :param target: ``(batch, atoms)``, rows sum to 1, no gradient is sent there
    :param logits: ``(batch, atoms)``
    :return: ``(batch,)`` float32 or better
    """
    dtype = th.float64 if logits.dtype == th.float64 else th.float32
    return -(target.detach() * logits.to(dtype).log_softmax(dim=1)).sum(dim=1)


#: probabilities and divergences below it count as it, as in SPR's code
_SMALLEST = 1e-6


def categorical_divergence(target: th.Tensor, logits: th.Tensor) -> th.Tensor:
    """
    Kullback-Leibler divergence of each row's ``softmax(logits)`` from its target: 0 where the prediction is right, whatever
    the entropy of the target, which cross-entropy adds. SPR (Schwarzer et al. 2021, arXiv:2007.05929) takes it as priority.

    :param target: ``(batch, atoms)``, rows sum to 1
    :param logits: ``(batch, atoms)``
    :return: ``(batch,)`` in [1e-6, 1e6], float32 or better
    """
    dtype = th.float64 if logits.dtype == th.float64 else th.float32
    target = target.to(dtype).clamp(_SMALLEST, 1.0)
    divergence = (target * (target.log() - logits.to(dtype).log_softmax(dim=1))).sum(dim=1)
    return divergence.clamp(_SMALLEST, 1.0 / _SMALLEST)

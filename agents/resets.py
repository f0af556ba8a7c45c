"""Periodic resets of an agent's networks against the loss of plasticity (D'Oro et al. 2023; Schwarzer et al. 2023)."""

from __future__ import annotations

from collections.abc import Iterable

import torch as th
from torch import nn


@th.no_grad()
def shrink_and_perturb(module: nn.Module, fresh: nn.Module, keep: float) -> None:
    """
    ``weights <- keep * weights + (1 - keep) * fresh`` in place, so that optimisers hold the same parameters; buffers become
    the fresh ones where nothing is kept, and stay otherwise (running statistics describe weights that are mostly there).

    :param module: moved
    :param fresh: of the same architecture, newly initialised
    :param keep: in [0, 1]; 0 resets
    :raises ValueError: out of range, or for another architecture
    """
    if not 0.0 <= keep <= 1.0:
        raise ValueError(f"keep={keep}: the share of the weights that stays lies in [0, 1]")
    weights, new = list(module.parameters()), list(fresh.parameters())
    if [p.shape for p in weights] != [p.shape for p in new]:
        raise ValueError(f"shrink_and_perturb: {type(fresh).__name__} is no fresh {type(module).__name__} of the same widths")
    for parameter, start in zip(weights, new, strict=True):
        parameter.mul_(keep).add_(start, alpha=1.0 - keep)
    if keep == 0.0:
        for buffer, new_buffer in zip(module.buffers(), fresh.buffers(), strict=True):
            buffer.copy_(new_buffer)


def forget_steps(optimizer: th.optim.Optimizer, parameters: Iterable[nn.Parameter]) -> None:
    """
    Moments and step counts of parameters, as if the optimiser had never stepped them.

    :param optimizer: of the agent
    :param parameters: that were reset
    """
    for parameter in parameters:
        optimizer.state.pop(parameter, None)

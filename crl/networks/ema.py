"""Exponential moving averages of modules (momentum or target encoders)."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch as th
from torch import nn

M = TypeVar("M")


def ema_copy(module: M) -> M:
    """
    A deep copy that never gets gradients and stays in evaluation mode.

    :param module: module to copy
    """
    clone = copy.deepcopy(module)
    if not isinstance(clone, nn.Module):
        raise TypeError(f"ema_copy copies torch modules, got {type(module).__name__}")
    clone.requires_grad_(False)
    clone.eval()
    return clone


@th.no_grad()
def ema_update(target: nn.Module, online: nn.Module, tau: float) -> None:
    """
    ``target <- (1 - tau) * target + tau * online`` for all parameters, in one fused call; buffers (running statistics)
    are copied, as an average of them would belong to no network.

    :param target: moved, in place
    :param online: read; same architecture
    :param tau: in [0, 1]; 1 copies
    :raises ValueError: when tau is out of range or the two modules do not match
    """
    if not 0.0 <= tau <= 1.0:
        raise ValueError(f"tau={tau}: an EMA rate lies in [0, 1]")
    targets: list[th.Tensor] = list(target.parameters())
    onlines: list[th.Tensor] = list(online.parameters())
    if [p.shape for p in targets] != [p.shape for p in onlines]:
        raise ValueError("ema_update: the two modules have different parameters; the target must be a copy of the online one")
    if targets and tau > 0.0:
        th._foreach_lerp_(targets, [p.detach() for p in onlines], tau)
    for buffer, source in zip(target.buffers(), online.buffers(), strict=True):
        buffer.copy_(source)

"""The residual body of Achievement Distillation: IMPALA's, wider, with normalised inputs of every convolution."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch as th
from torch import nn

from crl.networks.pre_norm import conv_relu, pre_norm_conv

#: filters of the three stacks as published; IMPALA's own are 16, 32, 32
FILTERS = (64, 128, 128)
BLOCKS = 2


class _PreNormResidual(nn.Module):
    """Two normalised convolutions around a skip connection; nothing follows the sum."""

    def __init__(self, filters: int, norm: float) -> None:
        super().__init__()
        self.convs = nn.Sequential(pre_norm_conv(filters, filters, norm), pre_norm_conv(filters, filters, norm))

    def forward(self, x: th.Tensor) -> th.Tensor:
        return x + self.convs(x)


def pre_norm_impala_body(channels: int, filters: Sequence[int] = FILTERS) -> nn.Sequential:
    """
    Stacks of a convolution, 3x3 max-pool with stride 2, group normalisation over all channels, and two residual blocks. The
    first convolution sees the pixels as they are, all others normalise what they get. 64x64 comes out as 8x8 (3 stacks).

    :param channels: input channels
    :param filters: of each stack
    :raises ValueError: without any, or for one below 1
    """
    if not filters or min(filters) < 1:
        raise ValueError(f"filters={list(filters)}: one number for each stack, at least 1")
    # at the start, the blocks of all stacks together add about as much as the stacks' own convolutions
    norm = math.sqrt(1 / math.sqrt(len(filters)) / math.sqrt(BLOCKS))
    layers: list[nn.Module] = []
    previous = channels
    for index, width in enumerate(filters):
        layers.append(conv_relu(previous, width, bias=True) if index == 0 else pre_norm_conv(previous, width))
        layers += [nn.MaxPool2d(3, stride=2, padding=1), nn.GroupNorm(1, width)]
        layers += [_PreNormResidual(width, norm) for _ in range(BLOCKS)]
        previous = width
    return nn.Sequential(*layers)

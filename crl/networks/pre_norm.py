"""
Layers that normalise their input instead of their output, and the weights they begin with: the parts of the residual encoder
of Achievement Distillation (Moon et al. 2023, arXiv:2307.03486).
"""

from __future__ import annotations

import torch as th
from torch import nn

from crl.networks.conv_stack import ConvStack


def scale_rows_(weight: th.Tensor, norm: float) -> th.Tensor:
    """
    Give every output unit's weights the same length, in place; their directions stay.

    :param weight: ``(outputs, ...)``, drawn already
    :param norm: L2 norm of each unit's weights
    :return: ``weight``
    :raises ValueError: for a norm that is not positive
    """
    if norm <= 0:
        raise ValueError(f"norm={norm}: must be positive")
    with th.no_grad():
        rows = weight.flatten(1)
        weight.mul_((norm / rows.norm(dim=1)).view(-1, *[1] * (weight.dim() - 1)))
    return weight


def conv_relu(inputs: int, outputs: int, norm: float = 1.0, bias: bool = False) -> ConvStack:
    """
    A 3x3 convolution that keeps height and width, and ReLU.

    :param inputs: channels
    :param outputs: channels
    :param norm: L2 norm of each filter at the start
    :param bias: the convolution has one, zero at the start
    """
    conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias)
    scale_rows_(conv.weight, norm)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return ConvStack(conv, nn.ReLU())


def pre_norm_conv(inputs: int, outputs: int, norm: float = 1.0) -> nn.Sequential:
    """
    Group normalisation over all channels and pixels, 3x3 convolution without bias, ReLU.

    :param inputs: channels
    :param outputs: channels
    :param norm: L2 norm of each filter at the start
    """
    return nn.Sequential(nn.GroupNorm(1, inputs), conv_relu(inputs, outputs, norm))


def pre_norm_dense(inputs: int, outputs: int, norm: float = 1.0) -> list[nn.Module]:
    """
    LayerNorm, a linear layer without bias, ReLU.

    :param inputs: width
    :param outputs: width
    :param norm: L2 norm of each unit's weights at the start
    """
    linear = nn.Linear(inputs, outputs, bias=False)
    scale_rows_(linear.weight, norm)
    return [nn.LayerNorm(inputs), linear, nn.ReLU()]

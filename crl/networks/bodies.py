"""
Convolutional bodies: ``(batch, channels, height, width)`` float to ``(batch, filters, height', width')``, any input size.

A body ends before flattening; what follows (flatten, linear, norm) is the head of an encoder.
"""

from __future__ import annotations

import torch as th
from torch import nn

from crl.networks.conv_stack import ConvStack


def pixel_body(channels: int, filters: int = 32, layers: int = 4) -> ConvStack:
    """
    The body of SAC-AE, CURL and DrQ: 3x3 convolutions without padding, stride 2 then 1, each followed by ReLU.
    84x84 comes out as 35x35, 64x64 as 25x25 (4 layers).

    :param channels: input channels (9 for three RGB frames)
    :param filters: of every layer
    :param layers: number of convolutions (4 in CURL and DrQ)
    """
    stack: list[nn.Module] = []
    for i in range(layers):
        stack += [nn.Conv2d(channels if i == 0 else filters, filters, 3, stride=2 if i == 0 else 1), nn.ReLU()]
    return ConvStack(*stack)


def nature_body(channels: int, padding: str = "valid") -> ConvStack:
    """
    The body of DQN (Mnih et al. 2015): 32 filters 8x8 stride 4, 64 4x4 stride 2, 64 3x3 stride 1, each followed by ReLU.
    84x84 comes out as 7x7 (3136 features), or, padded, as 11x11 (7744 features).

    :param channels: input channels (4 for four grey frames)
    :param padding: ``"valid"``: none, as published; ``"same"``: zeros, so that a layer with stride s makes ``ceil(side / s)``
        of each side of 84x84, as Dopamine's agents have it (the odd row and column of zeros comes last)
    :raises ValueError: for another padding
    """
    if padding not in ("valid", "same"):
        raise ValueError(f"nature_body(padding={padding!r}): choose 'valid' or 'same'")
    stack: list[nn.Module] = []
    # zeros before and behind rows and columns: 84 -> 21 -> 11 -> 11
    for before, after, (inputs, filters, kernel, stride) in (
        (2, 2, (channels, 32, 8, 4)),
        (1, 2, (32, 64, 4, 2)),
        (1, 1, (64, 64, 3, 1)),
    ):
        if padding == "same" and before != after:
            stack.append(nn.ZeroPad2d((before, after, before, after)))
        symmetric = before if padding == "same" and before == after else 0
        stack += [nn.Conv2d(inputs, filters, kernel, stride=stride, padding=symmetric), nn.ReLU()]
    return ConvStack(*stack)


def rainbow_body(channels: int) -> ConvStack:
    """
    The body of data-efficient Rainbow (van Hasselt et al. 2019, arXiv:1906.05243): 32 filters 5x5 stride 5, 64 5x5
    stride 5. 84x84 comes out as 3x3 (576 features).

    :param channels: input channels
    """
    return ConvStack(nn.Conv2d(channels, 32, 5, stride=5), nn.ReLU(), nn.Conv2d(32, 64, 5, stride=5), nn.ReLU())


class _Residual(nn.Module):
    """Two 3x3 convolutions around a skip connection, ReLU before each."""

    def __init__(self, filters: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(filters, filters, 3, padding=1)
        self.conv2 = nn.Conv2d(filters, filters, 3, padding=1)

    def forward(self, x: th.Tensor) -> th.Tensor:
        return x + self.conv2(th.relu(self.conv1(th.relu(x))))


def impala_body(channels: int, width: float = 1.0) -> nn.Sequential:
    """
    The deep residual body of IMPALA (Espeholt et al. 2018, arXiv:1802.01561): three stages of convolution, 3x3 max-pool
    with stride 2 and two residual blocks, with 16, 32, 32 filters times ``width``; ReLU at the end. 84x84 comes out as 11x11.

    :param channels: input channels
    :param width: multiplies the filters of every stage
    """
    stack: list[nn.Module] = []
    previous = channels
    for base in (16, 32, 32):
        filters = max(1, round(base * width))
        stack += [nn.Conv2d(previous, filters, 3, padding=1), nn.MaxPool2d(3, stride=2, padding=1)]
        stack += [_Residual(filters), _Residual(filters)]
        previous = filters
    return nn.Sequential(*stack, nn.ReLU())

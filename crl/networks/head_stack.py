"""What follows a conv body: flatten, linear, and so on, whatever the layout of the feature map."""

from __future__ import annotations

import torch as th
import torch.nn.functional as F
from torch import nn

from crl.networks.linear import FastLinear, fast_linear


class HeadStack(nn.Sequential):
    """
    ``nn.Sequential``. Large batches of feature maps whose channels are innermost in memory are flattened as they lie, and the
    columns of the linear layer that follows are brought into their order: the same sums up to rounding, for the copy of a
    matrix instead of one of every image.
    """

    def forward(self, x: th.Tensor) -> th.Tensor:
        """``(batch, filters, height, width)`` to ``(batch, features)``."""
        layers = list(self)
        while layers:
            layer = layers.pop(0)
            follower = layers[0] if layers else None
            pair = type(layer) is nn.Flatten and type(follower) in (nn.Linear, FastLinear)
            if pair and _channels_innermost(x) and len(x) > follower.out_features:  # type: ignore[union-attr, operator]
                x = _flatten_linear(x, follower)  # type: ignore[arg-type]
                layers.pop(0)
            else:
                x = layer(x)
        return x


def _channels_innermost(x: th.Tensor) -> bool:
    return x.dim() == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=th.channels_last)


def _flatten_linear(x: th.Tensor, layer: nn.Linear) -> th.Tensor:
    batch, filters, height, width = x.shape
    weight = layer.weight.reshape(-1, filters, height * width).transpose(1, 2).reshape(len(layer.weight), -1)
    product = fast_linear if isinstance(layer, FastLinear) else F.linear
    return product(x.permute(0, 2, 3, 1).reshape(batch, -1), weight, layer.bias)

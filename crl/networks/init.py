"""Weight initialisations of pixel encoders."""

from __future__ import annotations

import torch as th
from torch import nn

#: what :func:`initialize` accepts
INITS = ("delta_orthogonal", "orthogonal", "xavier", "default")


def delta_orthogonal_(weight: th.Tensor, gain: float = 1.0) -> th.Tensor:
    """
    Delta-orthogonal initialisation (Xiao et al. 2018, arXiv:1806.05393), in place: every tap is zero but the centre one,
    which is orthogonal, so that at the start a convolution is an orthogonal map of the channels at each pixel.

    :param weight: ``(out_channels, in_channels, k, k)``, k odd
    :param gain: scale of the orthogonal matrix
    :return: ``weight``
    :raises ValueError: for an even or non-square kernel, which has no centre tap
    """
    if weight.dim() != 4 or weight.shape[2] != weight.shape[3] or weight.shape[2] % 2 == 0:
        raise ValueError(f"delta-orthogonal init needs an odd square kernel (out, in, k, k), got {tuple(weight.shape)}")
    centre = weight.shape[2] // 2
    with th.no_grad():
        weight.zero_()
        nn.init.orthogonal_(weight[:, :, centre, centre], gain)
    return weight


def initialize(module: nn.Module, init: str) -> None:
    """
    Initialise every linear and conv layer of a module, biases zero: linear layers orthogonal with gain 1, conv layers with
    gain sqrt(2) (CURL, DrQ).

    :param module: walked recursively
    :param init: ``"delta_orthogonal"`` (CURL; conv layers with even kernels fall back to orthogonal, since they have no
        centre tap), ``"orthogonal"`` (DrQ: the flattened kernel), ``"xavier"`` (Dopamine: uniform, of Glorot's variance, for
        both kinds of layer), ``"default"`` (torch's, nothing is touched)
    :raises ValueError: for another name
    """
    if init not in INITS:
        raise ValueError(f"init={init!r}: choose one of {', '.join(INITS)}")
    if init == "default":
        return
    gain = nn.init.calculate_gain("relu")
    for layer in module.modules():
        if init == "xavier" and isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.xavier_uniform_(layer.weight)
        elif isinstance(layer, nn.Linear):
            nn.init.orthogonal_(layer.weight)
        elif isinstance(layer, nn.Conv2d):
            if init == "delta_orthogonal" and layer.kernel_size[0] % 2 == 1:
                delta_orthogonal_(layer.weight, gain)
            else:
                nn.init.orthogonal_(layer.weight, gain)
        else:
            continue
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)

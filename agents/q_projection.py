"""The first dense layers of a Q network, as objectives that predict latent states see them (SPR's projection)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch as th
from gymnasium import spaces
from torch import nn

from crl.agents.network_input import LeanEncoder
from crl.networks.noisy import NoisyLinear


class QProjectionEncoder(LeanEncoder):
    """
    The agent's encoder followed by the dense layers that see its features, side by side: those of the value and of the
    advantage stream, without noise and without their ReLUs, as in SPR (Schwarzer et al. 2021, arXiv:2007.05929). What an
    objective does to them it does to the agent's own.

    :param extractor: the agent's, whose head flattens
    :param layers: linear or noisy, see :meth:`crl.agents.rainbow_policy.RainbowNetwork.first_layers`
    :param space: image space
    :param normalize_images: of the policy
    """

    def __init__(
        self, extractor: nn.Module, layers: Sequence[nn.Module], space: spaces.Box, normalize_images: bool = True
    ) -> None:
        super().__init__(extractor, space, normalize_images)
        self.layers = nn.ModuleList(layers)
        self.features_dim = sum(int(layer.out_features) for layer in layers)  # type: ignore[arg-type, misc]

    def __deepcopy__(self, memo: dict[int, Any]) -> QProjectionEncoder:
        copies = [copy.deepcopy(part, memo) for part in (self.extractor, *self.layers)]
        return QProjectionEncoder(copies[0], copies[1:], self.space, self.normalize_images)

    def forward(self, obs: th.Tensor) -> th.Tensor:
        """``(batch, channels, height, width)`` in 0..255 to ``(batch, features_dim)``."""
        return self.forward_head(self.feature_map(obs))

    def forward_head(self, feature_map: th.Tensor) -> th.Tensor:
        """``(batch, filters, height', width')`` to ``(batch, features_dim)``."""
        features = super().forward_head(feature_map)
        projected = [
            layer.without_noise(features) if isinstance(layer, NoisyLinear) else layer(features) for layer in self.layers
        ]
        return th.cat(projected, dim=1)

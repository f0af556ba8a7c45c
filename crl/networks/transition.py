"""Models of what an action does to a latent state: of feature maps (SPR) and of vectors."""

from __future__ import annotations

import torch as th
from torch import nn


class ConvTransition(nn.Module):
    """
    SPR's transition model (Schwarzer et al. 2021, arXiv:2007.05929): the action as constant planes behind the map, then
    convolution 3x3, ReLU, BatchNorm, convolution 3x3, ReLU, rescaled by :func:`rescale`.

    :param filters: of the map
    :param action_dim: width of the action vector
    :param hidden_filters: of the first convolution
    :param device: of the weights
    """

    def __init__(self, filters: int, action_dim: int, hidden_filters: int = 64, device: th.device | str | None = None) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(filters + action_dim, hidden_filters, 3, padding=1, device=device),
            nn.ReLU(),
            nn.BatchNorm2d(hidden_filters, device=device),
            nn.Conv2d(hidden_filters, filters, 3, padding=1, device=device),
            nn.ReLU(),
        )

    def forward(self, latent: th.Tensor, action: th.Tensor) -> th.Tensor:
        """
        :param latent: ``(batch, filters, height, width)``, in [0, 1]
        :param action: ``(batch, action_dim)``
        :return: as ``latent``
        """
        planes = action[:, :, None, None].expand(-1, -1, *latent.shape[2:])
        return rescale(self.layers(th.cat([latent, planes], dim=1)))


class VectorTransition(nn.Module):
    """
    A transition model of vectors: linear, LayerNorm, ELU, linear.

    :param width: of the latent state
    :param action_dim: width of the action vector
    :param hidden_dim: of the layer in between
    :param out_dim: of what is told; None: the next latent state, ``width``
    :param device: of the weights
    """

    def __init__(
        self,
        width: int,
        action_dim: int,
        hidden_dim: int = 512,
        out_dim: int | None = None,
        device: th.device | str | None = None,
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width + action_dim, hidden_dim, device=device),
            nn.LayerNorm(hidden_dim, device=device),
            nn.ELU(),
            nn.Linear(hidden_dim, width if out_dim is None else out_dim, device=device),
        )

    def forward(self, latent: th.Tensor, action: th.Tensor) -> th.Tensor:
        """
        :param latent: ``(batch, width)``
        :param action: ``(batch, action_dim)``
        :return: ``(batch, out_dim)``
        """
        return self.layers(th.cat([latent, action], dim=1))


def rescale(feature_map: th.Tensor) -> th.Tensor:
    """
    Each sample to [0, 1] by its own smallest and largest entry, so that a rollout neither grows nor fades; a constant map
    becomes zero.

    :param feature_map: ``(batch, ...)``
    """
    axes = tuple(range(1, feature_map.dim()))
    low, high = feature_map.amin(dim=axes, keepdim=True), feature_map.amax(dim=axes, keepdim=True)
    return (feature_map - low) / (high - low).clamp(min=1e-5)

"""Returns on one scale: running statistics for value heads that predict normalised returns."""

from __future__ import annotations

import torch as th
from torch import nn


class ValueNormalizer(nn.Module):
    """
    Exponentially weighted mean and variance of returns, debiased as Adam's moments are, in buffers that are saved with the
    policy. (The variant of PopArt, van Hasselt et al. 2016, arXiv:1602.07714, that leaves the head's weights alone.)

    Before the first update, mean is 0 and the variance the smallest one.

    :param beta: share of the old statistics that an update keeps
    :param eps: smallest variance, and smallest divisor of the debiasing
    :raises ValueError: for a share that is not between 0 and 1
    """

    sum: th.Tensor
    sum_of_squares: th.Tensor
    weight: th.Tensor

    def __init__(self, beta: float = 0.99, eps: float = 1e-2) -> None:
        super().__init__()
        if not 0 <= beta < 1:
            raise ValueError(f"beta={beta}: at least 0, below 1")
        if eps <= 0:
            raise ValueError(f"eps={eps}: must be positive")
        self.beta = beta
        self.eps = eps
        for name in ("sum", "sum_of_squares", "weight"):
            self.register_buffer(name, th.zeros(()))

    @th.no_grad()
    def update(self, returns: th.Tensor) -> None:
        """
        Let a batch into the statistics; nothing happens in evaluation mode.

        :param returns: any shape, float
        """
        if not self.training:
            return
        self.sum.lerp_(returns.mean(), 1 - self.beta)
        self.sum_of_squares.lerp_(returns.square().mean(), 1 - self.beta)
        self.weight.lerp_(th.ones_like(self.weight), 1 - self.beta)

    def mean_and_std(self) -> tuple[th.Tensor, th.Tensor]:
        """Of all returns so far, two scalars; the standard deviation is at least ``sqrt(eps)``."""
        weight = self.weight.clamp(min=self.eps)
        mean = self.sum / weight
        variance = (self.sum_of_squares / weight - mean.square()).clamp(min=self.eps)
        return mean, variance.sqrt()

    def normalize(self, returns: th.Tensor) -> th.Tensor:
        """
        :param returns: any shape
        :return: what the value head is to predict, same shape
        """
        mean, std = self.mean_and_std()
        return (returns - mean) / std

    def denormalize(self, values: th.Tensor) -> th.Tensor:
        """
        :param values: what the value head predicts, any shape
        :return: returns, same shape
        """
        mean, std = self.mean_and_std()
        return values * std + mean

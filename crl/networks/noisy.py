"""Linear layers with learned noise (Fortunato et al. 2018, arXiv:1706.10295), factorised."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch as th
from torch import nn

from crl.networks.linear import fast_linear


class NoisyLinear(nn.Module):
    """
    ``(mu_w + sigma_w * f(e_out) f(e_in)^T) x + mu_b + sigma_b * f(e_out)`` with ``f(e) = sign(e) sqrt|e|``: one draw for all
    inputs until :meth:`reset_noise` makes the next. In evaluation mode the noise is left out.

    Initialised as in the Rainbow that CURL and data-efficient Rainbow use: ``mu`` uniform within ``1 / sqrt(in_features)``,
    ``sigma_w = sigma0 / sqrt(in_features)``, ``sigma_b = sigma0 / sqrt(out_features)``.

    :param in_features: width of the input
    :param out_features: width of the output
    :param sigma0: scale of the noise; 0.1 in data-efficient Rainbow, 0.5 in Rainbow and SPR
    """

    noise_in: th.Tensor
    noise_out: th.Tensor

    def __init__(self, in_features: int, out_features: int, sigma0: float = 0.5) -> None:
        super().__init__()
        if not sigma0 >= 0:
            raise ValueError(f"NoisyLinear(sigma0={sigma0}): must not be negative")
        self.in_features = in_features
        self.out_features = out_features
        self.sigma0 = sigma0
        self.weight_mu = nn.Parameter(th.empty(out_features, in_features))
        self.weight_sigma = nn.Parameter(th.empty(out_features, in_features))
        self.bias_mu = nn.Parameter(th.empty(out_features))
        self.bias_sigma = nn.Parameter(th.empty(out_features))
        self.register_buffer("noise_in", th.zeros(in_features))
        self.register_buffer("noise_out", th.zeros(out_features))
        self.reset_parameters()
        self.reset_noise()

    def reset_parameters(self) -> None:
        """Initial values."""
        bound = 1.0 / math.sqrt(self.in_features)
        nn.init.uniform_(self.weight_mu, -bound, bound)
        nn.init.uniform_(self.bias_mu, -bound, bound)
        nn.init.constant_(self.weight_sigma, self.sigma0 / math.sqrt(self.in_features))
        nn.init.constant_(self.bias_sigma, self.sigma0 / math.sqrt(self.out_features))

    @th.no_grad()
    def reset_noise(self, generator: th.Generator | None = None) -> None:
        """
        Draw the noise anew.

        :param generator: on the layer's device; None takes torch's global one
        """
        for noise in (self.noise_in, self.noise_out):
            noise.normal_(generator=generator)
            noise.copy_(noise.sign() * noise.abs().sqrt())

    def forward(self, x: th.Tensor) -> th.Tensor:
        """``(..., in_features)`` to ``(..., out_features)``."""
        out = self.without_noise(x)
        if not self.training:
            return out
        # noise on the way in and on the way out: no matrix of the weights' size is made for it
        return out + (fast_linear(x * self.noise_in, self.weight_sigma) + self.bias_sigma) * self.noise_out

    def without_noise(self, x: th.Tensor) -> th.Tensor:
        """:meth:`forward` by the means of the weights alone, in any mode."""
        return fast_linear(x, self.weight_mu, self.bias_mu)


@th.no_grad()
def reset_noise(where: nn.Module | Sequence[NoisyLinear], generator: th.Generator | None = None) -> int:
    """
    Draw the noise of many layers anew, in one go.

    :param where: a module, walked recursively, or the layers themselves
    :param generator: see :meth:`NoisyLinear.reset_noise`
    :return: layers that have noise
    """
    modules = where.modules() if isinstance(where, nn.Module) else where
    noises = [noise for layer in modules if isinstance(layer, NoisyLinear) for noise in (layer.noise_in, layer.noise_out)]
    if noises:
        drawn = th.empty(sum(map(len, noises)), dtype=noises[0].dtype, device=noises[0].device)
        drawn.normal_(generator=generator)
        drawn = drawn.sign() * drawn.abs().sqrt()
        th._foreach_copy_(noises, list(drawn.split([len(noise) for noise in noises])))
    return len(noises) // 2


@contextmanager
def noise_on(module: nn.Module) -> Iterator[None]:
    """
    Noisy layers inside are noisy although the module is in evaluation mode: an agent that explores by noise.

    :param module: walked recursively
    """
    quiet = [layer for layer in module.modules() if isinstance(layer, NoisyLinear) and not layer.training]
    for layer in quiet:
        layer.training = True
    try:
        yield
    finally:
        for layer in quiet:
            layer.training = False

"""Linear layers of float32 networks by oneDNN, where torch's own way to MKL is slow."""

from __future__ import annotations

from typing import Any

import torch as th
import torch.nn.functional as F
from torch import nn

from crl.compute import onednn_linear


class _Product(th.autograd.Function):
    """``x @ weight.T + bias`` and its gradients, each by one call of oneDNN."""

    @staticmethod
    def forward(ctx: Any, x: th.Tensor, weight: th.Tensor, bias: th.Tensor | None) -> th.Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: th.Tensor) -> tuple[th.Tensor | None, th.Tensor | None, th.Tensor | None]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        # with create_graph=True (TRPO's products with the Hessian) this pass is differentiated itself: torch knows how to for
        # its own operations, not for oneDNN's
        product = F.linear if th.is_grad_enabled() else _product
        return (
            product(gradient, weight.t()) if of_x else None,
            product(gradient.t(), x.t()) if of_weight else None,
            gradient.sum(0) if of_bias else None,
        )


def _product(x: th.Tensor, weight: th.Tensor, bias: th.Tensor | None = None) -> th.Tensor:
    return th.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


class FastLinear(nn.Linear):
    """
    ``nn.Linear`` with the same parameters, names and results up to rounding; 2.2 times as fast in float32 on CPUs that MKL
    does not favour (see :func:`crl.compute.onednn_linear`), plain ``nn.Linear`` everywhere else.
    """

    def forward(self, input: th.Tensor) -> th.Tensor:
        """``(batch, in_features)`` to ``(batch, out_features)``; other shapes take torch's way."""
        return fast_linear(input, self.weight, self.bias)


def fast_linear(x: th.Tensor, weight: th.Tensor, bias: th.Tensor | None = None) -> th.Tensor:
    """``F.linear``, by oneDNN where :class:`FastLinear` says that it is faster."""
    plain = x.dim() != 2 or not x.is_cpu or x.dtype != th.float32 or weight.dtype != th.float32
    if plain or not len(x) or th.is_autocast_enabled("cpu") or not onednn_linear():
        return F.linear(x, weight, bias)
    if th.is_grad_enabled():
        return _Product.apply(x, weight, bias)
    return _product(x, weight, bias)


def speed_up_linear(module: nn.Module) -> int:
    """
    Turn every ``nn.Linear`` inside into a :class:`FastLinear`, in place: parameters, optimisers and state dicts stay as they
    are.

    :param module: walked recursively; subclasses of ``nn.Linear`` are left alone
    :return: layers changed
    """
    layers = [layer for layer in module.modules() if type(layer) is nn.Linear]
    for layer in layers:
        layer.__class__ = FastLinear
    return len(layers)

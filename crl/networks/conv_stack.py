"""Stacks of convolutions and ReLUs with each pair as one operation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch as th
from torch import nn

from crl.compute import onednn_bf16, onednn_convolution

Pair = tuple[int, int]


def _conv_relu(x: th.Tensor, weight: th.Tensor, bias: th.Tensor | None, stride: Pair, padding: Pair) -> th.Tensor:
    return th.ops.mkldnn._convolution_pointwise(x, weight, bias, padding, stride, (1, 1), 1, "relu", [], "")


class _ConvReLU(th.autograd.Function):
    """
    ReLU of a convolution: the mask of the backward pass is read off the output. The backward pass is made of operations that
    torch can differentiate again, for algorithms that need products with the Hessian (TRPO).
    """

    @staticmethod
    def forward(ctx: Any, x: th.Tensor, weight: th.Tensor, bias: th.Tensor | None, stride: Pair, padding: Pair) -> th.Tensor:
        out = _conv_relu(x, weight, bias, stride, padding)
        ctx.save_for_backward(x, weight, out)
        ctx.geometry = stride, padding, None if bias is None else bias.shape
        return out

    @staticmethod
    def backward(ctx: Any, gradient: th.Tensor) -> tuple[th.Tensor | None, ...]:
        x, weight, out = ctx.saved_tensors
        stride, padding, bias_shape = ctx.geometry
        # one layout for both: torch's kernel is twenty times slower where they differ
        gradient = th.ops.aten.threshold_backward(gradient.contiguous(memory_format=th.channels_last), out, 0)
        needed = [*ctx.needs_input_grad[:2], bias_shape is not None and ctx.needs_input_grad[2]]
        gradients = th.ops.aten.convolution_backward(
            gradient, x, weight, bias_shape, stride, padding, (1, 1), False, (0, 0), 1, needed
        )
        return *gradients, None, None


class ConvStack(nn.Sequential):
    """
    ``nn.Sequential`` of convolutions, each followed by a ReLU. On CPUs each pair is one call of oneDNN, with the same numbers
    and less memory traffic; elsewhere, and for layers that are no such pairs, it is ``nn.Sequential``.
    """

    def forward(self, x: th.Tensor) -> th.Tensor:
        """``(batch, channels, height, width)`` float to ``(batch, filters, height', width')``."""
        return run_conv_layers(list(self), x)


def run_conv_layers(layers: Sequence[nn.Module], x: th.Tensor) -> th.Tensor:
    """
    What ``nn.Sequential(*layers)(x)`` is, faster where that can be: see :class:`ConvStack`.

    :param layers: ``Conv2d, ReLU, Conv2d, ReLU, ...``, ``ZeroPad2d`` before a convolution; others run one by one
    :param x: ``(batch, channels, height, width)`` float
    """
    half = th.is_autocast_enabled("cpu")
    dtype = th.get_autocast_dtype("cpu") if half else x.dtype
    has_kernels = onednn_convolution() and (dtype == th.float32 or (half and dtype == th.bfloat16 and onednn_bf16()))
    # a trace is for other machines, and knows none of these kernels
    fits = not th.jit.is_tracing() and x.is_cpu and x.dim() == 4 and len(x) > 0
    if not fits or not has_kernels or not _are_pairs(layers):
        for layer in layers:
            x = layer(x)
        return x
    x = x.to(dtype=dtype, memory_format=th.channels_last)
    operation = _ConvReLU.apply if th.is_grad_enabled() else _conv_relu
    for conv in layers:
        if isinstance(conv, nn.ZeroPad2d):
            x = conv(x)
        if not isinstance(conv, nn.Conv2d):
            continue
        weight = conv.weight.to(dtype=dtype, memory_format=th.channels_last)
        bias = None if conv.bias is None else conv.bias.to(dtype)
        x = operation(x, weight, bias, conv.stride, conv.padding)  # type: ignore[arg-type]
    return x


def _are_pairs(layers: Sequence[nn.Module]) -> bool:
    layers = [layer for i, layer in enumerate(layers) if not _pads_a_convolution(layers, i)]
    return len(layers) % 2 == 0 and all(map(_is_pair, layers[::2], layers[1::2]))


def _pads_a_convolution(layers: Sequence[nn.Module], i: int) -> bool:
    return type(layers[i]) is nn.ZeroPad2d and i + 1 < len(layers) and type(layers[i + 1]) is nn.Conv2d


def _is_pair(conv: nn.Module, relu: nn.Module) -> bool:
    if type(conv) is not nn.Conv2d or type(relu) is not nn.ReLU:
        return False
    return conv.dilation == (1, 1) and conv.groups == 1 and conv.padding_mode == "zeros" and isinstance(conv.padding, tuple)

"""crl's faster kernels for models that are not crl's: SB3's own SAC, PPO, DQN ... with their own networks."""

from __future__ import annotations

from itertools import takewhile
from typing import Any

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import nn

from crl.compute import autocast, resolve_precision, tune_allocator
from crl.encoders import BodyHeadEncoder
from crl.networks import run_conv_layers, speed_up_linear

#: layers that may run in bf16 and channels last, before the first one that flattens or mixes pixels
_CONV_LAYERS = (nn.Conv2d, nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Tanh, nn.MaxPool2d, nn.AvgPool2d, nn.Identity)


class AcceleratedSequential(nn.Sequential):
    """
    ``nn.Sequential`` that begins with convolutions: those run in ``precision`` with channels last, the rest, and what comes
    out, in float32. Its slices do likewise.
    """

    precision: str

    def __getitem__(self, idx: Any) -> Any:
        part: Any = super().__getitem__(idx)
        if isinstance(idx, slice):  # a new Sequential of this class
            part.precision = self.precision
        return part

    def forward(self, x: th.Tensor) -> th.Tensor:
        """As ``nn.Sequential``."""
        body = list(takewhile(_is_conv_layer, self))
        if not body:  # the end of a slice
            return super().forward(x)
        with autocast(self.precision, x.device):
            out = run_conv_layers(body, x.contiguous(memory_format=th.channels_last))
        out = out.to(th.float32, memory_format=th.contiguous_format)
        for layer in list(self)[len(body) :]:
            out = layer(out)
        return out


def accelerate(model: BaseAlgorithm, precision: str = "auto") -> dict[str, Any]:
    """
    Make an SB3 model's networks faster, in place: convolutions in bf16 where the hardware is fast at it, with channels last
    and with their ReLUs inside; float32 linear layers by the faster of two libraries; memory kept in the process instead of
    being handed back after every tensor (:func:`crl.compute.tune_allocator`; a setting of the whole process).

    Parameters, optimisers, state dicts and saved files stay what they were: a loaded model is a plain one, to be accelerated
    again. Predictions agree up to the precision: about 1e-2 relative in bf16, rounding in float32. Call it right after
    building the model, before the first update.

    :param model: any SB3 or sb3-contrib algorithm with an image encoder whose convolutions stand in an ``nn.Sequential``
        (SB3's ``NatureCNN``, also inside ``CombinedExtractor``; crl's encoders)
    :param precision: of the convolutions: ``"fp32"``, ``"bf16"`` or ``"auto"``
    :return: what was done: ``precision`` (resolved), ``conv_bodies``, ``linear_layers``, ``allocator``
    :raises ValueError: for an unknown precision, or when there are no convolutions to be found
    """
    resolved = resolve_precision(precision, model.device)
    encoders = [module for module in model.policy.modules() if isinstance(module, BodyHeadEncoder)]
    inside = {id(part) for encoder in encoders for part in encoder.modules()}
    stacks = [
        module
        for module in model.policy.modules()
        if isinstance(module, nn.Sequential) and id(module) not in inside and _begins_with_convolutions(module)
    ]
    if not encoders and not stacks:
        raise ValueError(
            f"accelerate: no convolutions in {type(model.policy).__name__}. They are looked for in nn.Sequential modules that "
            "begin with a Conv2d (as SB3's NatureCNN has) and in crl's encoders: use 'CnnPolicy', or build the extractor so"
        )
    for encoder in encoders:
        encoder.precision = resolved
    for stack in stacks:
        stack.__class__ = AcceleratedSequential
        stack.precision = resolved  # type: ignore[assignment]
    return {
        "precision": resolved,
        "conv_bodies": len(encoders) + len(stacks),
        "linear_layers": speed_up_linear(model.policy),
        "allocator": tune_allocator(),
    }


def _is_conv_layer(layer: nn.Module) -> bool:
    return isinstance(layer, _CONV_LAYERS)


def _begins_with_convolutions(module: nn.Sequential) -> bool:
    return type(module) in (nn.Sequential, AcceleratedSequential) and any(
        isinstance(layer, nn.Conv2d) for layer in takewhile(_is_conv_layer, module)
    )

"""From uint8 images to what a conv body takes."""

from __future__ import annotations

import copy
from typing import Any

import torch as th

from crl.compute import resolve_precision
from crl.encoders import BodyHeadEncoder, ModelEncoder


def network_input(images: th.Tensor, encoder: BodyHeadEncoder, scale: bool = True) -> th.Tensor:
    """
    Crop, type, memory format and scale at once. Equal to the last bit to SB3's ``images.float() / 255`` followed by the
    body's own conversion, with a fraction of the memory traffic: bytes are moved, and float32 images are never written where
    the body computes in bf16 (which holds 0..255 exactly).

    :param images: ``(batch, channels, height, width)``, uint8 or float in 0..255, at least as large as the encoder's input
    :param encoder: that will see them
    :param scale: divide by 255 (SB3's ``normalize_images``)
    :return: ``(batch, channels, *encoder.input_size)``, float32, or bf16 if the encoder's body computes in it; channels last
    """
    if images.shape[-2:] != encoder.input_size:
        images = encoder._centre_crop(images)
    if not images.is_floating_point():
        images = images.contiguous(memory_format=th.channels_last)
    half = resolve_precision(encoder.precision, images.device) == "bf16" and not images.is_floating_point()
    out = images.to(th.bfloat16 if half else th.float32)
    return (out.div(255.0) if out is images else out.div_(255.0)) if scale else out


class LeanEncoder(ModelEncoder):
    """The agent's encoder as objectives see it, with :func:`network_input` before it. The body must be an encoder of crl."""

    def __deepcopy__(self, memo: dict[int, Any]) -> LeanEncoder:
        return LeanEncoder(copy.deepcopy(self.extractor, memo), self.space, self.normalize_images)

    def _preprocess(self, obs: th.Tensor) -> th.Tensor:
        assert isinstance(self.extractor, BodyHeadEncoder)
        return network_input(obs, self.extractor, self.normalize_images)

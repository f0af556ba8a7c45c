"""Random intensity, the second augmentation of DrQ on Atari and of SPR."""

from __future__ import annotations

import torch as th

from crl.augment.base import ImageAugmentation, Params, normal


class Intensity(ImageAugmentation):
    """
    Multiplies each image (all of its frames) by ``1 + scale * clip(N(0, 1), -2, 2)`` (Schwarzer et al. 2021,
    arXiv:2007.05929). The result is clipped to 0..255, which the published codes leave out; it is float32.

    :param scale: 0.05 as published
    :raises ValueError: outside [0, 0.5], where an image could become negative
    """

    def __init__(self, scale: float = 0.05) -> None:
        if not 0.0 <= scale <= 0.5:
            raise ValueError(f"Intensity(scale={scale}): from 0 to 0.5")
        self.scale = scale

    def draw(self, images: th.Tensor, generator: th.Generator) -> Params:
        """``factors``: ``(batch, 1, 1, 1)`` float32."""
        return {"factors": 1.0 + self.scale * normal((images.shape[0], 1, 1, 1), images, generator).clamp(-2.0, 2.0)}

    def apply(self, images: th.Tensor, params: Params) -> th.Tensor:
        """See :meth:`ImageAugmentation.apply`."""
        # uint8 times float32 is float32: no float copy of the images first
        return (images * params["factors"]).clamp_(0.0, 255.0).float()

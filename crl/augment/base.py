"""What all augmentations have in common: drawing parameters is one thing, applying them another."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch as th

Params = dict[str, Any]


class ImageAugmentation(ABC):
    """
    Call it on images ``(batch, channels, height, width)``, uint8 or float in 0..255. Crops, shifts, flips and
    erasing keep the dtype; what makes new values (rotation, blur, colours) returns float32, still in 0..255.

    The global random streams of torch are never touched: draws come from the generator that is passed, or, without one, from
    a fresh one with a random seed.
    """

    #: whether it only moves pixels about, so that images of any range will do
    keeps_values: bool = False

    def __call__(self, images: th.Tensor, generator: th.Generator | None = None) -> th.Tensor:
        """
        :param images: ``(batch, channels, height, width)``, uint8 or float, 0..255; not changed
        :param generator: for the draws; best on the images' device
        :return: as many images, of :meth:`output_size`
        :raises ValueError: for another rank or dtype, or images that the operation cannot work on
        """
        if images.dim() != 4:
            raise ValueError(f"{self!r} works on batches (batch, channels, height, width), got {tuple(images.shape)}")
        if images.dtype != th.uint8 and not images.is_floating_point():
            raise ValueError(
                f"{self!r} works on uint8 or float images in 0..255, got {images.dtype}: convert them with .byte()"
            )
        if generator is None:
            generator = th.Generator(images.device)
            generator.seed()
        return self.apply(images, self.draw(images, generator))

    @abstractmethod
    def draw(self, images: th.Tensor, generator: th.Generator) -> Params:
        """
        Parameters for each image of the batch; they can be applied to another batch of the same shape.

        :param images: only shape and device count
        :param generator: source of randomness
        """

    @abstractmethod
    def apply(self, images: th.Tensor, params: Params) -> th.Tensor:
        """
        :param images: ``(batch, channels, height, width)``
        :param params: from :meth:`draw`
        """

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """
        :param height: of the input
        :param width: of the input
        :return: height and width of the output
        :raises ValueError: when images of that size cannot be worked on
        """
        return height, width

    def __repr__(self) -> str:
        arguments = ", ".join(f"{key}={value!r}" for key, value in vars(self).items() if not key.startswith("_"))
        return f"{type(self).__name__}({arguments})"


def check_probability(who: str, probability: float) -> None:
    """:raises ValueError: outside 0..1"""
    if not 0.0 <= probability <= 1.0:
        raise ValueError(f"{who}(probability={probability}): from 0 (never) to 1 (always)")


def integers(high: int, size: tuple[int, ...], like: th.Tensor, generator: th.Generator) -> th.Tensor:
    """Uniform in 0..high inclusive, int64, on the device of ``like``."""
    return th.randint(high + 1, size, generator=generator, device=generator.device).to(like.device)


def uniform(size: tuple[int, ...], like: th.Tensor, generator: th.Generator) -> th.Tensor:
    """Uniform in [0, 1), float32, on the device of ``like``."""
    return th.rand(size, generator=generator, device=generator.device).to(like.device)


def normal(size: tuple[int, ...], like: th.Tensor, generator: th.Generator) -> th.Tensor:
    """Standard normal, float32, on the device of ``like``."""
    return th.randn(size, generator=generator, device=generator.device).to(like.device)

"""Random and central crops."""

from __future__ import annotations

import torch as th

from crl.augment.base import ImageAugmentation, Params, integers
from crl.augment.windows import cut_windows


class RandomCrop(ImageAugmentation):
    """
    A random window of each image, as in CURL and RAD (100x100 to 84x84).

    :param size: side of the square window, in pixels
    :param inclusive: offsets 0..H - size, all equally likely. False draws 0..H - size - 1 as the published code of CURL does,
        which never shows the last row and column.
    :raises ValueError: for a size below 1; when called, for images smaller than the window
    """

    keeps_values = True

    def __init__(self, size: int, inclusive: bool = True) -> None:
        if size < 1:
            raise ValueError(f"RandomCrop(size={size}): at least 1 pixel")
        self.size = size
        self.inclusive = inclusive

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """See :meth:`ImageAugmentation.output_size`."""
        check_window(self, self.size, height, width)
        if not self.inclusive and min(height, width) == self.size:
            raise ValueError(
                f"{self!r} leaves no offset to draw from in images of {height}x{width}: pass inclusive=True, or render larger"
            )
        return self.size, self.size

    def draw(self, images: th.Tensor, generator: th.Generator) -> Params:
        """``offsets``: ``(batch, 2)`` int64, top and left."""
        batch, _, height, width = images.shape
        self.output_size(height, width)
        less = self.size if self.inclusive else self.size + 1
        top = integers(height - less, (batch,), images, generator)
        left = integers(width - less, (batch,), images, generator)
        return {"offsets": th.stack([top, left], dim=1)}

    def apply(self, images: th.Tensor, params: Params) -> th.Tensor:
        """See :meth:`ImageAugmentation.apply`."""
        return cut_windows(images, params["offsets"], self.size, self.size)


class CenterCrop(ImageAugmentation):
    """
    The central window, the same for all images: what an agent trained on random crops sees when it acts.

    :param size: side of the square window, in pixels
    :raises ValueError: for a size below 1; when called, for images smaller than the window
    """

    keeps_values = True

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ValueError(f"CenterCrop(size={size}): at least 1 pixel")
        self.size = size

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """See :meth:`ImageAugmentation.output_size`."""
        check_window(self, self.size, height, width)
        return self.size, self.size

    def draw(self, images: th.Tensor, generator: th.Generator) -> Params:
        """Nothing is drawn."""
        self.output_size(*images.shape[-2:])
        return {}

    def apply(self, images: th.Tensor, params: Params) -> th.Tensor:
        """See :meth:`ImageAugmentation.apply`."""
        top, left = ((side - self.size) // 2 for side in images.shape[-2:])
        window = images[:, :, top : top + self.size, left : left + self.size]
        return window.clone(memory_format=th.contiguous_format)


def check_window(who: object, size: int, height: int, width: int) -> None:
    """:raises ValueError: when a window of ``size`` does not fit into the image"""
    if min(height, width) < size:
        raise ValueError(f"{who!r}: the window is larger than the images ({height}x{width}): render larger, or lower size")

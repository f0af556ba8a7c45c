"""Random and central crops."""

from __future__ import annotations

import torch as th

from crl.augment.base import ImageAugmentation, Params, integers


class RandomCrop(ImageAugmentation):
    """
    A random window of each image, as in CURL and RAD (100x100 to 84x84).

    :param size: side of the square window, in pixels
    :param inclusive: offsets 0..H - size, all equally likely. False draws 0..H - size - 1 as the published code of CURL does,
        which never shows the last row and column.
    :raises ValueError: for a size below 1; when called, for images smaller than the window
    """

    def __init__(self, size: int, inclusive: bool = True) -> None:
        if size < 1:
            raise ValueError(f"RandomCrop(size={size}): at least 1 pixel")
        self.size = size
        self.inclusive = inclusive

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """See :meth:`ImageAugmentation.output_size`."""
        smallest = self.size if self.inclusive else self.size + 1
        if min(height, width) < smallest:
            raise ValueError(
                f"{self!r}: the window is larger than the images ({height}x{width}): render larger, or lower size"
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
        return gather_windows(images, params["offsets"], self.size, self.size)


class CenterCrop(ImageAugmentation):
    """
    The central window, the same for all images: what an agent trained on random crops sees when it acts.

    :param size: side of the square window, in pixels
    :raises ValueError: for a size below 1; when called, for images smaller than the window
    """

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ValueError(f"CenterCrop(size={size}): at least 1 pixel")
        self.size = size

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """See :meth:`ImageAugmentation.output_size`."""
        return RandomCrop(self.size).output_size(height, width)

    def draw(self, images: th.Tensor, generator: th.Generator) -> Params:
        """Nothing is drawn."""
        self.output_size(*images.shape[-2:])
        return {}

    def apply(self, images: th.Tensor, params: Params) -> th.Tensor:
        """See :meth:`ImageAugmentation.apply`."""
        top, left = ((side - self.size) // 2 for side in images.shape[-2:])
        return images[:, :, top : top + self.size, left : left + self.size]


def gather_windows(images: th.Tensor, offsets: th.Tensor, height: int, width: int) -> th.Tensor:
    """
    The window of each image that begins at its offset; pixels beyond an edge repeat it. One gather, no synchronisation.

    :param images: ``(batch, channels, H, W)``
    :param offsets: ``(batch, 2)`` int64, top and left, may be negative
    :param height: of the windows
    :param width: of the windows
    """
    batch, channels, full_height, full_width = images.shape
    rows = (offsets[:, :1] + th.arange(height, device=images.device)).clamp(0, full_height - 1)
    columns = (offsets[:, 1:] + th.arange(width, device=images.device)).clamp(0, full_width - 1)
    index = rows[:, :, None] * full_width + columns[:, None, :]  # (batch, height, width) into the flat image
    index = index.reshape(batch, 1, -1).expand(-1, channels, -1)
    return images.reshape(batch, channels, -1).gather(2, index).reshape(batch, channels, height, width)

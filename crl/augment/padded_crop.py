"""The views of CURL on Atari."""

from __future__ import annotations

import torch as th

from crl.augment.base import ImageAugmentation, Params, integers
from crl.augment.crop import check_window
from crl.augment.windows import cut_windows


class PaddedCrop(ImageAugmentation):
    """
    A random window, padded by repeating its edge, and a random window of that: the code of CURL on Atari crops 84x84 to 80,
    pads by 4 and crops 84 (Laskin et al. 2020, arXiv:2004.04136). The image comes back in its own size, moved about and with
    some of its border replaced.

    :param crop: side of the first window
    :param pad: pixels of padding on each side
    :param size: side of the second window
    :raises ValueError: for a second window that is larger than the padded first one; when called, for images smaller than the
        first
    """

    keeps_values = True

    def __init__(self, crop: int = 80, pad: int = 4, size: int = 84) -> None:
        if crop < 1 or pad < 0 or not 1 <= size <= crop + 2 * pad:
            raise ValueError(f"PaddedCrop(crop={crop}, pad={pad}, size={size}): size from 1 to crop + 2 * pad")
        self.crop = crop
        self.pad = pad
        self.size = size

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """See :meth:`ImageAugmentation.output_size`."""
        check_window(self, self.crop, height, width)
        return self.size, self.size

    def draw(self, images: th.Tensor, generator: th.Generator) -> Params:
        """``first``, ``second``: ``(batch, 2)`` int64, top and left of each window, those of the second in the first."""
        batch, _, height, width = images.shape
        self.output_size(height, width)
        first = [integers(side - self.crop, (batch,), images, generator) for side in (height, width)]
        second = integers(self.crop + 2 * self.pad - self.size, (batch, 2), images, generator) - self.pad
        return {"first": th.stack(first, dim=1), "second": second}

    def apply(self, images: th.Tensor, params: Params) -> th.Tensor:
        """See :meth:`ImageAugmentation.apply`."""
        window = cut_windows(images, params["first"], self.crop, self.crop)
        return cut_windows(window, params["second"], self.size, self.size)

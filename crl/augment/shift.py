"""Random shift, the augmentation of DrQ."""

from __future__ import annotations

import torch as th

from crl.augment.base import ImageAugmentation, Params, integers
from crl.augment.windows import cut_windows


class RandomShift(ImageAugmentation):
    """
    Moves each image by up to ``pad`` pixels in both directions; the edge is repeated where nothing is left (Kostrikov et al.
    2020, arXiv:2004.13649). The same as padding by replication and cropping back, without the padding.

    :param pad: largest shift, in pixels; 4 at 84x84
    :raises ValueError: for a negative pad
    """

    keeps_values = True

    def __init__(self, pad: int = 4) -> None:
        if pad < 0:
            raise ValueError(f"RandomShift(pad={pad}): 0 or more pixels")
        self.pad = pad

    def draw(self, images: th.Tensor, generator: th.Generator) -> Params:
        """``offsets``: ``(batch, 2)`` int64, top and left of the window, -pad..pad."""
        return {"offsets": integers(2 * self.pad, (images.shape[0], 2), images, generator) - self.pad}

    def apply(self, images: th.Tensor, params: Params) -> th.Tensor:
        """See :meth:`ImageAugmentation.apply`."""
        return cut_windows(images, params["offsets"], *images.shape[-2:])

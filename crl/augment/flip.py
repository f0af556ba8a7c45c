"""Mirroring."""

from __future__ import annotations

import torch as th

from crl.augment.base import ImageAugmentation, Params, check_probability, uniform


class HorizontalFlip(ImageAugmentation):
    """
    Mirrors left and right. Only for tasks that look the same in a mirror: the action does not change sides with the image.

    :param probability: with which an image is mirrored
    :raises ValueError: outside 0..1
    """

    keeps_values = True

    def __init__(self, probability: float = 0.5) -> None:
        check_probability("HorizontalFlip", probability)
        self.probability = probability

    def draw(self, images: th.Tensor, generator: th.Generator) -> Params:
        """``active``: ``(batch,)`` bool."""
        return {"active": uniform((images.shape[0],), images, generator) < self.probability}

    def apply(self, images: th.Tensor, params: Params) -> th.Tensor:
        """See :meth:`ImageAugmentation.apply`."""
        return th.where(params["active"].reshape(-1, 1, 1, 1), images.flip(3), images)

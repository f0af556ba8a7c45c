"""Several augmentations in a row."""

from __future__ import annotations

from collections.abc import Sequence

import torch as th

from crl.augment.base import ImageAugmentation, Params


class Compose(ImageAugmentation):
    """
    Applies augmentations one after the other.

    :param augmentations: at least one
    :raises ValueError: when there is none, or one that is no :class:`ImageAugmentation`
    """

    def __init__(self, augmentations: Sequence[ImageAugmentation]) -> None:
        augmentations = list(augmentations)
        if not augmentations or not all(isinstance(item, ImageAugmentation) for item in augmentations):
            raise ValueError(f"Compose needs at least one augmentation of crl.augment and nothing else, got {augmentations}")
        self.augmentations = augmentations

    @property
    def keeps_values(self) -> bool:  # type: ignore[override]
        """Whether all of them do."""
        return all(item.keeps_values for item in self.augmentations)

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """See :meth:`ImageAugmentation.output_size`."""
        for augmentation in self.augmentations:
            height, width = augmentation.output_size(height, width)
        return height, width

    def draw(self, images: th.Tensor, generator: th.Generator) -> Params:
        """``steps``: the parameters of each augmentation."""
        steps, (height, width) = [], images.shape[-2:]
        for augmentation in self.augmentations:
            # only shape and device count: an expanded scalar stands for what the earlier steps will have made
            stand_in = images.new_empty(1, 1, 1, 1).expand(*images.shape[:2], height, width)
            steps.append(augmentation.draw(stand_in, generator))
            height, width = augmentation.output_size(height, width)
        return {"steps": steps}

    def apply(self, images: th.Tensor, params: Params) -> th.Tensor:
        """See :meth:`ImageAugmentation.apply`."""
        for augmentation, step in zip(self.augmentations, params["steps"], strict=True):
            images = augmentation.apply(images, step)
        return images

"""Augmentations of colour."""

from __future__ import annotations

import torch as th

from crl.augment.base import Params, check_probability
from crl.augment.kornia_ops import KorniaAugmentation


class ColorJitter(KorniaAugmentation):
    """
    Random brightness, contrast, saturation and hue. Each image has its own amounts; the order of the four is drawn once a
    batch.

    :param brightness: factor in max(0, 1 - b) .. 1 + b
    :param contrast: factor in max(0, 1 - c) .. 1 + c
    :param saturation: factor in max(0, 1 - s) .. 1 + s
    :param hue: shift in -h .. h, at most 0.5
    :param probability: with which an image is changed
    :param frame_channels: 3 for RGB frames; 1 for grey ones, which have brightness and contrast alone
    :raises ValueError: for values out of range; when called, for channels that are no multiple of ``frame_channels``
    """

    def __init__(
        self,
        brightness: float = 0.4,
        contrast: float = 0.4,
        saturation: float = 0.4,
        hue: float = 0.5,
        probability: float = 1.0,
        frame_channels: int = 3,
    ) -> None:
        check_probability("ColorJitter", probability)
        amounts = {"brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": hue}
        for key, value in amounts.items():
            if value < 0.0:
                raise ValueError(f"ColorJitter({key}={value}): 0 (unchanged) or more")
        if hue > 0.5:
            raise ValueError(f"ColorJitter(hue={hue}): at most 0.5, half of the colour circle")
        if frame_channels not in (1, 3):
            raise ValueError(f"ColorJitter(frame_channels={frame_channels}): 3 for RGB frames or 1 for grey ones")
        super().__init__("ColorJitter", frame_channels, **amounts, p=probability)

    def _operate_on_frame(self, frame: th.Tensor, params: Params) -> th.Tensor:
        # Saturation and hue are defined for RGB alone. Grey as RGB has none of both and stays grey.
        grey = frame.shape[1] == 1
        return super()._operate_on_frame(frame.expand(-1, 3, -1, -1) if grey else frame, params)[:, : frame.shape[1]]


class Grayscale(KorniaAugmentation):
    """
    Grey in all three colours.

    :param probability: with which an image is changed
    :param frame_channels: 3, as grey frames are grey already
    :raises ValueError: for values out of range; when called, for channels that are no multiple of 3
    """

    def __init__(self, probability: float = 0.3, frame_channels: int = 3) -> None:
        check_probability("Grayscale", probability)
        if frame_channels != 3:
            raise ValueError(f"Grayscale(frame_channels={frame_channels}): only RGB frames, which have 3, can be made grey")
        super().__init__("RandomGrayscale", frame_channels, p=probability)

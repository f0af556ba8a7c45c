"""Augmentations of kornia, made to serve stacked frames, values in 0..255 and our generators."""

from __future__ import annotations

from typing import Any

import torch as th

from crl.augment.base import ImageAugmentation, Params


def check_frame_channels(who: object, images: th.Tensor, frame_channels: int) -> None:
    """:raises ValueError: when the channels are no whole number of frames"""
    if images.shape[1] % frame_channels:
        raise ValueError(
            f"{who!r}: {images.shape[1]} channels are no stack of frames of {frame_channels} channels: pass frame_channels="
        )


def as_frames(images: th.Tensor, frame_channels: int) -> th.Tensor:
    """``(batch, k * c, height, width)`` to ``(batch, k, c, height, width)``."""
    return images.reshape(images.shape[0], -1, frame_channels, *images.shape[-2:])


class KorniaAugmentation(ImageAugmentation):
    """
    Any 2-D augmentation of kornia, with one draw for all frames of an image.

    kornia draws from torch's global generators: they are put aside meanwhile and seeded from ours. On a GPU that seed has to
    come to the host, which waits for the device.

    :param name: class in ``kornia.augmentation``
    :param frame_channels: channels of one frame; 3 where the operation needs RGB
    :param kwargs: of the class
    :raises ValueError: when called on channels that are no multiple of ``frame_channels``
    """

    def __init__(self, name: str, frame_channels: int = 3, **kwargs: Any) -> None:
        self.name = name
        self.frame_channels = frame_channels
        self.kwargs = kwargs
        self._operation: Any = None

    @property
    def operation(self) -> Any:
        """kornia's module, made at the first use (importing kornia takes a second)."""
        if self._operation is None:
            import kornia.augmentation

            self._operation = getattr(kornia.augmentation, self.name)(**self.kwargs)
        return self._operation

    def draw(self, images: th.Tensor, generator: th.Generator) -> Params:
        """kornia's parameters, a tensor each."""
        check_frame_channels(self, images, self.frame_channels)
        shape = th.Size((images.shape[0], self.frame_channels, *images.shape[-2:]))
        seed = int(th.randint(2**62, (), generator=generator, device=generator.device))
        with th.random.fork_rng(devices=[images.device] if images.device.type == "cuda" else []):
            th.manual_seed(seed)
            params: Params = self.operation.forward_parameters(shape)
        return params

    def apply(self, images: th.Tensor, params: Params) -> th.Tensor:
        """See :meth:`ImageAugmentation.apply`."""
        frames = as_frames(images.float() / 255.0, self.frame_channels)
        done = [self.operation(frame, params=params) for frame in frames.unbind(1)]
        return th.cat(done, dim=1).mul_(255.0).clamp_(0.0, 255.0)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_operation": None}

    def __repr__(self) -> str:
        arguments = {"frame_channels": self.frame_channels, **self.kwargs}
        return f"{type(self).__name__}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"


class ColorJitter(KorniaAugmentation):
    """
    Random brightness, contrast, saturation and hue, in random order.

    :param brightness: factor in 1 - b .. 1 + b
    :param contrast: factor in 1 - c .. 1 + c
    :param saturation: factor in 1 - s .. 1 + s
    :param hue: shift in -h .. h, at most 0.5
    :param probability: with which an image is changed
    """

    def __init__(
        self,
        brightness: float = 0.4,
        contrast: float = 0.4,
        saturation: float = 0.4,
        hue: float = 0.5,
        probability: float = 1.0,
    ) -> None:
        super().__init__(
            "ColorJitter", brightness=brightness, contrast=contrast, saturation=saturation, hue=hue, p=probability
        )


class Grayscale(KorniaAugmentation):
    """
    Grey in all three colours.

    :param probability: with which an image is changed
    """

    def __init__(self, probability: float = 0.3) -> None:
        super().__init__("RandomGrayscale", p=probability)


class RandomErasing(KorniaAugmentation):
    """
    A random rectangle is blacked out ("cutout").

    :param scale: smallest and largest share of the image's area
    :param ratio: smallest and largest height to width
    :param probability: with which an image is changed
    :param frame_channels: channels of one frame
    """

    def __init__(
        self,
        scale: tuple[float, float] = (0.02, 0.33),
        ratio: tuple[float, float] = (0.3, 3.3),
        probability: float = 1.0,
        frame_channels: int = 3,
    ) -> None:
        super().__init__("RandomErasing", frame_channels, scale=scale, ratio=ratio, p=probability)


class RandomRotation(KorniaAugmentation):
    """
    Rotation about the centre; corners become black.

    :param degrees: from -degrees to degrees
    :param probability: with which an image is changed
    :param frame_channels: channels of one frame
    """

    def __init__(self, degrees: float = 5.0, probability: float = 1.0, frame_channels: int = 3) -> None:
        super().__init__("RandomRotation", frame_channels, degrees=degrees, p=probability)


class HorizontalFlip(KorniaAugmentation):
    """
    Mirrors left and right.

    :param probability: with which an image is changed
    :param frame_channels: channels of one frame
    """

    def __init__(self, probability: float = 0.5, frame_channels: int = 3) -> None:
        super().__init__("RandomHorizontalFlip", frame_channels, p=probability)


class GaussianBlur(KorniaAugmentation):
    """
    Gaussian blur of random width.

    :param kernel_size: odd, in pixels
    :param sigma: smallest and largest standard deviation, in pixels
    :param probability: with which an image is changed
    :param frame_channels: channels of one frame
    """

    def __init__(
        self,
        kernel_size: int = 5,
        sigma: tuple[float, float] = (0.1, 2.0),
        probability: float = 0.5,
        frame_channels: int = 3,
    ) -> None:
        super().__init__(
            "RandomGaussianBlur", frame_channels, kernel_size=(kernel_size, kernel_size), sigma=tuple(sigma), p=probability
        )

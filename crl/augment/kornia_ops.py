"""Augmentations of kornia, made to serve stacked frames, values in 0..255 and our generators."""

from __future__ import annotations

import difflib
from typing import Any

import torch as th

from crl.augment.base import ImageAugmentation, Params, check_probability


def check_frame_channels(who: object, images: th.Tensor, frame_channels: int) -> None:
    """:raises ValueError: when the channels are no whole number of frames"""
    if images.shape[1] % frame_channels:
        raise ValueError(
            f"{who!r}: {images.shape[1]} channels are no stack of frames of {frame_channels} channels: pass frame_channels="
        )


def as_frames(images: th.Tensor, frame_channels: int) -> th.Tensor:
    """``(batch, k * c, height, width)`` to ``(batch, k, c, height, width)``."""
    batch, channels, height, width = images.shape
    return images.reshape(batch, channels // frame_channels, frame_channels, height, width)


class KorniaAugmentation(ImageAugmentation):
    """
    Any 2-D augmentation of kornia that keeps the images' size, with one draw for all frames of an image.

    kornia draws from torch's global generator of the CPU, whatever device the images are on. That generator's state is put
    aside meanwhile, and it is seeded from ours. On a GPU this seed has to come to the host, which waits for the device, unless
    the generator that is passed lives on the CPU.

    :param name: class in ``kornia.augmentation``
    :param frame_channels: channels of one frame (3 for RGB), where the operation mixes them; None where it treats every
        channel alike, so that it can be handed the whole stack at once
    :param kwargs: of the class
    :raises ValueError: when called: for a name that kornia does not have, or channels that are no multiple of
        ``frame_channels``
    """

    #: True for operations that only move or drop pixels: the images' dtype and exact values are kept
    keeps_values = False

    def __init__(self, name: str, frame_channels: int | None = 3, **kwargs: Any) -> None:
        if frame_channels is not None and frame_channels < 1:
            raise ValueError(f"{type(self).__name__}(frame_channels={frame_channels}): at least 1 (3 for RGB, 1 for grey)")
        self.name = name
        self.frame_channels = frame_channels
        self.kwargs = kwargs
        self._operation: Any = None

    @property
    def operation(self) -> Any:
        """kornia's module, made at the first use (importing kornia takes a second)."""
        if self._operation is None:
            import kornia.augmentation

            if not hasattr(kornia.augmentation, self.name):
                near = difflib.get_close_matches(self.name, dir(kornia.augmentation), n=3)
                raise ValueError(f"kornia.augmentation has no {self.name!r}; near: {', '.join(near) or 'nothing'}")
            self._operation = getattr(kornia.augmentation, self.name)(**self.kwargs)
        return self._operation

    def draw(self, images: th.Tensor, generator: th.Generator) -> Params:
        """kornia's parameters, a tensor each, on the CPU."""
        channels = images.shape[1] if self.frame_channels is None else self.frame_channels
        check_frame_channels(self, images, channels)
        operation = self.operation
        seed = int(th.randint(2**62, (), generator=generator, device=generator.device))
        # Not torch.manual_seed: it reseeds the global generators of every GPU as well
        state = th.default_generator.get_state()
        try:
            th.default_generator.manual_seed(seed)
            params: Params = operation.forward_parameters(th.Size((images.shape[0], channels, *images.shape[-2:])))
        finally:
            th.default_generator.set_state(state)
        return params

    def apply(self, images: th.Tensor, params: Params) -> th.Tensor:
        """See :meth:`ImageAugmentation.apply`."""
        if self.keeps_values:
            return self._operate(images.float(), params).to(images.dtype)
        # kornia works on 0..1
        return self._operate(images.float() / 255.0, params).mul_(255.0).clamp_(0.0, 255.0)

    def _operate(self, images: th.Tensor, params: Params) -> th.Tensor:
        if self.frame_channels is None:
            return self.operation(images, params=params)
        check_frame_channels(self, images, self.frame_channels)
        frames = as_frames(images, self.frame_channels).unbind(1)
        return th.cat([self._operate_on_frame(frame, params) for frame in frames], dim=1)

    def _operate_on_frame(self, frame: th.Tensor, params: Params) -> th.Tensor:
        return self.operation(frame, params=params)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_operation": None}

    def __repr__(self) -> str:
        if type(self) is KorniaAugmentation:
            shown = {"name": self.name, "frame_channels": self.frame_channels, **self.kwargs}
        else:
            # as our constructors spell it
            shown = {"probability" if key == "p" else key: value for key, value in self.kwargs.items()}
            if self.frame_channels is not None:
                shown["frame_channels"] = self.frame_channels
        return f"{type(self).__name__}({', '.join(f'{key}={value!r}' for key, value in shown.items())})"


class RandomErasing(KorniaAugmentation):
    """
    A random rectangle is blacked out, in all frames alike ("cutout"; Zhong et al. 2020, arXiv:1708.04896).

    :param scale: smallest and largest share of the image's area
    :param ratio: smallest and largest height to width
    :param probability: with which an image is changed
    :raises ValueError: for values out of range
    """

    keeps_values = True

    def __init__(
        self,
        scale: tuple[float, float] = (0.02, 0.33),
        ratio: tuple[float, float] = (0.3, 3.3),
        probability: float = 1.0,
    ) -> None:
        check_probability("RandomErasing", probability)
        if not 0.0 < scale[0] <= scale[1] <= 1.0 or not 0.0 < ratio[0] <= ratio[1]:
            raise ValueError(f"RandomErasing(scale={scale}, ratio={ratio}): smallest, largest; scale in (0, 1], ratio over 0")
        super().__init__("RandomErasing", None, scale=tuple(scale), ratio=tuple(ratio), p=probability)


class RandomRotation(KorniaAugmentation):
    """
    Rotation about the centre; corners become black.

    :param degrees: from -degrees to degrees
    :param probability: with which an image is changed
    :raises ValueError: for values out of range
    """

    def __init__(self, degrees: float = 5.0, probability: float = 1.0) -> None:
        check_probability("RandomRotation", probability)
        if not 0.0 <= degrees <= 180.0:
            raise ValueError(f"RandomRotation(degrees={degrees}): from 0 to 180")
        super().__init__("RandomRotation", None, degrees=degrees, p=probability)


class GaussianBlur(KorniaAugmentation):
    """
    Gaussian blur of random width.

    :param kernel_size: odd, in pixels
    :param sigma: smallest and largest standard deviation, in pixels
    :param probability: with which an image is changed
    :raises ValueError: for values out of range
    """

    def __init__(self, kernel_size: int = 5, sigma: tuple[float, float] = (0.1, 2.0), probability: float = 0.5) -> None:
        check_probability("GaussianBlur", probability)
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(
                f"GaussianBlur(kernel_size={kernel_size}): an odd number of pixels, so that there is a middle one"
            )
        if not 0.0 < sigma[0] <= sigma[1]:
            raise ValueError(f"GaussianBlur(sigma={sigma}): smallest, then largest, both over 0")
        super().__init__("RandomGaussianBlur", None, kernel_size=kernel_size, sigma=tuple(sigma), p=probability)

    def _operate(self, images: th.Tensor, params: Params) -> th.Tensor:
        # a few channels at a time stay in a CPU's cache: half the time of all nine at once
        return th.cat([self.operation(part, params=params) for part in images.split(3, dim=1)], dim=1)

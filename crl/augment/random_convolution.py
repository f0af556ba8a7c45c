"""Random convolution: other textures, the same shapes."""

from __future__ import annotations

import torch as th
import torch.nn.functional as F

from crl.augment.base import ImageAugmentation, Params, normal, uniform
from crl.augment.kornia_ops import as_frames, check_frame_channels


class RandomConvolution(ImageAugmentation):
    """
    Convolves every frame with a random 3x3 kernel across its colours, one kernel for all frames of an image (Lee et al. 2020,
    arXiv:1910.05396; "random convolution" of RAD). The result gets the mean and standard deviation of the original image, so
    that it stays in range.

    :param frame_channels: channels of one frame (3 for RGB, 1 for grey)
    :param probability: with which an image is convolved at all
    :raises ValueError: for values out of range; when called, for channels that are no multiple of ``frame_channels``
    """

    def __init__(self, frame_channels: int = 3, probability: float = 1.0) -> None:
        if frame_channels < 1 or not 0.0 <= probability <= 1.0:
            raise ValueError(
                f"RandomConvolution(frame_channels={frame_channels}, probability={probability}): at least 1, and 0..1"
            )
        self.frame_channels = frame_channels
        self.probability = probability

    def draw(self, images: th.Tensor, generator: th.Generator) -> Params:
        """``kernels``: ``(batch, c, c, 3, 3)``; ``active``: ``(batch,)`` bool."""
        check_frame_channels(self, images, self.frame_channels)
        c, batch = self.frame_channels, images.shape[0]
        active = uniform((batch,), images, generator) < self.probability
        return {"kernels": normal((batch, c, c, 3, 3), images, generator), "active": active}

    def apply(self, images: th.Tensor, params: Params) -> th.Tensor:
        """See :meth:`ImageAugmentation.apply`."""
        batch, _, height, width = images.shape
        c = self.frame_channels
        check_frame_channels(self, images, c)
        x = images.float()
        frames = as_frames(x, c)  # (batch, k, c, height, width)
        k = frames.shape[1]
        # one group for each image: its own kernel, applied to its k frames in turn
        stacked = frames.transpose(0, 1).reshape(k, batch * c, height, width)
        kernels = params["kernels"].reshape(batch * c, c, 3, 3)
        with th.autocast(images.device.type, enabled=False):
            out = F.conv2d(F.pad(stacked, (1, 1, 1, 1), mode="replicate"), kernels, groups=batch)
        out = out.reshape(k, batch, c, height, width).transpose(0, 1).reshape(x.shape)
        std, mean = (v.reshape(-1, 1, 1, 1) for v in th.std_mean(x.flatten(1), dim=1))
        new_std, new_mean = (v.reshape(-1, 1, 1, 1) for v in th.std_mean(out.flatten(1), dim=1))
        out = ((out - new_mean) * (std / new_std.clamp_min(1e-6)) + mean).clamp_(0.0, 255.0)
        return th.where(params["active"].reshape(-1, 1, 1, 1), out, x)

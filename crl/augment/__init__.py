"""
Batched image augmentation on the images' own device.

Images are ``(batch, channels, height, width)``, uint8 or float in 0..255. Every image of a batch gets its own draw, and one
draw serves all frames stacked in its channels: different crops of the frames would destroy their motion.
"""

from crl.augment.base import ImageAugmentation
from crl.augment.color import ColorJitter, Grayscale
from crl.augment.compose import Compose
from crl.augment.crop import CenterCrop, RandomCrop
from crl.augment.flip import HorizontalFlip
from crl.augment.intensity import Intensity
from crl.augment.kornia_ops import GaussianBlur, KorniaAugmentation, RandomErasing, RandomRotation
from crl.augment.padded_crop import PaddedCrop
from crl.augment.random_convolution import RandomConvolution
from crl.augment.shift import RandomShift

__all__ = [
    "CenterCrop",
    "ColorJitter",
    "Compose",
    "GaussianBlur",
    "Grayscale",
    "HorizontalFlip",
    "ImageAugmentation",
    "Intensity",
    "KorniaAugmentation",
    "PaddedCrop",
    "RandomConvolution",
    "RandomCrop",
    "RandomErasing",
    "RandomRotation",
    "RandomShift",
]

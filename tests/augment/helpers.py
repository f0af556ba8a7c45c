"""Small images, and one augmentation of every kind."""

import torch as th

from crl.augment import (
    CenterCrop,
    ColorJitter,
    Compose,
    GaussianBlur,
    Grayscale,
    HorizontalFlip,
    Intensity,
    KorniaAugmentation,
    RandomConvolution,
    RandomCrop,
    RandomErasing,
    RandomRotation,
    RandomShift,
)

EVERY = [
    RandomCrop(14),
    RandomCrop(14, inclusive=False),
    CenterCrop(14),
    RandomShift(3),
    Intensity(0.2),
    ColorJitter(),
    ColorJitter(frame_channels=1),
    Grayscale(0.5),
    RandomErasing(),
    RandomRotation(20.0),
    HorizontalFlip(),
    GaussianBlur(3),
    RandomConvolution(),
    KorniaAugmentation("RandomChannelShuffle", p=1.0),
    Compose([RandomCrop(15), RandomShift(1), Intensity(), ColorJitter(hue=0.1)]),
]
RANDOM = [a for a in EVERY if not isinstance(a, CenterCrop)]


def images(n=6, channels=9, height=16, width=18, seed=0, dtype=th.uint8):
    generator = th.Generator().manual_seed(seed)
    return th.randint(0, 256, (n, channels, height, width), dtype=th.uint8, generator=generator).to(dtype)


def generator(seed=0, device="cpu"):
    return th.Generator(device).manual_seed(seed)


def name(augmentation):
    return type(augmentation).__name__

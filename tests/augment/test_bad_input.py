"""What is refused, and in which words."""

import pytest

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

from .helpers import generator, images


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: RandomCrop(0), "at least 1 pixel"),
        (lambda: CenterCrop(0), "at least 1 pixel"),
        (lambda: RandomShift(-1), "0 or more"),
        (lambda: Intensity(0.9), "from 0 to 0.5"),
        (lambda: Compose([]), "at least one"),
        (lambda: Compose([RandomShift(2), "flip"]), "at least one"),
        (lambda: RandomConvolution(probability=2.0), "probability=2.0"),
        (lambda: RandomCrop(20)(images()), r"larger than the images \(16x18\)"),
        (lambda: RandomCrop(17, inclusive=False)(images()), "larger than the images"),
        (lambda: RandomCrop(16, inclusive=False)(images()), "pass inclusive=True"),
        (lambda: CenterCrop(20)(images()), r"CenterCrop\(size=20\): the window is larger than the images"),
        (lambda: Compose([CenterCrop(10), RandomCrop(12)])(images()), r"larger than the images \(10x10\)"),
        (lambda: Compose([CenterCrop(10), RandomCrop(12)]).output_size(16, 18), r"larger than the images \(10x10\)"),
        (lambda: RandomShift(2)(images().long()), "torch.int64"),
        (lambda: HorizontalFlip(1.5), "probability=1.5"),
        (lambda: RandomErasing(scale=(0.4, 0.1)), "smallest, largest"),
        (lambda: RandomErasing(probability=-1.0), "probability=-1.0"),
        (lambda: RandomRotation(200.0), "degrees=200"),
        (lambda: RandomRotation(probability=3.0), "probability=3.0"),
        (lambda: GaussianBlur(4), "odd number"),
        (lambda: GaussianBlur(sigma=(0.0, 1.0)), "both over 0"),
        (lambda: GaussianBlur(probability=2.0), "probability=2.0"),
        (lambda: ColorJitter(hue=0.6), "at most 0.5"),
        (lambda: ColorJitter(contrast=-0.1), "contrast=-0.1"),
        (lambda: ColorJitter(frame_channels=4), "3 for RGB frames or 1"),
        (lambda: ColorJitter(probability=2.0), "probability=2.0"),
        (lambda: Grayscale(2.0), "probability=2.0"),
        (lambda: Grayscale(frame_channels=1), "only RGB frames"),
        (lambda: Grayscale()(images(channels=4)), "pass frame_channels="),
        (lambda: KorniaAugmentation("RandomGrayscal")(images()), "near: RandomGrayscale"),
        (lambda: KorniaAugmentation("RandomGrayscale", frame_channels=0), "frame_channels=0"),
        (lambda: RandomShift(1).apply(images(4), RandomShift(1).draw(images(5), generator())), "drawn for another batch"),
        (lambda: RandomShift(2)(images()[0]), r"\(batch, channels, height, width\)"),
        (lambda: ColorJitter()(images(channels=4)), "pass frame_channels="),
        (lambda: RandomConvolution()(images(channels=4)), "pass frame_channels="),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()

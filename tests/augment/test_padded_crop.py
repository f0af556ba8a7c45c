"""PaddedCrop against torch's padding, image by image."""

import pytest
import torch as th

from crl.augment.padded_crop import PaddedCrop


def test_equals_crop_pad_crop():
    augmentation = PaddedCrop(crop=14, pad=3, size=16)
    images = th.randint(0, 256, (40, 4, 17, 18), dtype=th.uint8)
    generator = th.Generator().manual_seed(0)
    params = augmentation.draw(images, generator)
    out = augmentation.apply(images, params)
    assert out.shape == (40, 4, 16, 16) and out.dtype == th.uint8 and augmentation.output_size(17, 18) == (16, 16)
    for image, got, first, second in zip(images, out, params["first"].tolist(), params["second"].tolist(), strict=True):
        window = image[:, first[0] : first[0] + 14, first[1] : first[1] + 14].float()
        padded = th.nn.functional.pad(window[None], (3, 3, 3, 3), mode="replicate")[0]
        top, left = second[0] + 3, second[1] + 3
        assert th.equal(got, padded[:, top : top + 16, left : left + 16].byte())


def test_all_offsets_occur():
    params = PaddedCrop().draw(th.zeros(3000, 1, 84, 84, dtype=th.uint8), th.Generator().manual_seed(1))
    for name, values in (("first", range(5)), ("second", range(-4, 1))):
        for column in params[name].T:
            counts = th.stack([(column == value).sum() for value in values])
            assert counts.sum() == 3000 and counts.min() > 500, name


def test_bad_sizes():
    with pytest.raises(ValueError, match="size from 1 to"):
        PaddedCrop(crop=80, pad=1, size=84)
    with pytest.raises(ValueError, match="PaddedCrop"):
        PaddedCrop(crop=80)(th.zeros(1, 1, 64, 64, dtype=th.uint8))

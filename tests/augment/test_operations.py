"""Single operations against loops and by hand."""

import numpy as np
import pytest
import torch as th

from crl.augment import (
    CenterCrop,
    ColorJitter,
    GaussianBlur,
    Grayscale,
    HorizontalFlip,
    Intensity,
    RandomConvolution,
    RandomCrop,
    RandomErasing,
    RandomRotation,
    RandomShift,
)

from .helpers import generator, images


@pytest.mark.parametrize("dtype", [th.uint8, th.float32])
def test_crop_equals_a_loop(dtype):
    x, crop = images(40, dtype=dtype), RandomCrop(13)
    params = crop.draw(x, generator())
    out = crop.apply(x, params)
    assert out.dtype == dtype and out.shape == (40, 9, 13, 13)
    for i, (top, left) in enumerate(params["offsets"].tolist()):
        assert (out[i].numpy() == x[i].numpy()[:, top : top + 13, left : left + 13]).all()


@pytest.mark.parametrize("dtype", [th.uint8, th.float32])
@pytest.mark.parametrize("pad", [0, 1, 4, 30])
def test_shift_equals_padding_and_cropping(dtype, pad):
    x, shift = images(40, dtype=dtype), RandomShift(pad)
    params = shift.draw(x, generator())
    out = shift.apply(x, params)
    assert out.dtype == dtype
    for i, (top, left) in enumerate(params["offsets"].tolist()):
        padded = np.pad(x[i].numpy(), ((0, 0), (pad, pad), (pad, pad)), mode="edge")
        assert (out[i].numpy() == padded[:, pad + top : pad + top + 16, pad + left : pad + left + 18]).all()


def test_offsets_are_inclusive_and_uniform():
    x = images(1, 1, 12, 12).expand(6000, 1, 12, 12)
    for offsets, values in (
        (RandomCrop(9).draw(x, generator())["offsets"], range(4)),
        (RandomShift(2).draw(x, generator())["offsets"], range(-2, 3)),
        (RandomCrop(9, inclusive=False).draw(x, generator())["offsets"], range(3)),
    ):
        for column in offsets.T:
            counts = [(column == v).sum().item() for v in values]
            assert sum(counts) == 6000, "no other offset occurs"
            expected = 6000 / len(counts)
            chi2 = sum((c - expected) ** 2 / expected for c in counts)
            assert chi2 < 20, counts
        assert np.corrcoef(offsets.T.numpy())[0, 1] == pytest.approx(0, abs=0.05), "height and width are drawn apart"


def test_intensity_scales_whole_images():
    x = images(200).float() * 0.5
    factors = Intensity(0.05)(x, generator()) / x.clamp_min(1e-3)
    per_image = th.stack([f[img > 1].median() for f, img in zip(factors, x, strict=True)])
    assert per_image.min() >= 0.9 - 1e-4 and per_image.max() <= 1.1 + 1e-4
    assert per_image.std().item() == pytest.approx(0.05 * 0.94, rel=0.2)


def test_grayscale_makes_colours_equal():
    out = Grayscale(1.0)(images(), generator())
    th.testing.assert_close(out[:, 0], out[:, 1])


def test_flip_mirrors():
    x = images(30)
    out = HorizontalFlip(0.5)(x, generator())
    flipped = [th.equal(o, i.flip(-1)) for o, i in zip(out, x, strict=True)]
    kept = [th.equal(o, i) for o, i in zip(out, x, strict=True)]
    assert all(f or k for f, k in zip(flipped, kept, strict=True)) and 5 < sum(flipped) < 25


def test_erasing_blacks_out_one_rectangle():
    x = images(10) // 2 + 100
    out = RandomErasing(scale=(0.1, 0.2))(x, generator())
    for erased in (out == 0).all(dim=1):
        rows, columns = erased.any(1).nonzero().flatten(), erased.any(0).nonzero().flatten()
        assert 0 < len(rows) < 16
        assert erased[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all()


def test_random_convolution_against_a_loop():
    x, augmentation = images(4).float(), RandomConvolution(probability=0.5)
    params = augmentation.draw(x, generator(0))
    out = augmentation.apply(x, params)
    assert 0 < params["active"].sum() < 4
    for i in range(4):
        if not params["active"][i]:
            assert th.equal(out[i], x[i])
            continue
        frames = th.nn.functional.pad(x[i].reshape(3, 3, 16, 18), (1, 1, 1, 1), mode="replicate")
        y = th.nn.functional.conv2d(frames, params["kernels"][i]).reshape(9, 16, 18)
        want = ((y - y.mean()) / y.std() * x[i].std() + x[i].mean()).clamp(0, 255)
        th.testing.assert_close(out[i], want, rtol=1e-4, atol=1e-2)


def test_grey_jitter_is_that_of_the_grey_in_rgb():
    grey = images(5, channels=1)
    jitter = ColorJitter(frame_channels=1)
    params = jitter.draw(grey, generator())
    as_rgb = ColorJitter().apply(grey.expand(-1, 3, -1, -1), params)
    th.testing.assert_close(as_rgb[:, :1], jitter.apply(grey, params))
    th.testing.assert_close(as_rgb[:, :1], as_rgb[:, 2:], rtol=0, atol=0.1)


def test_erasing_leaves_the_other_pixels_exactly():
    x = images(10) // 2 + 100
    out = RandomErasing()(x, generator())
    assert th.equal(out[out != 0], x[out != 0]) and (out == 0).any()


def test_rotation_by_right_angles():
    x = images(2, height=15, width=15)
    rotation = RandomRotation(degrees=180.0)
    params = rotation.draw(x, generator())
    params["degrees"] = th.tensor([90.0, -90.0])
    want = th.stack([x[0].rot90(1, (1, 2)), x[1].rot90(-1, (1, 2))]).float()
    th.testing.assert_close(rotation.apply(x, params), want, rtol=0, atol=0.1)


def test_blur_against_a_kernel_of_our_own():
    x, blur = images(2), GaussianBlur(3, sigma=(0.5, 2.0), probability=1.0)
    params = blur.draw(x, generator())
    out = blur.apply(x, params)
    for i, sigma in enumerate(params["sigma"].tolist()):
        line = th.exp(-(th.arange(-1.0, 2.0) ** 2) / (2 * sigma**2))
        kernel = th.outer(line, line) / line.sum() ** 2
        inner = th.nn.functional.conv2d(x[i, :, None].float(), kernel[None, None])[:, 0]
        th.testing.assert_close(out[i, :, 1:-1, 1:-1], inner, rtol=0, atol=0.05)


def test_crop_of_the_full_size_is_the_identity():
    x = images(height=16, width=16)
    assert th.equal(RandomCrop(16)(x, generator()), x) and th.equal(CenterCrop(16)(x), x)

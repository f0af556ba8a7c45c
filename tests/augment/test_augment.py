import copy
import pickle

import numpy as np
import pytest
import torch as th

from crl.augment import (
    CenterCrop,
    ColorJitter,
    Compose,
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

EVERY = [
    RandomCrop(14),
    RandomCrop(14, inclusive=False),
    CenterCrop(14),
    RandomShift(3),
    Intensity(0.2),
    ColorJitter(),
    Grayscale(0.5),
    RandomErasing(),
    RandomRotation(20.0),
    HorizontalFlip(),
    GaussianBlur(3),
    RandomConvolution(),
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


@pytest.mark.parametrize("augmentation", EVERY, ids=name)
def test_one_draw_for_all_frames_of_a_stack(augmentation):
    """A stack of three equal frames comes out as three equal frames."""
    frame = images(8, 3)
    out = augmentation(frame.repeat(1, 3, 1, 1), generator())
    first, second, third = out.split(3, dim=1)
    th.testing.assert_close(first, second, rtol=0, atol=1e-3)
    th.testing.assert_close(first, third, rtol=0, atol=1e-3)


@pytest.mark.parametrize("augmentation", RANDOM, ids=name)
def test_every_image_gets_its_own_draw(augmentation):
    same = images(1).repeat(24, 1, 1, 1)
    out = augmentation(same, generator())
    assert len({image.numpy().tobytes() for image in out}) > 1
    again = augmentation(same, generator(1))
    assert not th.equal(out, again)


@pytest.mark.parametrize("augmentation", EVERY, ids=name)
def test_deterministic_under_a_generator_and_global_streams_untouched(augmentation):
    x = images()
    th.manual_seed(0)
    state, numpy_state = th.get_rng_state(), np.random.get_state()[1].copy()
    a, b = (augmentation(x, generator(5)) for _ in range(2))
    assert th.equal(a, b)
    g = generator(5)
    assert isinstance(augmentation, CenterCrop) or not th.equal(augmentation(x, g), augmentation(x, g)), "two calls draw apart"
    augmentation(x)
    assert th.equal(state, th.get_rng_state()) and (numpy_state == np.random.get_state()[1]).all()


@pytest.mark.parametrize("augmentation", EVERY, ids=name)
@pytest.mark.parametrize("dtype", [th.uint8, th.float32])
def test_range_dtype_shape_and_input_unchanged(augmentation, dtype):
    x = images(dtype=dtype)
    before = x.clone()
    out = augmentation(x, generator())
    assert th.equal(x, before)
    assert out.min() >= 0 and out.max() <= 255 and out.isfinite().all()
    assert out.shape == (6, 9, *augmentation.output_size(16, 18))
    geometric = isinstance(augmentation, RandomCrop | CenterCrop | RandomShift)
    assert out.dtype == (dtype if geometric else th.float32)


@pytest.mark.parametrize("augmentation", EVERY, ids=name)
def test_a_draw_can_be_replayed(augmentation):
    x, other = images(), images(seed=1)
    params = augmentation.draw(x, generator())
    once, twice = augmentation.apply(other, params), augmentation.apply(other, params)
    assert th.equal(once, twice)
    assert th.equal(augmentation(x, generator()), augmentation.apply(x, augmentation.draw(x, generator())))


@pytest.mark.parametrize("augmentation", EVERY, ids=name)
def test_pickle_and_deep_copy(augmentation):
    x = images()
    want = augmentation(x, generator())  # kornia's module exists by now and must not be in the way
    for clone in (pickle.loads(pickle.dumps(augmentation)), copy.deepcopy(augmentation)):
        assert th.equal(clone(x, generator()), want) and repr(clone) == repr(augmentation)


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
    out = HorizontalFlip(0.5)(x, generator()).round().byte()
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
        (lambda: RandomCrop(16, inclusive=False)(images()), "larger than the images"),
        (lambda: CenterCrop(20)(images()), "larger than the images"),
        (lambda: RandomShift(2)(images()[0]), r"\(batch, channels, height, width\)"),
        (lambda: ColorJitter()(images(channels=4)), "pass frame_channels="),
        (lambda: RandomConvolution()(images(channels=4)), "pass frame_channels="),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_crop_of_the_full_size_is_the_identity():
    x = images(height=16, width=16)
    assert th.equal(RandomCrop(16)(x, generator()), x) and th.equal(CenterCrop(16)(x), x)


@pytest.mark.gpu
@pytest.mark.skipif(not th.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("augmentation", EVERY, ids=name)
def test_cuda_equals_cpu_for_one_draw(augmentation):
    x = images()
    params = augmentation.draw(x, generator())
    to_cuda = lambda p: {k: v.cuda() if isinstance(v, th.Tensor) else [to_cuda(s) for s in v] for k, v in p.items()}  # noqa: E731
    out = augmentation.apply(x.cuda(), to_cuda(params))
    assert out.is_cuda
    th.testing.assert_close(out.cpu(), augmentation.apply(x, params), rtol=1e-3, atol=1e-1)
    assert augmentation(x.cuda(), generator(0, "cuda")).is_cuda

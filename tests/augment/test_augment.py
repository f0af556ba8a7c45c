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


ONE_FRAME_AT_A_TIME = [a for a in EVERY if not isinstance(a, Compose | RandomConvolution)]


@pytest.mark.parametrize("augmentation", ONE_FRAME_AT_A_TIME, ids=name)
def test_a_frame_of_a_stack_looks_as_it_does_alone(augmentation):
    """One draw applied to a stack of three different frames, and to each frame alone."""
    x = images(8)
    params = augmentation.draw(x, generator())
    out = augmentation.apply(x, params)
    for i in range(3):
        frame = slice(3 * i, 3 * i + 3)
        th.testing.assert_close(out[:, frame], augmentation.apply(x[:, frame], params), rtol=0, atol=1e-2)


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
    assert not th.equal(a, augmentation(images(seed=1), generator(5)))
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
    moves_pixels = isinstance(augmentation, RandomCrop | CenterCrop | RandomShift | HorizontalFlip | RandomErasing)
    assert out.dtype == (dtype if moves_pixels else th.float32)
    assert out.untyped_storage().data_ptr() != x.untyped_storage().data_ptr(), "no view of the replay's images"


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


@pytest.mark.parametrize("augmentation", EVERY, ids=name)
def test_repr_is_the_constructor_call(augmentation):
    clone = eval(repr(augmentation))
    x = images()
    assert repr(clone) == repr(augmentation) and th.equal(clone(x, generator()), augmentation(x, generator()))


@pytest.mark.parametrize("augmentation", [ColorJitter(), HorizontalFlip(), RandomErasing(), RandomRotation()], ids=name)
def test_other_generators_of_torch_are_not_seeded(augmentation, monkeypatch):
    """torch.manual_seed would reseed the global generators of all GPUs."""

    def forbidden(*args):
        raise AssertionError("the global generators of GPUs were seeded")

    for where in (th, th.random, th.cuda):
        monkeypatch.setattr(where, "manual_seed", forbidden)
    monkeypatch.setattr(th.cuda, "manual_seed_all", forbidden)
    augmentation(images(), generator())


def test_the_global_generator_comes_back_when_a_draw_fails():
    augmentation = KorniaAugmentation("RandomGrayscale", p=0.5)
    augmentation.operation.p = "often"
    state = th.get_rng_state()
    with pytest.raises(TypeError):
        augmentation.draw(images(), generator())
    assert th.equal(state, th.get_rng_state())


CHANNELS_APART = [HorizontalFlip(), RandomErasing(), RandomRotation(), GaussianBlur(3), RandomShift(1), Intensity()]


@pytest.mark.parametrize("augmentation", CHANNELS_APART, ids=name)
def test_any_number_of_channels_where_they_are_not_mixed(augmentation):
    assert augmentation(images(channels=4), generator()).shape == (6, 4, 16, 18)


@pytest.mark.parametrize("augmentation", [a for a in EVERY if not isinstance(a, KorniaAugmentation | Compose)], ids=name)
def test_empty_batches_and_other_memory_layouts(augmentation):
    if not isinstance(augmentation, RandomConvolution):  # torch has no convolution of nothing in 0 groups
        assert augmentation(images(0), generator()).shape == (0, 9, *augmentation.output_size(16, 18))
    x = images()
    for same in (x.contiguous(memory_format=th.channels_last), x.repeat_interleave(2, dim=0)[::2]):
        assert th.equal(same, x)
        th.testing.assert_close(augmentation(same, generator()), augmentation(x, generator()))


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

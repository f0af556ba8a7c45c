"""What holds for every augmentation."""

import copy
import pickle

import numpy as np
import pytest
import torch as th

import crl.augment
from crl.augment import (
    CenterCrop,
    ColorJitter,
    Compose,
    GaussianBlur,
    HorizontalFlip,
    Intensity,
    KorniaAugmentation,
    RandomConvolution,
    RandomCrop,
    RandomErasing,
    RandomRotation,
    RandomShift,
)

from .helpers import EVERY, RANDOM, generator, images, name


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


@pytest.mark.parametrize("augmentation", EVERY, ids=name)
def test_repr_is_the_constructor_call(augmentation):
    clone = eval(repr(augmentation), vars(crl.augment))
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
    # a generator of the host serves a GPU, with the draws of the host
    th.testing.assert_close(augmentation(x.cuda(), generator()).cpu(), augmentation(x, generator()), rtol=1e-3, atol=1e-1)

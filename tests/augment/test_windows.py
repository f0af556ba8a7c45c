"""The two ways of cutting windows against a plain loop over pixels."""

import numpy as np
import pytest
import torch as th

from crl.augment import RandomCrop, RandomShift
from crl.augment.windows import copy_windows, cut_windows, gather_windows

DTYPES = [th.uint8, th.float32, th.float64, th.float16]


def images(n=7, channels=5, height=9, width=11, dtype=th.uint8):
    generator = th.Generator().manual_seed(0)
    return th.randint(0, 256, (n, channels, height, width), dtype=th.uint8, generator=generator).to(dtype)


def pixel_loop(image, top, left, height, width):
    out = np.empty((image.shape[0], height, width), image.dtype)
    for i in range(height):
        for j in range(width):
            y, x = min(max(top + i, 0), image.shape[1] - 1), min(max(left + j, 0), image.shape[2] - 1)
            out[:, i, j] = image[:, y, x]
    return out


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [(9, 11), (4, 5), (1, 1), (12, 13)])
@pytest.mark.parametrize("cut", [copy_windows, gather_windows, cut_windows])
def test_against_pixels(cut, size, dtype):
    x = images(dtype=dtype)
    offsets = th.tensor([[0, 0], [-3, 2], [4, -5], [-8, -10], [8, 10], [-40, 3], [2, 50]])
    out = cut(x, offsets, *size)
    assert out.dtype == dtype and out.is_contiguous()
    for i, (top, left) in enumerate(offsets.tolist()):
        assert (out[i].numpy() == pixel_loop(x[i].numpy(), top, left, *size)).all(), (top, left)


@pytest.mark.parametrize("pad", [1, 4])
def test_all_offsets_of_a_shift_come_out_right(pad):
    side = 2 * pad + 1
    x = images(1).expand(side * side, -1, -1, -1)
    offsets = th.cartesian_prod(th.arange(-pad, pad + 1), th.arange(-pad, pad + 1))
    out = RandomShift(pad).apply(x, {"offsets": offsets})
    padded = np.pad(images(1)[0].numpy(), ((0, 0), (pad, pad), (pad, pad)), mode="edge")
    for window, (top, left) in zip(out.numpy(), offsets.tolist(), strict=True):
        assert (window == padded[:, pad + top : pad + top + 9, pad + left : pad + left + 11]).all()


def test_both_corners_are_reached():
    x = images(1, height=6, width=6).expand(400, -1, -1, -1)
    out = RandomCrop(4)(x, th.Generator().manual_seed(0))
    for top, left in ((0, 0), (2, 2), (0, 2), (2, 0)):
        corner = x[0, :, top : top + 4, left : left + 4]
        assert (out == corner).flatten(1).all(1).any(), (top, left)


def test_bfloat16_and_gradients_go_through_the_gather():
    offsets = th.tensor([[-2, 1]] * 7)
    low = cut_windows(images().bfloat16(), offsets, 9, 11)
    assert low.dtype == th.bfloat16 and th.equal(low.byte(), cut_windows(images(), offsets, 9, 11))
    x = images(dtype=th.float32).requires_grad_()
    out = cut_windows(x, offsets, 9, 11)
    out.sum().backward()
    assert x.grad.sum() == out.numel() and x.grad[0, 0, 0, 1] == 3, "a repeated pixel gathers the gradients of its copies"
    with th.no_grad():
        assert th.equal(cut_windows(x, offsets, 9, 11), out)


def test_strided_batches():
    """What SequenceBatch.view hands over is a slice of (batch, steps, ...)."""
    sequence = images(14).reshape(7, 2, 5, 9, 11)
    offsets = th.tensor([[1, -1]] * 7)
    for t in range(2):
        want = cut_windows(sequence[:, t].contiguous(), offsets, 9, 11)
        assert th.equal(cut_windows(sequence[:, t], offsets, 9, 11), want)
        assert th.equal(gather_windows(sequence[:, t], offsets, 9, 11), want)

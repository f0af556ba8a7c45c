"""Scalars as classes."""

import math

import pytest
import torch as th

from crl.losses.two_hot import symexp_bins, two_hot, two_hot_cross_entropy


def test_bins():
    bins = symexp_bins()
    assert len(bins) == 65 and bins[32] == 0.0 and (bins.diff() > 0).all()
    assert bins[-1].item() == pytest.approx(math.exp(10) - 1) and th.equal(bins, -bins.flip(0))
    assert symexp_bins(5, 2.0)[3].item() == pytest.approx(math.e - 1)


def test_by_hand():
    bins = th.tensor([-2.0, 0.0, 1.0, 5.0])
    values = th.tensor([[0.0, 0.25], [4.0, -2.0], [9.0, -7.0]])
    want = [[[0, 1, 0, 0], [0, 0.75, 0.25, 0]], [[0, 0, 0.25, 0.75], [1, 0, 0, 0]], [[0, 0, 0, 1], [1, 0, 0, 0]]]
    th.testing.assert_close(two_hot(values, bins), th.tensor(want))


def test_the_mean_is_the_value():
    bins = symexp_bins()
    values = th.cat([th.randn(50) * scale for scale in (0.01, 1.0, 100.0)])
    shares = two_hot(values, bins)
    th.testing.assert_close(shares.sum(-1), th.ones(150))
    assert ((shares > 0).sum(-1) <= 2).all()
    th.testing.assert_close(shares.double() @ bins.double(), values.double(), rtol=1e-4, atol=1e-6)


def test_cross_entropy():
    bins = symexp_bins(7, 3.0)
    logits = th.randn(4, 3, 7, dtype=th.float64, requires_grad=True)
    values = th.randn(4, 3)
    losses = two_hot_cross_entropy(logits, values, bins)
    for i in range(4):
        for j in range(3):
            log_p = logits[i, j] - logits[i, j].exp().sum().log()
            want = -sum(share * log_p[n] for n, share in enumerate(two_hot(values[i, j], bins)))
            th.testing.assert_close(losses[i, j], want)
    # least where the prediction is the target: the gradient there is zero
    target = two_hot(values, bins).double().clamp(min=1e-12).log().requires_grad_()
    assert th.autograd.grad(two_hot_cross_entropy(target, values, bins).sum(), target)[0].abs().max() < 1e-6


@pytest.mark.parametrize("arguments", [(64,), (1,), (65, 0.0)])
def test_wrong_bins(arguments):
    with pytest.raises(ValueError, match="symexp_bins"):
        symexp_bins(*arguments)

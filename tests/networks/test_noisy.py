"""Noisy layers against the written-out matrix."""

import math

import pytest
import torch as th

from crl.networks.noisy import NoisyLinear, reset_noise


def test_equals_a_layer_with_the_noisy_matrix():
    layer = NoisyLinear(7, 5, sigma0=0.4).double()
    th.nn.init.normal_(layer.weight_sigma)
    x = th.randn(3, 7, dtype=th.float64, requires_grad=True)
    weight = layer.weight_mu + layer.weight_sigma * th.outer(layer.noise_out, layer.noise_in)
    bias = layer.bias_mu + layer.bias_sigma * layer.noise_out
    th.testing.assert_close(layer(x), x @ weight.T + bias)
    want = th.autograd.grad((x @ weight.T + bias).square().sum(), [x, *layer.parameters()])
    got = th.autograd.grad(layer(x).square().sum(), [x, *layer.parameters()])
    for one, other in zip(got, want, strict=True):
        th.testing.assert_close(one, other)
    th.testing.assert_close(layer.eval()(x), x @ layer.weight_mu.T + layer.bias_mu)


def test_initial_values():
    layer = NoisyLinear(64, 16, sigma0=0.1)
    assert layer.weight_mu.abs().max() <= 1 / 8 and layer.weight_mu.abs().max() > 0.12
    assert th.allclose(layer.weight_sigma, th.tensor(0.1 / 8)) and th.allclose(layer.bias_sigma, th.tensor(0.1 / 4))
    with pytest.raises(ValueError, match="negative"):
        NoisyLinear(2, 2, sigma0=-1)


def test_noise_is_that_of_the_paper_and_repeats_under_a_generator():
    layer = NoisyLinear(20_000, 3)
    layer.reset_noise(th.Generator().manual_seed(1))
    first = layer.noise_in.clone()
    # sign(e) sqrt|e| of a normal e: mean 0, second moment E|e|
    assert first.mean().abs() < 0.03 and first.square().mean() == pytest.approx(math.sqrt(2 / math.pi), abs=0.02)
    layer.reset_noise(th.Generator().manual_seed(2))
    assert not th.equal(first, layer.noise_in)
    layer.reset_noise(th.Generator().manual_seed(1))
    assert th.equal(first, layer.noise_in)


def test_every_layer_of_a_network():
    net = th.nn.Sequential(NoisyLinear(3, 4), th.nn.ReLU(), th.nn.Sequential(NoisyLinear(4, 2)), th.nn.Linear(2, 2))
    x = th.randn(2, 3)
    before = net(x)
    assert th.equal(before, net(x)), "one draw until the next"
    assert reset_noise(net) == 2 and not th.equal(before, net(x))

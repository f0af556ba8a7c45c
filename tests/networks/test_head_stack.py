"""Heads on feature maps of either layout."""

import pytest
import torch as th
from torch import nn

from crl.networks import FastLinear, HeadStack


@pytest.mark.parametrize("linear", [nn.Linear, FastLinear])
@pytest.mark.parametrize("pool", [None, 2])
@pytest.mark.parametrize("batch", [3, 9])
def test_equals_a_sequential_in_both_layouts(linear, pool, batch):
    """Values and every gradient; the channels-last map is not copied into the other order (its own layout comes back)."""
    cells = 5 * 7 if pool is None else pool**2
    layers = [nn.Flatten(), linear(6 * cells, 4), nn.LayerNorm(4)]
    if pool is not None:
        layers.insert(0, nn.AdaptiveAvgPool2d(pool))
    stack, plain = HeadStack(*layers), nn.Sequential(*layers)
    x, weights = th.randn(batch, 6, 5, 7), th.randn(batch, 4)
    results = []
    for module, layout in ((plain, th.contiguous_format), (stack, th.contiguous_format), (stack, th.channels_last)):
        leaf = x.clone(memory_format=layout).requires_grad_()
        out = module(leaf)
        gradients = th.autograd.grad((out * weights).sum(), [leaf, *module.parameters()])
        assert batch == 3 or gradients[0].is_contiguous(memory_format=layout)
        results.append([out, *gradients])
    for ours in results[1:]:
        for one, other in zip(ours, results[0], strict=True):
            th.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_without_a_linear_layer_the_order_is_that_of_the_channels():
    x = th.randn(2, 3, 4, 4)
    assert th.equal(HeadStack(nn.Flatten())(x.contiguous(memory_format=th.channels_last)), x.flatten(1))
    assert th.equal(HeadStack(nn.Flatten(), nn.ReLU())(x.contiguous(memory_format=th.channels_last)), x.flatten(1).relu())

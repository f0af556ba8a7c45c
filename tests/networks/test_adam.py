"""The fused Adam against torch's plain one."""

import copy

import pytest
import torch as th

from crl.networks import FusedAdam, faster


@pytest.mark.parametrize("layout", [th.contiguous_format, th.channels_last])
@pytest.mark.parametrize("of_gradient", [th.contiguous_format, th.channels_last])
def test_equals_plain_adam_whatever_the_layouts(layout, of_gradient):
    """Six steps; half way the parameter changes its layout, its moments have the old one."""
    ours = th.nn.Parameter(th.randn(6, 5, 3, 3).contiguous(memory_format=layout))
    theirs = th.nn.Parameter(ours.detach().clone())
    fused, plain = FusedAdam([ours], lr=1e-2, eps=1e-6), th.optim.Adam([theirs], lr=1e-2, eps=1e-6, foreach=False)
    for step in range(6):
        if step == 3:
            other = th.channels_last if layout is th.contiguous_format else th.contiguous_format
            ours.data = ours.data.contiguous(memory_format=other)
        gradient = th.randn(6, 5, 3, 3)
        ours.grad = gradient.contiguous(memory_format=of_gradient)
        theirs.grad = gradient.clone()
        fused.step()
        plain.step()
        th.testing.assert_close(ours.detach(), theirs.detach(), rtol=1e-5, atol=1e-7)


def test_state_goes_on_in_another_and_in_plain_adam():
    weight = th.nn.Parameter(th.randn(4, 3))
    one = FusedAdam([weight], lr=1e-2)
    weight.grad = th.randn(4, 3)
    one.step()
    for kind in (FusedAdam, th.optim.Adam):
        clone = th.nn.Parameter(weight.detach().clone())
        other = kind([clone])
        other.load_state_dict(copy.deepcopy(one.state_dict()))
        clone.grad = weight.grad.clone()
        other.step()
    one.step()
    th.testing.assert_close(clone, weight)


def test_only_where_nothing_else_was_asked_for():
    adam = th.optim.Adam
    assert faster(adam, {"eps": 1e-5}) is FusedAdam
    assert faster(adam, {"foreach": True}) is adam
    assert faster(th.optim.SGD, {}) is th.optim.SGD

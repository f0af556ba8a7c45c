import copy

import pytest
import torch as th
from torch import nn

import crl.networks.linear
from crl.compute import onednn_linear
from crl.networks import FastLinear, speed_up_linear

from_mkl = pytest.mark.skipif(not onednn_linear(), reason="MKL is as fast on this processor, or oneDNN is missing")


def results(layer, x, gradient):
    x = x.clone().requires_grad_()
    out = layer(x)
    return [out, *th.autograd.grad(out, [x, *layer.parameters()], gradient)]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch, inputs, outputs", [(1, 7, 3), (128, 50, 64), (16, 2000, 50)])
def test_equals_linear(batch, inputs, outputs, bias):
    plain = nn.Linear(inputs, outputs, bias=bias)
    fast = copy.deepcopy(plain)
    assert speed_up_linear(fast) == 1 and type(fast) is FastLinear
    x, gradient = th.randn(batch, inputs), th.randn(batch, outputs)
    for ours, theirs in zip(results(fast, x, gradient), results(plain, x, gradient), strict=True):
        assert th.allclose(ours, theirs, atol=1e-4, rtol=1e-4)
    with_graph = fast(x)
    with th.no_grad():
        assert th.equal(fast(x), with_graph)


@from_mkl
@pytest.mark.parametrize(
    "frozen, calls", [((), 3), (("x",), 2), (("weight",), 2), (("x", "weight"), 1)], ids=lambda value: str(value)
)
def test_nothing_is_computed_for_nobody(frozen, calls, monkeypatch):
    count = []
    product = crl.networks.linear._product
    monkeypatch.setattr(crl.networks.linear, "_product", lambda *args: count.append(1) or product(*args))
    layer, x = FastLinear(5, 4), th.randn(3, 5, requires_grad="x" not in frozen)
    layer.weight.requires_grad_("weight" not in frozen)
    layer(x).sum().backward()
    assert len(count) == calls
    assert (x.grad is None, layer.weight.grad is None) == ("x" in frozen, "weight" in frozen)
    assert th.allclose(layer.bias.grad, th.full((4,), 3.0))


def test_gradients_of_gradients_are_torchs_own():
    plain = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 2))
    fast = copy.deepcopy(plain)
    assert speed_up_linear(fast) == 2
    x, products = th.randn(6, 5), []
    for network in (fast, plain):
        parameters = list(network.parameters())
        first = th.autograd.grad(network(x).square().sum(), parameters, create_graph=True)
        along = sum(gradient.square().sum() for gradient in first)
        products.append(th.autograd.grad(along, parameters, allow_unused=True))
    for ours, theirs in zip(*products, strict=True):
        assert theirs.norm() > 0 and th.allclose(ours, theirs, rtol=1e-4, atol=1e-4 * theirs.norm().item())


def test_other_shapes_and_types_take_torchs_way():
    layer = FastLinear(5, 4)
    plain = nn.Linear(5, 4)
    plain.load_state_dict(layer.state_dict())
    for x in (th.randn(5), th.randn(2, 3, 5), th.randn(0, 5)):
        assert th.equal(layer(x), plain(x))
    assert th.equal(layer.double()(th.ones(2, 5, dtype=th.float64)), plain.double()(th.ones(2, 5, dtype=th.float64)))
    with th.autocast("cpu", dtype=th.bfloat16):
        assert FastLinear(5, 4)(th.randn(2, 5)).dtype == th.bfloat16


def test_speeding_up_keeps_parameters_and_leaves_subclasses_alone():
    class Own(nn.Linear):
        pass

    module = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), Own(3, 3))
    before = list(module.parameters())
    assert speed_up_linear(module) == 1 and speed_up_linear(module) == 0
    assert type(module[0]) is FastLinear and type(module[2]) is Own
    assert all(one is other for one, other in zip(module.parameters(), before, strict=True))

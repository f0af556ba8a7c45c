import copy

import pytest
import torch as th
from torch import nn

from crl.compute import autocast, onednn_convolution
from crl.networks import ConvStack, nature_body, pixel_body, rainbow_body

from ..processor import PRECISIONS

fused = pytest.mark.skipif(not onednn_convolution(), reason="torch without oneDNN")


def outputs_and_gradients(body, images, precision):
    """What comes out, and the gradient of a fixed scalar of it on images and parameters."""
    images = images.clone().requires_grad_()
    with autocast(precision, "cpu"):
        out = body(images)
    weights = th.linspace(-1.0, 1.0, out.numel()).view(out.shape)
    return out, th.autograd.grad((out.float() * weights).sum(), [images, *body.parameters()])


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("make, channels", [(pixel_body, 9), (nature_body, 4), (rainbow_body, 4)])
@pytest.mark.parametrize("layout", [th.contiguous_format, th.channels_last])
def test_equals_torchs_own_layers(make, channels, precision, layout):
    body = make(channels)
    plain = nn.Sequential(*copy.deepcopy(body))
    images = th.rand(3, channels, 52, 60).contiguous(memory_format=layout)
    (ours, our_gradients), (theirs, their_gradients) = (
        outputs_and_gradients(network, images, precision) for network in (body, plain)
    )
    tolerance = 1e-5 if precision == "fp32" else 1e-2  # bf16 has 8 bits
    assert ours.dtype == theirs.dtype
    assert th.allclose(ours, theirs, atol=tolerance, rtol=tolerance)
    for one, other in zip(our_gradients, their_gradients, strict=True):
        assert one.dtype == other.dtype == th.float32
        assert (one - other).norm() <= tolerance * other.norm()
    with autocast(precision, "cpu"):
        with_graph = body(images)
        with th.no_grad():
            assert th.equal(body(images), with_graph)


def test_gradients_of_gradients_are_torchs_own():
    """TRPO multiplies with the Hessian of the KL divergence; a missing second derivative would count as zero there."""
    body = pixel_body(3, filters=4, layers=3)
    plain = nn.Sequential(*copy.deepcopy(body))
    images = th.rand(3, 3, 20, 20)
    products = []
    for network in (body, plain):
        parameters = list(network.parameters())
        first = th.autograd.grad(network(images).square().sum(), parameters, create_graph=True)
        along = sum((gradient * th.linspace(-1, 1, gradient.numel()).view(gradient.shape)).sum() for gradient in first)
        products.append(th.autograd.grad(along, parameters, allow_unused=True))
    for ours, theirs in zip(*products, strict=True):
        assert theirs.norm() > 0 and (ours - theirs).norm() <= 1e-4 * theirs.norm()


@fused
def test_each_pair_is_one_operation():
    body, images = pixel_body(9), th.rand(2, 9, 40, 40)
    with th.profiler.profile(activities=[th.profiler.ProfilerActivity.CPU]) as profile:
        body(images).sum().backward()
    calls = {event.key: event.count for event in profile.key_averages()}
    assert calls["_ConvReLU"] == 4 and "aten::relu" not in calls and calls["aten::convolution_backward"] == 4


def test_only_what_needs_a_gradient_gets_one():
    body, images = pixel_body(3, filters=4, layers=2), th.rand(2, 3, 16, 16)
    body[0].requires_grad_(False)
    body(images).sum().backward()
    assert body[0].weight.grad is None and body[2].weight.grad is not None


@pytest.mark.parametrize(
    "layers",
    [
        (nn.Conv2d(4, 4, 3, groups=2), nn.ReLU()),
        (nn.Conv2d(4, 4, 3, dilation=2), nn.ReLU()),
        (nn.Conv2d(4, 4, 3, padding="same"), nn.ReLU()),
        (nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), nn.ReLU()),
        (nn.Conv2d(4, 4, 3), nn.Tanh()),
        (nn.Conv2d(4, 4, 3),),
    ],
)
def test_other_layers_run_one_by_one(layers):
    stack, images = ConvStack(*layers), th.randn(2, 4, 9, 9)
    assert th.equal(stack(images), nn.Sequential(*layers)(images))


def test_other_inputs_run_one_by_one():
    stack = pixel_body(3, filters=4, layers=2)
    plain, image = nn.Sequential(*stack), th.rand(3, 16, 16)
    assert th.equal(stack(image), plain(image))  # no batch
    assert stack(th.rand(0, 3, 16, 16)).shape == (0, 4, 5, 5)
    stack.double()
    assert stack(image[None].double()).dtype == th.float64


def test_state_dict_and_parts_are_a_sequentials():
    stack = pixel_body(3, filters=4, layers=2)
    assert list(stack.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    first = stack[:1]
    assert th.equal(first(th.ones(1, 3, 8, 8)), stack[0](th.ones(1, 3, 8, 8)))


def test_it_can_be_traced():
    """SB3's documented way of exporting a policy: the trace holds plain convolutions, and says what the stack says."""
    stack = ConvStack(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU()).eval()
    x, other = th.rand(2, 3, 12, 12), th.rand(5, 3, 12, 12)
    with th.no_grad():
        traced = th.jit.trace(stack, x)
        assert "mkldnn::" not in str(traced.inlined_graph)
        th.testing.assert_close(traced(other), stack(other), rtol=1e-4, atol=1e-5)

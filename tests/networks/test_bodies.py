import math

import pytest
import torch as th
from torch import nn

from crl.networks import (
    delta_orthogonal_,
    ema_copy,
    ema_update,
    impala_body,
    initialize,
    nature_body,
    pixel_body,
    rainbow_body,
)


def sine_weights(module: nn.Module, scale: float) -> None:
    """Fill weights with ``scale * sin(i)``, i restarting in each layer."""
    with th.no_grad():
        for layer in module.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                index = th.arange(layer.weight.numel(), dtype=th.float64)
                layer.weight.copy_((scale * th.sin(index)).reshape(layer.weight.shape))
                layer.bias.zero_()


@pytest.mark.parametrize(
    "size, sides, sums",
    [
        (84, [41, 39, 37, 35], [8679.462967, 2227.655532, 381.939616, 74.593874]),
        (64, [31, 29, 27, 25], None),
    ],
)
def test_pixel_body_golden(size, sides, sums):
    body = pixel_body(9).double()
    sine_weights(body, 0.1)
    x = (th.arange(9 * size * size, dtype=th.float64) % 256 / 255).reshape(1, 9, size, size)
    outputs = []
    for layer in body:
        x = layer(x)
        if isinstance(layer, nn.ReLU):
            outputs.append(x)
    assert [o.shape[-1] for o in outputs] == sides
    if sums:
        assert [o.sum().item() for o in outputs] == pytest.approx(sums, rel=1e-8)


def test_pixel_body_size():
    assert sum(p.numel() for p in pixel_body(9).parameters()) == 30368


@pytest.mark.parametrize(
    "make, channels, shape",
    [
        (nature_body, 4, (64, 7, 7)),
        (rainbow_body, 4, (64, 3, 3)),
        (impala_body, 3, (32, 11, 11)),
        (pixel_body, 9, (32, 35, 35)),
    ],
)
def test_shapes_at_84(make, channels, shape):
    assert make(channels)(th.rand(2, channels, 84, 84)).shape == (2, *shape)


def test_impala_width_and_depth():
    assert impala_body(3, width=2)(th.rand(1, 3, 64, 64)).shape == (1, 64, 8, 8)
    assert sum(isinstance(m, nn.Conv2d) for m in impala_body(3).modules()) == 15


def test_delta_orthogonal_is_an_orthogonal_centre_tap():
    conv1, conv2 = th.empty(32, 9, 3, 3), th.empty(32, 32, 3, 3)
    for weight, norm in ((conv1, 18.0), (conv2, 64.0)):
        delta_orthogonal_(weight, math.sqrt(2))
        assert weight.square().sum().item() == pytest.approx(norm, rel=1e-5)
        centre = weight[:, :, 1, 1]
        th.testing.assert_close(centre.T @ centre, 2 * th.eye(weight.shape[1]), atol=1e-5, rtol=0)
        weight[:, :, 1, 1] = 0
        assert weight.abs().sum() == 0
    with pytest.raises(ValueError, match="odd square kernel"):
        delta_orthogonal_(th.empty(8, 4, 8, 8))


def test_initialize():
    net = nn.Sequential(nn.Conv2d(32, 32, 3), nn.Flatten(), nn.Linear(100, 20))
    initialize(net, "orthogonal")
    assert net[0].weight.square().sum().item() == pytest.approx(64, rel=1e-5)
    th.testing.assert_close(net[2].weight @ net[2].weight.T, th.eye(20), atol=1e-5, rtol=0)
    assert net[0].bias.abs().sum() == 0
    before = net[0].weight.clone()
    initialize(net, "default")
    assert th.equal(net[0].weight, before)
    with pytest.raises(ValueError, match="choose one of"):
        initialize(net, "he")


def test_ema_against_a_loop():
    online = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    target = ema_copy(online)
    assert not any(p.requires_grad for p in target.parameters()) and not target.training
    start = [p.clone() for p in target.parameters()]
    with th.no_grad():
        for p in online.parameters():
            p.add_(th.randn_like(p))
    online[1].running_mean.fill_(3.0)
    ema_update(target, online, 0.3)
    for s, t, o in zip(start, target.parameters(), online.parameters(), strict=True):
        th.testing.assert_close(t, 0.7 * s + 0.3 * o.detach())
    assert th.equal(target[1].running_mean, online[1].running_mean)
    ema_update(target, online, 1.0)
    assert all(th.equal(t, o) for t, o in zip(target.parameters(), online.parameters(), strict=True))


def test_ema_errors():
    with pytest.raises(ValueError, match=r"lies in \[0, 1\]"):
        ema_update(nn.Linear(2, 2), nn.Linear(2, 2), 1.5)
    with pytest.raises(ValueError, match="different parameters"):
        ema_update(nn.Linear(2, 2), nn.Linear(2, 3), 0.5)
    with pytest.raises(TypeError, match="torch modules"):
        ema_copy(3)


def test_xavier():
    net = nn.Sequential(nn.Conv2d(32, 64, 3), nn.Flatten(), nn.Linear(100, 20))
    initialize(net, "xavier")
    for layer, fans in ((net[0], 9 * (32 + 64)), (net[2], 120)):
        bound = math.sqrt(6 / fans)
        assert 0.95 * bound < layer.weight.abs().max() <= bound
        assert layer.bias.abs().sum() == 0


def test_padded_nature_body():
    """What flax's padding="SAME" says of 84x84: ceil(side / stride), the odd zero behind."""
    body = nature_body(4, padding="same")
    x = th.rand(2, 4, 84, 84)
    out = body(x)
    for conv in [layer for layer in body if isinstance(layer, nn.Conv2d)]:
        total = (-(-x.shape[2] // conv.stride[0]) - 1) * conv.stride[0] + conv.kernel_size[0] - x.shape[2]
        zeros = (total // 2, total - total // 2) * 2
        x = th.nn.functional.conv2d(th.nn.functional.pad(x, zeros), conv.weight, conv.bias, conv.stride).relu()
    assert out[0].numel() == 7744
    th.testing.assert_close(out, x, rtol=1e-4, atol=1e-5)
    out.square().sum().backward()
    mine = [p.grad.clone() for p in body.parameters()]
    body.zero_grad()
    x.square().sum().backward()
    for grad, other in zip(mine, body.parameters(), strict=True):
        th.testing.assert_close(grad, other.grad, rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match="'valid' or 'same'"):
        nature_body(4, padding="full")

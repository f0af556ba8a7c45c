"""CURL's contrast as its Rainbow has it."""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from crl.contract import Spaces, ViewBatch
from crl.encoders import ModelEncoder, RainbowEncoder
from crl.objectives import OBJECTIVES, CURLRainbow, list_objectives

SPACE = spaces.Box(0, 255, (4, 40, 40), np.uint8)


def built(**kwargs):
    th.manual_seed(0)
    encoder = ModelEncoder(RainbowEncoder(SPACE), SPACE)
    objective = CURLRainbow(**{"hidden": 9, "width": 6, **kwargs})
    objective.build(encoder, Spaces(SPACE, spaces.Discrete(3)))
    return objective, encoder


def batch(n=8):
    generator = th.Generator().manual_seed(1)
    views = tuple(th.randint(0, 256, (n, 4, 40, 40), dtype=th.uint8, generator=generator) for _ in range(2))
    return ViewBatch(views, generator)


def project(linears, x):
    for i, linear in enumerate(linears):
        x = x @ linear.weight.double().T + linear.bias.double()
        x = (x - x.mean(1, keepdim=True)) / (x.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        x = x.clamp(min=0) if i == 0 else x
    return x


def test_loss_equals_the_written_out_one():
    objective, encoder = built()
    data = batch()
    loss, metrics = objective.loss(data)
    query = project([objective.projection[0], objective.projection[3]], encoder(data.views[0]).double())
    key = project([objective.key_projection[0], objective.key_projection[3]], objective.key_encoder(data.views[1]).double())
    logits = 0.1 * (query @ objective.weight.double() @ key.T)
    want = -sum(logits[i, i] - th.logsumexp(logits[i], 0) for i in range(8)) / 8
    assert loss.item() == pytest.approx(want.item(), rel=1e-4)
    assert metrics["accuracy"] == (logits.argmax(1) == th.arange(8)).float().mean()
    features = encoder(data.views[0])
    assert th.allclose(objective.loss(data, features)[0], loss)


def test_initial_values_and_gradients():
    objective, encoder = built()
    for linear in (objective.projection[0], objective.projection[3]):
        assert linear.weight.min() >= 0 and 0.9 < linear.weight.max() < 1 and not linear.bias.any()
    assert objective.weight.min() >= 0 and objective.weight.max() < 1
    objective.loss(batch())[0].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())
    trained = [name for name, p in objective.named_parameters() if p.requires_grad]
    assert {name.split(".")[0] for name in trained} == {"projection", "weight"}
    assert all(p.grad is None for name, p in objective.named_parameters() if name.startswith("key_"))


def test_keys_follow_encoder_and_projection():
    objective, encoder = built(tau=0.25)
    pairs = [(objective.key_encoder, encoder), (objective.key_projection, objective.projection)]
    before = [[p.clone() for p in key.parameters()] for key, _ in pairs]
    with th.no_grad():
        for _, online in pairs:
            for p in online.parameters():
                p.add_(1.0)
    objective.after_step()
    for old, (key, _) in zip(before, pairs, strict=True):
        for a, b in zip(old, key.parameters(), strict=True):
            th.testing.assert_close(b, a + 0.25)


def test_registry_and_bad_values():
    assert OBJECTIVES["curl-rainbow"] is CURLRainbow and list_objectives().keys() == OBJECTIVES.keys()
    assert all(text.endswith(".") and len(text) > 20 for text in list_objectives().values())
    for kwargs in (dict(hidden=0), dict(tau=0.0), dict(scale=0.0)):
        with pytest.raises(ValueError, match="CURLRainbow"):
            CURLRainbow(**kwargs)

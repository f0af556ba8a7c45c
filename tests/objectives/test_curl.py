import copy

import numpy as np
import pytest
import torch as th
import torch.nn.functional as F
from gymnasium import spaces

from crl.augment import RandomShift
from crl.contract import Spaces, ViewBatch
from crl.encoders import ModelEncoder, PixelEncoder
from crl.objectives import CURL, OBJECTIVES

SPACE = spaces.Box(0, 255, (6, 16, 16), np.uint8)


def make_encoder(with_target=False):
    extractor = PixelEncoder(SPACE, features_dim=8, filters=4, layers=2)
    target = ModelEncoder(copy.deepcopy(extractor), SPACE) if with_target else None
    return ModelEncoder(extractor, SPACE, target=target)


def built(encoder=None, **kwargs):
    curl = CURL(**kwargs)
    curl.build(encoder or make_encoder(), Spaces(SPACE, spaces.Discrete(2)))
    return curl


def views(n=5, seed=0):
    generator = th.Generator().manual_seed(seed)
    return ViewBatch(tuple(th.randint(0, 256, (n, 6, 16, 16), dtype=th.uint8, generator=generator) for _ in range(2)))


def slow_loss(query, key, weight):
    """The definition, row by row."""
    total = 0.0
    for i in range(len(query)):
        scores = th.stack([query[i] @ weight @ key[j] for j in range(len(key))])
        total = total - (scores[i] - th.logsumexp(scores, 0))
    return total / len(query)


@pytest.mark.parametrize("keys", ["own", "target", "online"])
def test_loss_and_gradients_against_the_definition(keys):
    encoder = make_encoder(with_target=True)
    curl = built(encoder, keys=keys)
    with th.no_grad():  # the key encoder must differ from the online one for the test to tell them apart
        for p in (curl.key_encoder if keys == "own" else encoder.target).parameters():
            p.add_(0.1 * th.randn_like(p))
    batch = views()
    loss, metrics = curl.loss(batch)
    with th.no_grad():
        key = dict(own=getattr(curl, "key_encoder", None), target=encoder.target, online=encoder)[keys](batch.views[1])
    query = encoder(batch.views[0])
    want = slow_loss(query, key, curl.weight)
    th.testing.assert_close(loss, want)
    parameters = [curl.weight, *encoder.parameters()]
    for got, expected in zip(th.autograd.grad(loss, parameters), th.autograd.grad(want, parameters), strict=True):
        th.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    logits = query @ curl.weight @ key.T
    assert metrics["accuracy"].item() == pytest.approx((logits.argmax(1) == th.arange(5)).float().mean().item())
    positive = sum(logits[i, i].item() for i in range(5)) / 5
    negative = sum(logits[i, j].item() for i in range(5) for j in range(5) if i != j) / 20
    assert metrics["loss"].item() == pytest.approx(want.item(), rel=1e-4)
    assert metrics["positive_similarity"].item() == pytest.approx(positive, rel=1e-4, abs=1e-4)
    assert metrics["negative_similarity"].item() == pytest.approx(negative, rel=1e-4, abs=1e-4)
    assert not any(value.requires_grad for value in metrics.values())


def test_no_gradient_reaches_the_keys():
    encoder = make_encoder(with_target=True)
    for keys in ("own", "target"):
        curl = built(encoder, keys=keys)
        curl.loss(views())[0].backward()
        module = curl.key_encoder if keys == "own" else encoder.target
        assert all(p.grad is None for p in module.parameters())
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.extractor._head.parameters())


def test_given_features_are_used():
    curl = built()
    batch = views()
    features = th.randn(5, 8, requires_grad=True)
    loss, _ = curl.loss(batch, features)
    th.testing.assert_close(loss, F.cross_entropy(features @ curl.weight @ curl.key_encoder(batch.views[1]).T, th.arange(5)))
    (gradient,) = th.autograd.grad(loss, features)
    assert gradient.abs().sum() > 0


def test_weight_starts_uniform():
    weight = built().weight
    assert (
        weight.shape == (8, 8)
        and weight.min() >= 0
        and weight.max() < 1
        and weight.mean().item() == pytest.approx(0.5, abs=0.15)
    )


def test_key_encoder_follows_at_every_second_update():
    curl = built(tau=0.25)
    online, key = next(curl.encoder.parameters()), next(curl.key_encoder.parameters())
    with th.no_grad():
        online.add_(1.0)
    start = key.clone()
    curl.after_step()
    assert th.equal(key, start)
    curl.after_step()
    th.testing.assert_close(key, 0.75 * start + 0.25 * online.detach())


def test_state_round_trip_keeps_the_rhythm():
    curl, other = built(), built()
    curl.after_step()
    other.load_state_dict(curl.state_dict())
    assert other.n_updates == 1
    assert th.equal(curl.weight, other.weight)
    assert not any("extractor" in name and "key_encoder" not in name for name in curl.state_dict()), (
        "the agent's encoder is not ours"
    )


def test_deep_copy_before_building_and_registry():
    assert OBJECTIVES["curl"] is CURL
    assert copy.deepcopy(CURL(tau=0.3)).tau == 0.3
    with pytest.raises(RuntimeError, match="not built yet"):
        CURL().encoder  # noqa: B018


@pytest.mark.parametrize(
    "kwargs, message",
    [
        (dict(keys="momentum"), "choose 'own'"),
        (dict(tau=0.0), r"tau=0.0"),
        (dict(tau=1.5), r"tau=1.5"),
        (dict(target_update_interval=0), "at least 1"),
        (dict(augment=RandomShift), r"pass an instance, RandomShift\(\.\.\.\)"),
        (dict(augment="shift"), "pass an augmentation of crl.augment"),
    ],
)
def test_wrong_values(kwargs, message):
    with pytest.raises(ValueError, match=message):
        CURL(**kwargs)


def test_target_keys_need_a_target():
    with pytest.raises(ValueError, match="no target encoder"):
        built(make_encoder(), keys="target")

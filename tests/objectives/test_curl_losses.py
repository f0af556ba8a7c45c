"""CURL with other losses: who gets a gradient, that it learns without collapsing, and that CURL's own is what it was."""

import copy
import functools

import numpy as np
import pytest
import torch as th
import torch.nn.functional as F
from gymnasium import spaces

from crl.augment import RandomShift
from crl.callbacks import AuxiliaryLossCallback
from crl.contract import Spaces, ViewBatch
from crl.encoders import ModelEncoder, PixelEncoder
from crl.envs import make_env
from crl.losses import PAIR_LOSSES, alignment, nt_xent
from crl.metrics import embedding_std, top1_accuracy
from crl.networks import ema_update
from crl.objectives import CURL

from ..callbacks.models import make_model

SPACE = spaces.Box(0, 255, (6, 16, 16), np.uint8)
FEATURES = 8

#: small heads, where there are any
NARROW = {name: dict(projector=(12, 6)) for name in ("nt_xent", "decoupled", "debiased", "hard_negative", "model_aware")}
NARROW |= {name: dict(projector=(12, 12, 6)) for name in ("vicreg", "barlow_twins")} | {
    "whitening_mse": dict(projector=(12, 3)),
    "negative_cosine": dict(projector=(12, 6), predictor=(5, 6)),
    "moco": dict(loss_kwargs=dict(queue_size=11)),
    "adaptive_soft": dict(loss_kwargs=dict(queue_size=11)),
}
STYLES = {name: dict(loss=name) | NARROW.get(name, {}) for name in PAIR_LOSSES}
STYLES["simsiam"] = STYLES["negative_cosine"] | dict(keys="online")
STYLES["byol-target"] = STYLES["negative_cosine"] | dict(keys="target")
STYLES["byol-one-way"] = STYLES["negative_cosine"] | dict(symmetric=False)
STYLES["vicreg-target"] = STYLES["vicreg"] | dict(keys="own")
STYLES["info_nce-both"] = dict(loss="info_nce", keys="trained", symmetric=True, projector=(12, 6))
STYLES["bilinear-trained"] = dict(keys="trained")
each = pytest.mark.parametrize("style", STYLES)


def make_encoder():
    extractor = PixelEncoder(SPACE, features_dim=FEATURES, filters=4, layers=2)
    return ModelEncoder(extractor, SPACE, target=ModelEncoder(copy.deepcopy(extractor), SPACE))


def built(encoder=None, seed=0, **kwargs):
    curl = CURL(**kwargs)
    encoder = encoder or make_encoder()
    th.manual_seed(seed)
    curl.build(encoder, Spaces(SPACE, spaces.Discrete(2)))
    return curl


def views(n=7, seed=0):
    generator = th.Generator().manual_seed(seed)
    return ViewBatch(tuple(th.randint(0, 256, (n, 6, 16, 16), dtype=th.uint8, generator=generator) for _ in range(2)))


def trained(curl):
    return [p for p in [*curl.encoder.parameters(), *curl.parameters()] if p.requires_grad]


# ---- who gets a gradient


@each
def test_gradient_reaches_encoder_and_heads_alone(style):
    curl = built(**STYLES[style])
    loss, metrics = curl.loss(views())
    assert loss.shape == () and loss.dtype == th.float32 and loss.isfinite()
    assert metrics["loss"] == loss.detach() and not any(value.requires_grad for value in metrics.values())
    assert set(metrics) == {"loss", "accuracy", "positive_similarity", "negative_similarity"}
    loss.backward()
    assert all(p.grad is not None and p.grad.any() for p in curl.encoder.extractor.parameters())
    for name, parameter in curl.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, f"{name} is never trained"
        else:
            assert parameter.grad is None and "key" in name
    assert all(p.grad is None for p in curl.encoder.target.parameters())


@pytest.mark.parametrize("style", ["negative_cosine", "simsiam", "byol-target", "info_nce", "moco", "vicreg", "nt_xent"])
def test_gradient_to_the_other_view(style):
    """As published: the other view is a target, or trained like the first."""
    kwargs = STYLES[style] | (dict(symmetric=False) if PAIR_LOSSES[STYLES[style]["loss"]].needs_predictor else {})
    curl = built(**kwargs)
    first, second = (view.float() for view in views().views)
    second.requires_grad_()
    first.requires_grad_()
    loss, _ = curl.loss(ViewBatch((first, second)))
    one, other = th.autograd.grad(loss, (first, second), allow_unused=True)
    assert one.abs().sum() > 0
    if curl.keys == "trained":
        assert style in ("vicreg", "nt_xent") and other.abs().sum() > 0
    else:
        assert other is None


# ---- against the definition


def test_byol_by_hand():
    curl = built(**STYLES["negative_cosine"], tau=0.3, target_update_interval=1)
    assert curl.keys == "own" and curl.head.symmetric
    with th.no_grad():  # the EMA networks must differ from the online ones for the test to tell them apart
        for p in [*curl.key_encoder.parameters(), *curl.head.key_projector.parameters()]:
            p.add_(0.1 * th.randn_like(p))
    batch = views()
    online = [curl.head.predictor(curl.head.projector(curl.encoder(view))) for view in batch.views]
    with th.no_grad():
        target = [curl.head.key_projector(curl.key_encoder(view)) for view in batch.views]
    cosines = [F.cosine_similarity(online[0], target[1]).mean(), F.cosine_similarity(online[1], target[0]).mean()]
    want = -(cosines[0] + cosines[1]) / 2
    loss, metrics = curl.loss(batch)
    th.testing.assert_close(loss, want)
    th.testing.assert_close(metrics["positive_similarity"], cosines[0].detach())
    for got, expected in zip(th.autograd.grad(loss, trained(curl)), th.autograd.grad(want, trained(curl)), strict=True):
        th.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)
    pairs = [(curl.key_encoder, curl.encoder), (curl.head.key_projector, curl.head.projector)]
    wanted = [copy.deepcopy(key) for key, _ in pairs]
    for key, (_, source) in zip(wanted, pairs, strict=True):
        ema_update(key, source, 0.3)
    curl.after_step()
    for key, (moved, _) in zip(wanted, pairs, strict=True):
        assert all(th.equal(a, b) for a, b in zip(key.parameters(), moved.parameters(), strict=True))


def test_simsiam_by_hand():
    curl = built(**STYLES["simsiam"])
    assert curl.head.key_projector is None and curl.head.final_norm
    batch = views()
    z = [curl.head.projector(curl.encoder(view)) for view in batch.views]
    p = [curl.head.predictor(one) for one in z]
    cosines = [F.cosine_similarity(p[0], z[1].detach()).mean(), F.cosine_similarity(p[1], z[0].detach()).mean()]
    loss, _ = curl.loss(batch)
    want = -(cosines[0] + cosines[1]) / 2
    th.testing.assert_close(loss, want)
    for got, expected in zip(th.autograd.grad(loss, trained(curl)), th.autograd.grad(want, trained(curl)), strict=True):
        th.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("style", ["nt_xent", "vicreg", "barlow_twins"])
def test_both_views_through_one_projector(style):
    curl = built(**STYLES[style])
    batch = views()
    z = [curl.head.projector(curl.encoder(view)) for view in batch.views]
    want = PAIR_LOSSES[style].function(*z)
    loss, _ = curl.loss(batch)
    th.testing.assert_close(loss, want)
    for got, expected in zip(th.autograd.grad(loss, trained(curl)), th.autograd.grad(want, trained(curl)), strict=True):
        th.testing.assert_close(got, expected, rtol=1e-3, atol=1e-5)


def test_loss_kwargs_and_given_features():
    curl = built(loss="nt_xent", loss_kwargs=dict(temperature=0.05), projector=())
    batch = views()
    features = th.randn(7, FEATURES, requires_grad=True)
    loss, _ = curl.loss(batch, features)
    th.testing.assert_close(loss, nt_xent(features, curl.encoder(batch.views[1]), 0.05))
    (gradient,) = th.autograd.grad(loss, features)
    assert gradient.abs().sum() > 0


def test_keys_enter_the_queue_after_the_step():
    curl = built(**STYLES["moco"])
    batch = views()
    curl.loss(batch)
    with th.no_grad():
        keys = F.normalize(curl.key_encoder(batch.views[1]), dim=1)
    curl.after_step()
    th.testing.assert_close(curl.head.pair.queue[:7], keys)


@each
def test_state_round_trip(style):
    encoder = make_encoder()
    curl, other = built(encoder, **STYLES[style]), built(encoder, seed=1, **STYLES[style])
    for seed in range(3):
        curl.loss(views(seed=seed))
        curl.after_step()
    other.load_state_dict(curl.state_dict())
    assert other.n_updates == 3
    for one in (curl, other):  # and they go on alike
        one.loss(views(seed=7))
        one.after_step()
    assert th.equal(curl.loss(views())[0], other.loss(views())[0])
    copied = copy.deepcopy(CURL(**STYLES[style]))
    assert not copied.is_built and copied.keys == curl.keys


# ---- it learns, and does not collapse


@functools.cache
def stored_frames():
    """A few hundred observations of the toy, of a random policy, and others that are held out."""
    env = make_env("toy/reach", seed=0)
    env.action_space.seed(0)
    frames = []
    for _ in range(14):
        obs, _ = env.reset()
        for t in range(50):
            if t % 3 == 0:
                frames.append(obs)
            obs, *_ = env.step(env.action_space.sample())
    frames = th.as_tensor(np.stack(frames))
    return frames[:-64], frames[-64:]


def train_on_toy(loss_of, parameters, after_step, steps):
    frames, _ = stored_frames()
    augment, generator = RandomShift(2), th.Generator().manual_seed(0)
    optimizer = th.optim.Adam(parameters, 1e-3)
    for _ in range(steps):
        rows = th.randint(len(frames), (48,), generator=generator)
        loss = loss_of(*(augment(frames[rows], generator) for _ in range(2)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        after_step()


def toy_encoder():
    frames, _ = stored_frames()
    space = spaces.Box(0, 255, tuple(frames.shape[1:]), np.uint8)
    th.manual_seed(0)
    return ModelEncoder(PixelEncoder(space, features_dim=32, filters=8, layers=2), space), space


def spread_and_retrieval(encoder):
    """On held-out observations: standard deviation of unit embeddings, 1 when evenly spread, and top-1 of another view."""
    _, frames = stored_frames()
    augment, generator = RandomShift(2), th.Generator().manual_seed(1)
    with th.no_grad():
        z = encoder(frames)
        one, other = (F.normalize(encoder(augment(frames, generator)) - z.mean(0), dim=1) for _ in range(2))
    spread = embedding_std(F.normalize(z, dim=1)).item() * z.shape[1] ** 0.5
    return spread, top1_accuracy(one @ other.T).item()


#: too slow for the gate: the others differ from these by their formula alone, which is tested
_GATE = ["negative_cosine", "simsiam", "vicreg", "barlow_twins", "moco"]


def learn_on_toy(style, steps):
    encoder, space = toy_encoder()
    loss = "negative_cosine" if style == "simsiam" else style
    kwargs = dict(loss_kwargs=dict(queue_size=256)) if PAIR_LOSSES[loss].negatives == "queue" else {}
    curl = CURL("online" if style == "simsiam" else None, loss=loss, **kwargs)
    curl.build(encoder, Spaces(space, spaces.Discrete(2)))
    train_on_toy(lambda a, b: curl.loss(ViewBatch((a, b)))[0], trained(curl), curl.after_step, steps)
    return curl


def held_out_gap(curl):
    """How much more alike predictions and targets are for the same observation than for two; 0 after a collapse."""
    _, frames = stored_frames()
    augment, generator = RandomShift(2), th.Generator().manual_seed(1)
    with th.no_grad():
        _, metrics = curl.loss(ViewBatch(tuple(augment(frames, generator) for _ in range(2))))
    return (metrics["positive_similarity"] - metrics["negative_similarity"]).item()


@pytest.mark.parametrize(
    "style", [s if s in _GATE else pytest.param(s, marks=pytest.mark.slow) for s in [*PAIR_LOSSES, "simsiam"]]
)
def test_learns_on_stored_data_without_collapsing(style):
    spread, retrieval = spread_and_retrieval(toy_encoder()[0])
    curl = learn_on_toy(style, steps=30 if style in _GATE else 60)
    after = spread_and_retrieval(curl.encoder)
    # CURL's logits are not normalised and its W begins positive: embeddings come to share a direction
    assert after[0] > 0.25 * spread, f"spread from {spread:.2f} to {after[0]:.2f}"
    if curl.head is not None and curl.head.pair.spec.needs_predictor:
        # prediction comes first; what features tell apart follows, slowly
        assert held_out_gap(curl) > 0.15
    else:
        assert after[1] > retrieval + 0.05, f"top-1 of another view from {retrieval:.2f} to {after[1]:.2f}"


def test_what_collapses_is_seen_to():
    """The same measure on a loss that only pulls together: the guard above can fail."""
    encoder, _ = toy_encoder()
    spread, _ = spread_and_retrieval(encoder)
    train_on_toy(lambda a, b: alignment(encoder(a), encoder(b)), list(encoder.parameters()), lambda: None, steps=30)
    assert spread_and_retrieval(encoder)[0] < 0.15 * spread


@pytest.mark.parametrize(
    "style, name, mode",
    [
        ("negative_cosine", "sac", "own_optimizer"),
        ("negative_cosine", "ppo", "own_optimizer"),
        ("simsiam", "dqn", "add_gradient"),
        ("vicreg", "ppo", "own_optimizer"),
        ("barlow_twins", "sac", "own_optimizer"),
        ("moco", "dqn", "add_gradient"),
    ],
)
def test_trains_the_encoder_of_an_agent(style, name, mode):
    model = make_model(name, env_kwargs=dict(length=7))
    curl = CURL(**STYLES[style], augment=RandomShift(2))
    callback = AuxiliaryLossCallback(curl, mode, batch_size=8, log_interval=10_000)
    model.learn(24, callback=callback)
    item = next(iter(callback.attachments.values()))
    assert item.n_updates >= 2 and curl.n_updates == item.n_updates
    loss, _ = curl.loss(callback._draw(curl))
    gradients = th.autograd.grad(loss, item.found.encoder.extractor.body.parameters())
    assert loss.isfinite() and all(g.abs().sum() > 0 for g in gradients)


# ---- CURL() is what it was


def test_default_is_bitwise_the_plain_algorithm():
    """Initial draw, loss, gradient, EMA rhythm and state written out once more, in the same operations."""
    encoder = make_encoder()
    plain = copy.deepcopy(encoder.extractor)
    curl = built(encoder, seed=3)
    th.manual_seed(3)
    weight = th.rand(FEATURES, FEATURES).requires_grad_()
    assert th.equal(curl.weight, weight), "the first draw, and the only one"
    online, key = ModelEncoder(plain, SPACE), ModelEncoder(copy.deepcopy(plain), SPACE)
    assert set(curl.state_dict()) == {"weight", "_extra_state"} | {f"key_encoder.{n}" for n in key.state_dict()}
    ours, theirs = (th.optim.Adam(p, 1e-3) for p in (trained(curl), [*plain.parameters(), weight]))
    for update in range(1, 5):
        batch = views(seed=update)
        loss, _ = curl.loss(batch)
        with th.no_grad():
            keys = key(batch.views[1])
        logits = online(batch.views[0]) @ weight @ keys.T
        want = (th.logsumexp(logits, dim=1) - logits.diagonal()).mean()
        assert th.equal(loss, want)
        for one, optimizer in ((loss, ours), (want, theirs)):
            optimizer.zero_grad()
            one.backward()
            optimizer.step()
        curl.after_step()
        if update % 2 == 0:
            ema_update(key, online, 0.05)
    assert th.equal(curl.weight, weight)
    for a, b in ((curl.encoder, online), (curl.key_encoder, key)):
        assert all(th.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def test_models_saved_before_other_losses():
    state = CURL(tau=0.3).__getstate__()
    del state["head"]
    old = CURL.__new__(CURL)
    old.__setstate__(state)
    assert old.head is None and old.tau == 0.3
    old.build(make_encoder(), Spaces(SPACE, spaces.Discrete(2)))
    assert old.loss(views())[0].isfinite()


@pytest.mark.parametrize(
    "kwargs, message",
    [
        (dict(loss="byol"), "CURL: loss='byol'.*did you mean negative_cosine"),
        (dict(loss="nt_xent", loss_kwargs=dict(temperatur=1)), "did you mean temperature"),
        (dict(loss_kwargs=dict(temperature=1)), "'bilinear' has no parameter"),
        (dict(keys="both"), "choose 'own', 'target', 'online' or 'trained'"),
        (dict(loss="negative_cosine", predictor=()), "collapses without a predictor"),
        (dict(loss="negative_cosine", keys="trained"), "with keys that are trained"),
        (dict(loss="moco", keys="trained"), "compares with earlier keys"),
        (dict(loss="vicreg", projector=512), "projector=512: widths of the layers"),
        (dict(loss="vicreg", predictor=(0,)), r"predictor=\(0,\)"),
        (dict(projector=(4,)), "compares features as they are"),
        (dict(symmetric=True), "compares features as they are"),
    ],
)
def test_wrong_values(kwargs, message):
    with pytest.raises(ValueError, match=message):
        CURL(**kwargs)


def test_predictions_must_be_as_wide_as_what_they_predict():
    with pytest.raises(ValueError, match="last width must be the 6"):
        built(loss="negative_cosine", projector=(4, 6), predictor=(4, 5))

"""What all objectives on windows of steps have in common."""

import copy
import functools

import pytest
import torch as th

from crl.augment import RandomShift
from crl.callbacks import AuxiliaryLossCallback
from crl.contract import Objective, ViewBatch
from crl.losses import PAIR_LOSSES
from crl.objectives import ATC, CPC, SPR, STDIM, TACO, SelfPrediction

from ..callbacks.models import make_model
from .small import BOX, DISCRETE, TinyEncoder, build, windows

OBJECTIVES = {
    "atc": functools.partial(ATC, k=2, latent_dim=8, hidden_dim=8),
    "atc-hard": functools.partial(ATC, k=1, latent_dim=8, hidden_dim=8, hard_negatives=2),
    "atc-window": functools.partial(ATC, k=2, latent_dim=8, hidden_dim=8, negative_window=2),
    "atc-byol": functools.partial(ATC, k=2, loss="negative_cosine"),
    "atc-vicreg": functools.partial(ATC, k=2, loss="vicreg"),
    "atc-info_nce": functools.partial(ATC, k=2, loss="info_nce", negative_window=2),
    "cpc": functools.partial(CPC, steps=4, hidden_dim=8),
    "cpc-actions": functools.partial(CPC, steps=3, offsets=2, hidden_dim=8, condition_on_actions=True),
    "cpc-window": functools.partial(CPC, steps=3, offsets=2, hidden_dim=8, warm_up=1, negative_window=2),
    "spr": functools.partial(SPR, k=3, hidden_dim=8),
    "spr-mlp": functools.partial(SPR, k=2, hidden_dim=8, transition="mlp", tau=0.05),
    "stdim": functools.partial(STDIM, k=2),
    "self-prediction": functools.partial(SelfPrediction, hidden_dim=8),
    "self-prediction-all": functools.partial(SelfPrediction, k=3, hidden_dim=8, reward_weight=0.1, info_nce_weight=0.1),
    "self-prediction-barlow": functools.partial(SelfPrediction, k=2, hidden_dim=8, loss="barlow"),
    "taco": functools.partial(TACO, k=2, latent_dim=8, hidden_dim=8),
    "taco-hard": functools.partial(TACO, k=1, latent_dim=8, hidden_dim=8, hard_negatives=1),
}
each = pytest.mark.parametrize("make", OBJECTIVES.values(), ids=OBJECTIVES.keys())
each_space = pytest.mark.parametrize("actions", [BOX, DISCRETE], ids=["continuous", "discrete"])


def batch_for(objective, seed=0, ends=None, n=6, actions=BOX, **kwargs):
    if objective.request.origin:
        kwargs |= dict(episode=th.arange(n) // 2, time=th.arange(n))
    return windows(n, objective.request.steps, ends, actions, seed, **kwargs)


@each
@each_space
def test_gradient_reaches_encoder_and_heads_alone(make, actions):
    objective = build(make(), actions)
    loss, metrics = objective.loss(batch_for(objective, actions=actions))
    assert loss.shape == () and loss.isfinite() and loss.requires_grad
    assert metrics["loss"] == loss.detach() and not any(value.requires_grad for value in metrics.values())
    loss.backward()
    assert all(p.grad is not None and p.grad.any() for p in objective.encoder.conv.parameters())
    for name, parameter in objective.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, f"{name} is never trained"
        else:
            assert parameter.grad is None
    assert not any(p is q for p in objective.parameters() for q in objective.encoder.parameters()), (
        "the encoder is the agent's"
    )


@each
@each_space
def test_what_follows_the_end_of_an_episode_does_not_count(make, actions):
    objective = build(make(), actions)
    ends = {0: 1, 2: objective.request.steps - 1 or 1, 5: 1}
    batch = batch_for(objective, ends=ends, actions=actions)
    other = copy.deepcopy(batch)
    for row, length in ends.items():
        other.obs[row, length + 1 :] = 255 - other.obs[row, length + 1 :]
        other.rewards[row, length:] = 7.0
        other.actions[row, length:] = 1
    trained = [p for p in [*objective.encoder.parameters(), *objective.parameters()] if p.requires_grad]
    losses = [objective.loss(one)[0] for one in (batch, other)]
    th.testing.assert_close(losses[0], losses[1], rtol=1e-12, atol=1e-12)
    gradients = [th.autograd.grad(loss, trained, allow_unused=True) for loss in losses]
    for a, b in zip(*gradients, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            th.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("loss", PAIR_LOSSES)
@pytest.mark.parametrize("name", ["cpc", "spr", "self-prediction", "stdim", "taco"])
def test_any_loss_of_pairs(name, loss):
    """Trains the encoder; of padding, and of the keys where the loss would collapse, nothing enters."""
    alone = dict(curl_weight=0.0) if name == "taco" else dict(locations=3) if name == "stdim" else {}
    queue = dict(loss_kwargs=dict(queue_size=9)) if PAIR_LOSSES[loss].negatives == "queue" else {}
    objective = build(OBJECTIVES[name](loss=loss, **alone, **queue))
    batch = batch_for(objective, ends={0: 1, 5: 1}, n=12)
    other = copy.deepcopy(batch)
    for row in (0, 5):
        other.obs[row, 2:] = 255 - other.obs[row, 2:]
        other.rewards[row, 1:] = 7.0
    losses = []
    for one in (batch, other):
        one.generator = th.Generator().manual_seed(0)
        losses.append(objective.loss(one)[0])
    assert losses[0].isfinite()
    th.testing.assert_close(losses[0], losses[1], rtol=1e-9, atol=1e-9)
    losses[0].backward()
    assert all(p.grad is not None and p.grad.any() for p in objective.encoder.conv.parameters())
    objective.after_step()
    later, metrics = objective.loss(batch)
    assert later.isfinite() and all(value.isfinite() for value in metrics.values())


@each
def test_wrong_batches(make):
    objective = build(make())
    images = th.zeros(4, 2, 12, 12, dtype=th.uint8)
    with pytest.raises(ValueError, match="needs windows .* got views"):
        objective.loss(ViewBatch((images, images)))
    if objective.request.steps > 1:
        short = windows(4, objective.request.steps - 1, episode=th.arange(4), time=th.arange(4))
        with pytest.raises(ValueError, match=rf"needs windows of {objective.request.steps} steps, got"):
            objective.loss(short)


@each
def test_views_are_augmented(make):
    objective = build(make())
    seen = []

    def augment(images, generator):
        seen.append(len(images))
        return images // 2

    batch = batch_for(objective)
    plain = objective.loss(batch)[0]
    batch.augment = augment
    assert not th.equal(plain, objective.loss(batch)[0]) and seen


@each
def test_state_round_trip(make):
    encoder = TinyEncoder()
    objective, other = build(make(), encoder=encoder), build(make(), encoder=encoder, seed=1)
    batch = batch_for(objective)
    objective.after_step()
    assert not th.equal(objective.loss(batch)[0], other.loss(batch)[0])
    other.load_state_dict(objective.state_dict())
    for one in (objective, other):
        one.eval()  # batch statistics of the first loss above may have moved running ones
    assert th.equal(objective.loss(batch)[0], other.loss(batch)[0])
    assert copy.deepcopy(make()).request == make().request


@each
def test_loss_falls_on_one_batch(make):
    objective = build(make(), DISCRETE, dtype=th.float32)
    trained = [p for p in [*objective.encoder.parameters(), *objective.parameters()] if p.requires_grad]
    optimizer = th.optim.Adam(trained, 1e-2)
    batch = batch_for(objective, actions=DISCRETE)
    first = objective.loss(batch)[0].item()
    for _ in range(200):
        loss = objective.loss(batch)[0]
        if loss < 0.9 * first:
            return
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        objective.after_step()
    pytest.fail(f"{first} to {loss} in 200 steps")


@pytest.mark.parametrize("name, mode", [("sac", "own_optimizer"), ("dqn", "add_gradient"), ("ppo", "own_optimizer")])
@each
def test_trains_the_encoder_of_an_agent(make, name, mode):
    model = make_model(name, env_kwargs=dict(length=7))
    objective: Objective = make(augment=RandomShift(2))
    callback = AuxiliaryLossCallback(objective, mode, batch_size=8, log_interval=10_000)
    before = [p.detach().clone() for p in model.policy.parameters()]
    model.learn(24, callback=callback)
    item = next(iter(callback.attachments.values()))
    assert item.n_updates >= 2
    assert not all(th.equal(b, p) for b, p in zip(before, model.policy.parameters(), strict=True))
    loss, _ = objective.loss(callback._draw(objective))
    assert loss.isfinite()
    gradients = th.autograd.grad(loss, item.found.encoder.extractor.body.parameters())
    assert all(gradient.any() for gradient in gradients)

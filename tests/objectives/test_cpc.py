"""CPC against its definition."""

import pytest
import torch as th
import torch.nn.functional as F

from crl.augment import RandomShift
from crl.callbacks import AuxiliaryLossCallback
from crl.objectives import CPC, OBJECTIVES

from ..callbacks.models import make_model
from .small import BOX, DISCRETE, assert_same_loss_and_gradients, build, pick, windows


def step_of(gru, x, h):
    """One step of torch's GRU, from its documentation."""
    gates_x = x @ gru.weight_ih_l0.T + gru.bias_ih_l0
    gates_h = h @ gru.weight_hh_l0.T + gru.bias_hh_l0
    (rx, zx, nx), (rh, zh, nh) = gates_x.chunk(3), gates_h.chunk(3)
    r, z = th.sigmoid(rx + rh), th.sigmoid(zx + zh)
    return (1 - z) * th.tanh(nx + r * nh) + z * h


def slow_loss(cpc, batch, actions):
    """Prediction by prediction, from the start of each window."""
    counts = [[True, *row] for row in batch.mask.tolist()]
    taken = batch.actions.double() if actions is BOX else F.one_hot(batch.actions[..., 0], 3).double()

    def latent(i, t):
        z = cpc.encoder(batch.obs[i : i + 1, t])[0]
        return z.detach() if t < cpc.warm_up else z

    def context(i, t):
        h = th.zeros(cpc.hidden_dim, dtype=th.float64)
        for s in range(t + 1):
            before = taken[i, s - 1] if s else th.zeros_like(taken[i, 0])
            reward = batch.rewards[i, s - 1 : s].double() if s else th.zeros(1, dtype=th.float64)
            h = step_of(cpc.gru, th.cat([latent(i, s), before, reward]), h)
        return h

    def near(i, t, j, s):
        if not cpc.negative_window:
            return False
        apart = abs(int(batch.time[i] + t - batch.time[j] - s))
        return bool(batch.episode[i] == batch.episode[j]) and apart < cpc.negative_window

    first, last = cpc.warm_up, cpc.warm_up + cpc.steps
    places = [(j, s) for j in range(len(batch)) for s in range(first, last + 1) if counts[j][s]]

    def score(prediction, latent):
        if cpc.pair is None:
            return prediction @ latent
        return prediction @ latent / prediction.norm() / latent.norm() / 0.2

    losses = []
    for i in range(len(batch)):
        for t in range(first, last):
            for k in range(1, min(cpc.offsets, last - t) + 1):
                if not counts[i][t + k]:
                    continue
                state = context(i, t)
                if cpc.condition_on_actions:
                    for s in range(t, t + k):
                        state = step_of(cpc.action_gru, taken[i, s], state)
                    prediction = cpc.maps[0](state)
                else:
                    prediction = cpc.maps[k - 1](state)
                others = [p for p in places if p != (i, t + k) and not near(i, t + k, *p)]
                if cpc.pair is not None:
                    others = [p for p in others if p[1] >= first + k]
                losses.append(pick([score(prediction, latent(*place)) for place in [(i, t + k), *others]], 0))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("actions", [BOX, DISCRETE], ids=["continuous", "discrete"])
@pytest.mark.parametrize(
    "kwargs",
    [
        dict(),
        dict(offsets=1),
        dict(warm_up=1, offsets=2),
        dict(condition_on_actions=True),
        dict(condition_on_actions=True, offsets=2, warm_up=1),
        dict(negative_window=2),
        dict(loss="info_nce", loss_kwargs=dict(temperature=0.2)),
        dict(loss="info_nce", loss_kwargs=dict(temperature=0.2), negative_window=2, warm_up=1),
    ],
    ids=str,
)
def test_loss_and_gradients_against_the_definition(kwargs, actions):
    cpc = build(CPC(steps=3, hidden_dim=4, **kwargs), actions)
    origin = dict(episode=th.tensor([0, 0, 1]), time=th.tensor([0, 2, 1])) if cpc.negative_window else {}
    batch = windows(3, cpc.request.steps, {1: 2}, actions, **origin)
    assert_same_loss_and_gradients(cpc, cpc.loss(batch)[0], slow_loss(cpc, batch, actions))


def test_metrics_and_given_features():
    cpc = build(CPC(steps=2, offsets=1, hidden_dim=4))
    batch = windows(3, 2)
    loss, metrics = cpc.loss(batch)
    latents = cpc.encoder(batch.obs.flatten(0, 1)).view(3, 3, 5)
    actions = th.cat([batch.actions, batch.rewards[..., None]], 2)
    before = th.cat([th.zeros(3, 1, 3), actions[:, :1]], 1)
    predictions = cpc.maps[0](cpc.gru(th.cat([latents[:, :2], before], 2))[0])
    logits = predictions.reshape(6, 5) @ latents.reshape(9, 5).T
    labels = th.tensor([1, 2, 4, 5, 7, 8])
    assert metrics["accuracy"].item() == pytest.approx((logits.argmax(1) == labels).double().mean().item())
    own = logits[range(6), labels]
    assert metrics["positive_similarity"].item() == pytest.approx(own.mean().item(), rel=1e-5)
    assert metrics["negative_similarity"].item() == pytest.approx(((logits.sum(1) - own) / 8).mean().item(), rel=1e-5)
    features = cpc.encoder(batch.obs[:, 0]).detach().requires_grad_()
    given = cpc.loss(batch, features)[0]
    th.testing.assert_close(given, loss)
    assert th.autograd.grad(given, features)[0].any()


def test_starts_near_the_logarithm_of_the_candidates():
    cpc = build(CPC(steps=4, hidden_dim=8))
    assert cpc.loss(windows(8, 4))[0].item() == pytest.approx(th.tensor(40.0).log().item(), abs=0.3)


def test_warm_up_gets_no_gradient():
    cpc = build(CPC(steps=2, hidden_dim=4, warm_up=2))
    cpc.encoder.passes.clear()
    cpc.loss(windows(3, 4))
    assert cpc.encoder.passes == [6, 9], "one pass for the warm-up, one for the rest"


def test_episodes_that_end_at_once_leave_one_prediction_each():
    cpc = build(CPC(steps=3, hidden_dim=4))
    batch = windows(2, 3, {0: 1, 1: 1})
    assert_same_loss_and_gradients(cpc, cpc.loss(batch)[0], slow_loss(cpc, batch, BOX))


def test_batches_are_small_unless_told_otherwise():
    model = make_model("sac", batch_size=64, env_kwargs=dict(length=7))
    callback = AuxiliaryLossCallback(CPC(steps=3, hidden_dim=8, augment=RandomShift(2)))
    model.learn(40, callback=callback)
    assert len(callback._draw(callback.objective)) == 16
    cpc = build(CPC(steps=32))
    with pytest.raises(ValueError, match=r"GiB: pass batch_size=16"):
        cpc._check_size(256)
    cpc._check_size(16)


@pytest.mark.parametrize(
    "kwargs, message",
    [
        (dict(steps=0), "steps=0"),
        (dict(steps=3, offsets=4), "offsets=4"),
        (dict(offsets=0), "offsets=0"),
        (dict(hidden_dim=0), "hidden_dim=0"),
        (dict(warm_up=-1), "warm_up=-1"),
        (dict(negative_window=-1), "negative_window=-1"),
    ],
)
def test_wrong_values(kwargs, message):
    with pytest.raises(ValueError, match=message):
        CPC(**kwargs)


def test_registry():
    assert OBJECTIVES["cpc"] is CPC

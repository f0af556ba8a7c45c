"""Self-prediction against its definition."""

import pytest
import torch as th
import torch.nn.functional as F

from crl.losses.two_hot import two_hot
from crl.objectives import OBJECTIVES, SelfPrediction

from .small import BOX, DISCRETE, assert_same_loss_and_gradients, build, pick, windows


def slow_mlp(module, latent, action):
    first, norm, _, last = module.layers
    x = th.cat([latent, action]) @ first.weight.T + first.bias
    x = (x - x.mean()) / (x.var(correction=0) + 1e-5).sqrt() * norm.weight + norm.bias
    return th.where(x > 0, x, x.exp() - 1) @ last.weight.T + last.bias


def slow_barlow(pairs, lambd):
    z1, z2 = (th.stack(side) for side in zip(*pairs, strict=True))
    z1, z2 = ((z - z.mean(0)) / (z.var(0, correction=0) + 1e-5).sqrt() for z in (z1, z2))
    total = 0
    for i in range(5):
        for j in range(5):
            c = sum(z1[n, i] * z2[n, j] for n in range(len(pairs))) / len(pairs)
            total = total + ((c - 1) ** 2 if i == j else lambd * c**2)
    return total


def slow_loss(objective, batch, actions):
    target = objective.target_encoder if objective.target_kind == "ema" else objective.encoder
    taken = batch.actions.double() if actions is BOX else F.one_hot(batch.actions[..., 0], 3).double()
    n, steps = len(batch), objective.k
    weights = th.ones(n) if batch.weights is None else batch.weights
    z = [[objective.encoder(batch.obs[i : i + 1, 0])[0]] for i in range(n)]
    goal = [[target(batch.obs[i : i + 1, k])[0].detach() for k in range(steps + 1)] for i in range(n)]
    places = [(i, k) for i in range(n) for k in range(1, steps + 1) if batch.mask[i, k - 1]]
    for i in range(n):
        for k in range(steps):
            z[i].append(slow_mlp(objective.transition, z[i][k], taken[i, k]))

    def cos(a, b):
        return a @ b / a.norm() / b.norm()

    def mean(values):
        values = list(values)
        return sum(values) / len(values)

    if objective.loss_kind == "mse":
        loss = mean(weights[i] * ((z[i][k] - goal[i][k]) ** 2).sum() / 5 for i, k in places)
    elif objective.loss_kind == "cosine":
        loss = mean(weights[i] * (2 - 2 * cos(z[i][k], goal[i][k])) for i, k in places)
    elif objective.pair is not None:
        losses = []
        for i, k in places:
            others = [j for j, s in places if s == k and j != i]
            losses.append(pick([cos(z[i][k], goal[j][k]) / 0.2 for j in [i, *others]], 0))
        loss = mean(losses)
    else:
        at = [[(z[i][k], goal[i][k]) for i, s in places if s == k] for k in range(1, steps + 1)]
        loss = mean(slow_barlow(pairs, objective.barlow_lambda) for pairs in at)
    if objective.reward_weight:
        losses = []
        for i, k in places:
            logits = slow_mlp(objective.reward_head, z[i][k - 1], taken[i, k - 1])
            log_p = logits - logits.exp().sum().log()
            losses.append(-weights[i] * (two_hot(batch.rewards[i, k - 1], objective.bins) * log_p).sum())
        loss = loss + objective.reward_weight * mean(losses)
    if objective.info_nce_weight:
        losses = []
        for i, k in places:
            others = [j for j, s in places if s == k and j != i]
            losses.append(pick([cos(z[i][k], goal[j][k]) / objective.temperature for j in [i, *others]], 0))
        loss = loss + objective.info_nce_weight * mean(losses)
    return loss


@pytest.mark.parametrize("actions", [BOX, DISCRETE], ids=["continuous", "discrete"])
@pytest.mark.parametrize(
    "kwargs",
    [
        dict(),
        dict(k=3, target="online"),
        dict(k=3, loss="cosine"),
        dict(k=2, loss="barlow"),
        dict(k=2, loss="info_nce", loss_kwargs=dict(temperature=0.2)),
        dict(loss="barlow", target="ema", barlow_lambda=0.1),
        dict(k=2, reward_weight=0.1, info_nce_weight=0.3),
    ],
    ids=str,
)
def test_loss_and_gradients_against_the_definition(kwargs, actions):
    objective = build(SelfPrediction(hidden_dim=6, **kwargs), actions)
    weights = None if kwargs.get("loss") in ("barlow", "info_nce") else th.tensor([0.2, 1.0, 0.5, 0.7, 1.0, 0.1])
    batch = windows(steps=objective.k, ends={0: 1, 4: min(2, objective.k)}, actions=actions, weights=weights)
    loss, metrics = objective.loss(batch)
    assert_same_loss_and_gradients(objective, loss, slow_loss(objective, batch, actions))
    assert ("reward_loss" in metrics) == ("info_nce_loss" in metrics) == ("reward_weight" in kwargs)
    assert not any(value.requires_grad for value in metrics.values())


def test_targets_have_no_gradient():
    for target in ("ema", "online"):
        objective = build(SelfPrediction(target=target))
        seen = []
        for module in {objective.encoder, getattr(objective, "target_encoder", objective.encoder)}:
            module.conv.register_forward_hook(lambda module, args, out, seen=seen: seen.append(out.requires_grad))
        objective.loss(windows(steps=1))[0].backward()
        assert sorted(seen) == [False, True]
        if target == "ema":
            assert all(p.grad is None for p in objective.target_encoder.parameters())
    assert SelfPrediction(loss="barlow").target_kind == "online" and SelfPrediction().target_kind == "ema"


def test_target_follows_and_keeps_its_rhythm():
    objective = build(SelfPrediction(tau=0.25, target_update_interval=2))
    before = [p.clone() for p in objective.target_encoder.parameters()]
    objective.after_step()
    assert all(th.equal(a, b) for a, b in zip(before, objective.target_encoder.parameters(), strict=True))
    other = build(SelfPrediction(tau=0.25, target_update_interval=2), encoder=objective.encoder)
    other.load_state_dict(objective.state_dict())
    for one in (objective, other):
        one.after_step()
        parameters = zip(before, one.target_encoder.parameters(), objective.encoder.parameters(), strict=True)
        for a, b, c in parameters:
            th.testing.assert_close(b, 0.75 * a + 0.25 * c.detach())


def test_given_features_are_used():
    objective = build(SelfPrediction(reward_weight=0.1))
    batch = windows(steps=1)
    features = objective.encoder(batch.obs[:, 0]).detach().requires_grad_()
    loss = objective.loss(batch, features)[0]
    th.testing.assert_close(loss, objective.loss(batch)[0])
    assert th.autograd.grad(loss, features)[0].any()


@pytest.mark.parametrize(
    "kwargs, message",
    [
        (dict(k=0), "k=0"),
        (dict(loss="l1"), "'mse', 'cosine' and 'barlow'"),
        (dict(loss_kwargs=dict(temperature=1.0)), "takes no loss_kwargs"),
        (dict(target="gradient"), "choose 'ema' or 'online'"),
        (dict(tau=0.0), "tau=0.0"),
        (dict(target_update_interval=0), "target_update_interval=0"),
        (dict(hidden_dim=0), "hidden_dim=0"),
        (dict(temperature=0.0), r"temperature=0.0"),
        (dict(reward_weight=-1.0), r"reward_weight=-1.0"),
    ],
)
def test_wrong_values(kwargs, message):
    with pytest.raises(ValueError, match=message):
        SelfPrediction(**kwargs)


def test_registry():
    assert OBJECTIVES["self-prediction"] is SelfPrediction

"""SPR against its definition."""

import numpy as np
import pytest
import torch as th
import torch.nn.functional as F
from gymnasium import spaces
from stable_baselines3.common.torch_layers import NatureCNN

from crl.contract import Spaces
from crl.encoders import ModelEncoder
from crl.objectives import OBJECTIVES, SPR

from .small import BOX, DISCRETE, assert_same_loss_and_gradients, build, pick, windows


def slow_rescale(images):
    return th.stack([(x - x.min()) / (x.max() - x.min()) for x in images])


def slow_transition(spr, latent, action):
    if spr.transition_kind == "mlp":
        first, norm, _, last = spr.transition.layers
        x = th.cat([latent, action], 1) @ first.weight.T + first.bias
        x = (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, correction=0) + 1e-5).sqrt() * norm.weight + norm.bias
        return th.where(x > 0, x, x.exp() - 1) @ last.weight.T + last.bias
    first, _, norm, last, _ = spr.transition.layers
    planes = action[:, :, None, None] * th.ones(4, 4, dtype=th.float64)
    x = F.conv2d(th.cat([latent, planes], 1), first.weight, first.bias, padding=1).clamp(min=0)
    mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), keepdim=True, correction=0)
    x = (x - mean) / (var + 1e-5).sqrt() * norm.weight[:, None, None] + norm.bias[:, None, None]
    return slow_rescale(F.conv2d(x, last.weight, last.bias, padding=1).clamp(min=0))


def slow_loss(spr, batch, actions):
    target = spr.encoder if spr.tau == 1 else spr.target_encoder
    taken = batch.actions.double() if actions is BOX else F.one_hot(batch.actions[..., 0], 3).double()
    taken = taken * batch.mask[..., None]
    conv = spr.transition_kind == "conv"
    latent = slow_rescale(spr.encoder.feature_map(batch.obs[:, 0])) if conv else spr.encoder(batch.obs[:, 0])
    total = count = 0
    for k in range(spr.k):
        latent = slow_transition(spr, latent, taken[:, k])
        if conv:
            prediction = spr.predictor(spr.encoder.forward_head(latent))
            goal = target.forward_head(slow_rescale(target.feature_map(batch.obs[:, k + 1])))
        else:
            prediction = spr.predictor(spr.projection(latent))
            goal = (spr.projection if spr.tau == 1 else spr.target_projection)(target(batch.obs[:, k + 1]))
        for i in range(len(batch)):
            if batch.mask[i, k]:
                cos = prediction[i] @ goal[i].detach() / prediction[i].norm() / goal[i].detach().norm()
                total = total + (2 - 2 * cos) * (1 if batch.weights is None else batch.weights[i])
                count += 1
    return total / count


@pytest.mark.parametrize("actions", [BOX, DISCRETE], ids=["continuous", "discrete"])
@pytest.mark.parametrize("weights", [None, th.tensor([0.2, 1.0, 0.5, 0.7, 1.0, 0.1])], ids=["uniform", "prioritised"])
@pytest.mark.parametrize("kwargs", [dict(), dict(tau=0.1), dict(transition="mlp"), dict(transition="mlp", tau=0.1)], ids=str)
def test_loss_and_gradients_against_the_definition(kwargs, weights, actions):
    spr = build(SPR(k=3, hidden_dim=6, **kwargs), actions)
    batch = windows(steps=3, ends={0: 1, 4: 2}, actions=actions, weights=weights)
    loss, metrics = spr.loss(batch)
    assert_same_loss_and_gradients(spr, loss, slow_loss(spr, batch, actions))
    assert metrics["loss"] == loss.detach() and -1 <= metrics["positive_similarity"] <= 1


def test_another_loss_at_each_step():
    spr = build(SPR(k=2, transition="mlp", hidden_dim=6, loss="info_nce", loss_kwargs=dict(temperature=0.2)))
    batch = windows(steps=2, ends={1: 1, 3: 1})
    latent, losses = spr.encoder(batch.obs[:, 0]), []
    for k in range(2):
        latent = slow_transition(spr, latent, batch.actions[:, k].double())
        query = F.normalize(spr.predictor(spr.projection(latent)), dim=1)
        key = F.normalize(spr.projection(spr.encoder(batch.obs[:, k + 1])), dim=1).detach()
        rows = [i for i in range(6) if batch.mask[i, k]]
        losses += [pick([query[i] @ key[j] / 0.2 for j in [i, *(j for j in rows if j != i)]], 0) for i in rows]
    assert_same_loss_and_gradients(spr, spr.loss(batch)[0], sum(losses) / len(losses))


def test_gradient_stops_at_the_target():
    for kwargs in (dict(tau=0.1), dict(transition="mlp", tau=0.1)):
        spr = build(SPR(k=2, **kwargs))
        spr.loss(windows(steps=2))[0].backward()
        targets = [module for name, module in spr.named_children() if name.startswith("target_")]
        assert len(targets) == (2 if "transition" in kwargs else 1)
        assert all(p.grad is None for module in targets for p in module.parameters())
    # the online encoder as target: what is seen at later steps moves nothing, what the rollout starts from does
    spr = build(SPR(k=1))
    batch = windows(steps=1)
    spr.encoder.passes.clear()
    seen = []
    spr.encoder.conv.register_forward_hook(lambda module, args, out: seen.append(out.requires_grad))
    spr.loss(batch)
    assert seen == [True, False]


def test_the_agents_own_head_is_the_projection():
    spr = build(SPR(k=1))
    spr.loss(windows(steps=1))[0].backward()
    assert spr.encoder.linear.weight.grad.any() and spr.encoder.conv.weight.grad.any()


def test_target_follows():
    spr = build(SPR(k=1, transition="mlp", tau=0.25))
    before = [p.clone() for p in [*spr.target_encoder.parameters(), *spr.target_projection.parameters()]]
    spr.after_step()
    after = [*spr.target_encoder.parameters(), *spr.target_projection.parameters()]
    online = [*spr.encoder.parameters(), *spr.projection.parameters()]
    for a, b, c in zip(before, after, online, strict=True):
        th.testing.assert_close(b, 0.75 * a + 0.25 * c.detach())
    assert not any(name.startswith("target") for name in build(SPR()).state_dict()), "no copy where there is no EMA"


def test_constant_maps_are_finite():
    spr = build(SPR(k=2))
    with th.no_grad():
        spr.encoder.conv.weight.zero_()
        spr.encoder.conv.bias.fill_(-1.0)  # every filter is silent
    loss = spr.loss(windows(steps=2))[0]
    assert loss.isfinite()
    assert all(g.isfinite().all() for g in th.autograd.grad(loss, [spr.encoder.conv.weight, spr.predictor.weight]))


def test_on_sb3s_own_encoder():
    """NatureCNN: the linear layer after the convolutions is the projection."""
    space = spaces.Box(0, 255, (1, 36, 36), np.uint8)
    encoder = ModelEncoder(NatureCNN(space, features_dim=8), space)
    spr = SPR(k=1)
    spr.build(encoder, Spaces(space, DISCRETE))
    batch = windows(steps=1, actions=DISCRETE)
    batch.obs = th.randint(0, 256, (6, 2, 1, 36, 36), dtype=th.uint8)
    th.testing.assert_close(encoder.forward_head(encoder.feature_map(batch.obs[:, 0])), encoder(batch.obs[:, 0]))
    spr.loss(batch)[0].backward()
    assert encoder.extractor.linear[0].weight.grad.any() and encoder.extractor.cnn[0].weight.grad.any()


@pytest.mark.parametrize(
    "kwargs, message",
    [
        (dict(k=0), "k=0"),
        (dict(transition="gru"), "choose 'conv' or 'mlp'"),
        (dict(hidden_dim=0), "hidden_dim=0"),
        (dict(tau=0.0), "tau=0.0"),
        (dict(tau=1.1), "tau=1.1"),
    ],
)
def test_wrong_values(kwargs, message):
    with pytest.raises(ValueError, match=message):
        SPR(**kwargs)


def test_registry():
    assert OBJECTIVES["spr"] is SPR

"""LIAM and the prediction of the partner's id: losses against loops, what they must be told, that they learn."""

import copy
import math
from dataclasses import replace

import pytest
import torch as th

from crl.objectives.history_objective import PartnerSpaces
from crl.objectives.liam import LIAM, draw_moments
from crl.objectives.partner_id import PartnerId

from ..networks.slow_history import encode, linear
from .episodes import LENGTHS, encoder, episodes

SPACES = PartnerSpaces(n_partners=3, n_others=2, n_actions=3, observation_dim=6)


def built(kind, seed=0, **kwargs):
    objective = kind(**kwargs)
    objective.build(encoder(seed), SPACES)
    return objective


def decoded(layers, z):
    for layer in layers:
        z = z.clamp(min=0) if isinstance(layer, th.nn.ReLU) else linear(z, layer)
    return z


def minus_log_softmax(logits, label):
    return math.log(sum(math.exp(x) for x in logits.tolist())) - logits[label].item()


def test_liam_is_a_loop_over_moments_and_episodes():
    objective, batch = built(LIAM, hidden_dim=5), episodes()
    moments = draw_moments(th.tensor(LENGTHS), 2, th.Generator().manual_seed(4))
    loss, _ = objective.loss(replace(batch, generator=th.Generator().manual_seed(4)))
    slow, total = copy.deepcopy(objective).double(), 0.0
    rows, _ = objective.rows_of(batch)
    for of_moment in moments:
        for number, t in enumerate(of_moment.tolist()):
            assert t < LENGTHS[number], "there is an action"
            z = encode(slow.encoder, rows[number, : t + 1].double())
            z = z / z.norm()
            error = decoded(slow.observation_decoder, z) - batch.partner_observations[number, t]
            logits = decoded(slow.action_decoder, z).view(2, 3)
            total += 0.5 * (error**2).sum().item()
            total += sum(minus_log_softmax(logits[j], batch.partner_actions[number, t, j]) for j in range(2))
    assert loss.item() == pytest.approx(total / (2 * len(LENGTHS)), rel=1e-5)


def test_partner_id_is_a_loop_over_moments_and_episodes():
    objective, batch = built(PartnerId), episodes()
    moments = draw_moments(th.tensor(LENGTHS) + 1, 2, th.Generator().manual_seed(4))
    loss, _ = objective.loss(replace(batch, generator=th.Generator().manual_seed(4)))
    slow, total = copy.deepcopy(objective).double(), 0.0
    rows, _ = objective.rows_of(batch)
    for of_moment in moments:
        for number, t in enumerate(of_moment.tolist()):
            logits = linear(encode(slow.encoder, rows[number, : t + 1].double()), slow.head)
            total += minus_log_softmax(logits, batch.partner_id[number])
    assert loss.item() == pytest.approx(total / (2 * len(LENGTHS)), rel=1e-5)


@pytest.mark.parametrize("kind", [LIAM, PartnerId])
def test_learns_and_the_acting_encoder_is_the_latest(kind):
    objective, batch = built(kind), episodes()
    optimizer = th.optim.Adam([p for p in objective.parameters() if p.requires_grad], 1e-2)
    losses = []
    for _ in range(80):
        optimizer.zero_grad()
        loss, _ = objective.loss(batch)
        loss.backward()
        assert all(p.grad is not None for p in objective.encoder.parameters())
        assert all(p.grad is None for p in objective.target.parameters())
        optimizer.step()
        objective.after_step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    for a, b in zip(objective.target.parameters(), objective.encoder.parameters(), strict=True):
        th.testing.assert_close(a, b)


def test_moments_are_uniform():
    draws = draw_moments(th.tensor([1, 4]), 4000, th.Generator().manual_seed(0))
    assert (draws[:, 0] == 0).all()
    assert (draws[:, 1].bincount(minlength=4) / 4000 - 0.25).abs().max() < 0.03


@pytest.mark.parametrize(
    "kind, lacking", [(LIAM, "partner_observations"), (LIAM, "partner_actions"), (PartnerId, "partner_id")]
)
def test_what_is_not_told_is_asked_for(kind, lacking):
    with pytest.raises(ValueError, match=f"needs {lacking}"):
        built(kind).loss(replace(episodes(), **{lacking: None}))
    with pytest.raises(ValueError, match="told of the others"):
        kind().build(encoder())


def test_wrong_values():
    for make in (lambda: LIAM(moments=0), lambda: LIAM(hidden_dim=0), lambda: PartnerId(moments=0), lambda: LIAM(tau=2.0)):
        with pytest.raises(ValueError):
            make()

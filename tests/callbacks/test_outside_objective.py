"""The contract is enough: ATC from nothing but ``crl.contract`` and torch, on SAC and PPO."""

from pathlib import Path

import pytest
import torch as th

from crl.augment import RandomShift
from crl.callbacks import AuxiliaryLossCallback

from .models import make_model
from .outside_atc import OutsideATC


def test_it_is_short_and_needs_the_contract_alone():
    lines = Path(__file__).with_name("outside_atc.py").read_text().splitlines()
    assert len(lines) < 60
    assert [line for line in lines if "import" in line and "crl" in line] == [
        "from crl.contract import DataRequest, Objective"
    ]


@pytest.mark.parametrize("mode", ["own_optimizer", "add_gradient"])
@pytest.mark.parametrize("name", ["sac", "ppo"])
def test_it_trains_the_encoder(name, mode):
    model = make_model(name, env_kwargs=dict(length=7))
    before = [p.detach().clone() for p in model.policy.parameters()]
    callback = AuxiliaryLossCallback(OutsideATC(augment=RandomShift(2)), mode, batch_size=8, log_interval=10_000)
    model.learn(64, callback=callback)
    item = next(iter(callback.attachments.values()))
    assert item.n_updates >= 12
    assert not all(th.equal(b, p) for b, p in zip(before, model.policy.parameters(), strict=True))
    losses = []
    for _ in range(150):
        item.step(callback._draw)
        item.objective.after_step()
        losses.append(item.flush_metrics()["loss"])
    assert sum(losses[-20:]) < sum(losses[:20]), "the loss must fall"


def test_windows_across_episode_ends_do_not_count():
    """Episodes of 2 steps hold no pair 3 steps apart: the loss is 0 and has a graph."""
    model = make_model("sac", env_kwargs=dict(length=2))
    callback = AuxiliaryLossCallback(OutsideATC(augment=RandomShift(2)), weight=0.0)
    model.learn(30, callback=callback)
    item = callback.attachments["critic"]
    batch = callback._draw(item.objective)
    assert batch.obs.shape == (8, 4, 6, 20, 20) and not batch.mask[:, 2].any() and batch.mask[:, 0].all()
    assert item.objective.loss(batch)[0].item() == 0.0

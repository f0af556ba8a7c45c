"""The contract is enough: ATC (Stooke et al. 2020) from nothing but ``crl.contract`` and torch, on SAC and PPO."""

import copy
import inspect

import pytest

# ---- begin of ATC
import torch as th
import torch.nn.functional as F
from torch import nn

from crl.augment import RandomShift
from crl.callbacks import AuxiliaryLossCallback
from crl.contract import DataRequest, Objective

from .models import make_model


class OutsideATC(Objective):
    """An observation should be recognised from the one k steps earlier, through a residual predictor."""

    def __init__(self, k=3, latent=16, tau=0.01, **kwargs):
        super().__init__(**kwargs)
        self.request = DataRequest("sequence", steps=k)
        self.k, self.latent, self.tau = k, latent, tau

    def build(self, encoder, spaces):
        self.encoder = encoder
        self.head = nn.Linear(encoder.features_dim, self.latent)
        self.predictor = nn.Sequential(nn.Linear(self.latent, 32), nn.ReLU(), nn.Linear(32, self.latent))
        self.weight = nn.Linear(self.latent, self.latent, bias=False)
        self.key_encoder, self.key_head = copy.deepcopy(encoder), copy.deepcopy(self.head)
        self.key_encoder.requires_grad_(False)
        self.key_head.requires_grad_(False)

    def loss(self, batch, features=None):
        c = self.head(self.encoder(batch.view(0)) if features is None else features)
        query = self.weight(c + self.predictor(c))
        with th.no_grad():
            key = self.key_head(self.key_encoder(batch.view(self.k)))
        labels = th.arange(len(batch), device=key.device)
        valid = batch.mask[:, self.k - 1]
        logits = query @ key.T
        loss = (F.cross_entropy(logits, labels, reduction="none") * valid).sum() / valid.sum().clamp(min=1)
        accuracy = ((logits.argmax(1) == labels) & valid).sum() / valid.sum().clamp(min=1)
        return loss, {"loss": loss.detach(), "accuracy": accuracy}

    @th.no_grad()
    def after_step(self):
        for key, online in ((self.key_encoder, self.encoder), (self.key_head, self.head)):
            for a, b in zip(key.parameters(), online.parameters(), strict=True):
                a.lerp_(b, self.tau)


# ---- end of ATC


def test_it_is_short():
    source = inspect.getsource(inspect.getmodule(OutsideATC))
    begin, end = source.index("# ---- begin of ATC"), source.index("# ---- end of ATC")
    lines = source[begin:end].strip().splitlines()
    assert len(lines) < 60
    assert [line for line in lines if "import" in line and "crl" in line] == [
        "from crl.contract import DataRequest, Objective  # noqa: E402"
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

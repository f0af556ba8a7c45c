"""An objective on whole episodes, through the callback."""

import pytest
import torch as th
from torch import nn

from crl.callbacks import AuxiliaryLossCallback
from crl.contract import DataRequest, Objective

from .models import make_model


class ReturnOfEpisode(Objective):
    """Predicts an episode's return from the mean of its features."""

    needs_augmentation = False

    def __init__(self, steps=0):
        super().__init__()
        self.request = DataRequest("episodes", steps=steps)
        self.shapes = []

    def build(self, encoder, spaces):
        self.encoder = encoder
        self.head = nn.Linear(encoder.features_dim, 1)

    def loss(self, batch, features=None):
        self.shapes.append(tuple(batch.obs.shape[:2]))
        self.last = batch
        features = self.encoder(batch.obs[:, :-1].flatten(0, 1)).view(*batch.mask.shape, -1)
        mask = batch.mask[..., None]
        mean = (features * mask).sum(1) / mask.sum(1)
        loss = (self.head(mean)[:, 0] - (batch.rewards * batch.mask).sum(1)).square().mean()
        return loss, {"loss": loss.detach()}


@pytest.mark.parametrize("mode", ["own_optimizer", "add_gradient"])
@pytest.mark.parametrize("name, store_size", [("sac", None), ("ppo", 64), ("a2c", 64)])
def test_it_trains_the_encoder(name, store_size, mode):
    model = make_model(name, env_kwargs=dict(length=7))
    objective = ReturnOfEpisode()
    callback = AuxiliaryLossCallback(objective, mode, batch_size=3, store_size=store_size)
    before = [p.detach().clone() for p in model.policy.parameters()]
    model.learn(96, callback=callback)
    (item,) = callback.attachments.values()
    assert item.n_updates > 5 and set(objective.shapes) == {(3, 8)}
    assert objective.last.mask.all() and objective.last.terminated[:, -1].all()
    assert not objective.last.terminated[:, :-1].any()
    assert not all(th.equal(b, p) for b, p in zip(before, model.policy.parameters(), strict=True))


def test_a_limit_keeps_the_beginning():
    model = make_model("sac", env_kwargs=dict(length=7))
    objective = ReturnOfEpisode(steps=4)
    model.learn(40, callback=AuxiliaryLossCallback(objective, batch_size=2))
    assert set(objective.shapes) == {(2, 5)} and not objective.last.terminated.any()


def test_batches_of_episodes_are_small():
    model = make_model("sac", batch_size=64, buffer_size=400, env_kwargs=dict(length=3))
    objective = ReturnOfEpisode()
    model.learn(40, callback=AuxiliaryLossCallback(objective))
    assert set(objective.shapes) == {(8, 4)}


def test_an_objective_that_never_has_data_says_so():
    """Episodes of 40 steps are not whole in rollouts of 16."""
    model = make_model("ppo", env_kwargs=dict(length=40))
    with pytest.warns(UserWarning, match="never trained the shared encoder.*store_size"):
        model.learn(96, callback=AuxiliaryLossCallback(ReturnOfEpisode(), batch_size=2))

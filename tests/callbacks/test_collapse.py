"""Objectives that a constant encoder satisfies: how they join an agent by default, and what a user is told."""

import warnings

import pytest

from crl.augment import RandomShift
from crl.callbacks import AuxiliaryLossCallback
from crl.contract import DataRequest, Objective
from crl.matrix import ROWS
from crl.objectives import ATC, CURL, SPR, SelfPrediction

from .models import make_model


class Same(Objective):
    """Wants all observations to look the same."""

    request = DataRequest("views", views=1)

    def build(self, encoder, spaces):
        self.encoder = encoder

    def loss(self, batch, features=None):
        loss = self.encoder(batch.views[0]).var(dim=0).mean()
        return loss, {"loss": loss.detach()}


@pytest.mark.parametrize(
    "objective, mode, weight",
    [
        (CURL(), "own_optimizer", 1.0),
        (ATC(), "own_optimizer", 1.0),
        (SPR(), "add_gradient", 5.0),
        (SPR(loss="info_nce"), "own_optimizer", 1.0),
        (SelfPrediction(), "add_gradient", 1.0),
        (SelfPrediction(loss="cosine"), "add_gradient", 1.0),
        (SelfPrediction(info_nce_weight=0.1), "own_optimizer", 1.0),
        (SelfPrediction(loss="barlow"), "own_optimizer", 1.0),
    ],
)
def test_how_objectives_join_unless_told(objective, mode, weight):
    callback = AuxiliaryLossCallback(objective)
    assert (callback.mode, callback.weight) == (mode, weight)
    told = AuxiliaryLossCallback(objective, mode="own_optimizer", weight=0.5)
    assert (told.mode, told.weight) == ("own_optimizer", 0.5)
    assert AuxiliaryLossCallback(objective, mode="own_optimizer").weight == 1.0


def test_trpo_takes_the_only_mode_it_can():
    pytest.importorskip("sb3_contrib")
    model = next(row for row in ROWS if row.name == "TRPO CnnPolicy shared").make()
    callback = AuxiliaryLossCallback(SPR(augment=RandomShift(2)))
    model._setup_learn(1, callback)
    assert (callback.mode, callback.weight) == ("own_optimizer", 1.0)
    heavy = AuxiliaryLossCallback(SPR(augment=RandomShift(2)), weight=2.0)
    model._setup_learn(1, heavy)
    assert (heavy.mode, heavy.weight) == ("own_optimizer", 2.0)
    with pytest.raises(ValueError, match="mode='add_gradient' needs an optimiser"):
        model._setup_learn(1, AuxiliaryLossCallback(SPR(augment=RandomShift(2)), mode="add_gradient"))


def dqn():
    encoder = dict(features_extractor_kwargs=dict(filters=4, layers=2, features_dim=8, head="linear"))
    return make_model("dqn", policy_kwargs=encoder, learning_rate=1e-6)


def test_a_collapsing_encoder_is_told_of_once():
    model = dqn()
    callback = AuxiliaryLossCallback(Same(), learning_rate=3e-2, log_interval=5)
    with pytest.warns(UserWarning, match=r"the q_net encoder is collapsing: the spread .*'add_gradient'") as caught:
        model.learn(150, callback=callback)
    assert len([w for w in caught if "collapsing" in str(w.message)]) == 1


def test_no_warning_where_nothing_collapses():
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*collapsing")
        dqn().learn(100, callback=AuxiliaryLossCallback(CURL(), log_interval=5))

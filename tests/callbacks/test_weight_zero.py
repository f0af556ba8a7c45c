"""``weight=0`` ends bitwise equal to no callback: data, augmentations and heads draw from streams of their own."""

import pytest
from torch import nn

from crl.callbacks import AuxiliaryLossCallback
from crl.encoders import PixelEncoder
from crl.objectives import CURL

from .models import augmentation, make_model, same, weights

NAMES = ["sac", "sac-separate", "td3", "ddpg", "dqn", "ppo", "a2c"]


def trained(name, callback, n_envs=1, **kwargs):
    model = make_model(name, n_envs=n_envs, **kwargs)
    model.learn(48, callback=callback)
    return weights(model)


@pytest.mark.parametrize("mode", ["own_optimizer", "add_gradient"])
@pytest.mark.parametrize("name", NAMES)
def test_weight_zero_is_bitwise_no_callback(name, mode):
    callback = AuxiliaryLossCallback(CURL(**augmentation(name)), mode, weight=0.0, batch_size=6)
    assert same(trained(name, None), trained(name, callback))
    for item in callback.attachments.values():
        assert item.n_updates > 5, "the objective must have run, or this test shows nothing"


@pytest.mark.parametrize("mode", ["own_optimizer", "add_gradient"])
@pytest.mark.parametrize("name", NAMES)
def test_weight_one_is_not(name, mode):
    callback = AuxiliaryLossCallback(CURL(**augmentation(name)), mode, batch_size=6)
    assert not same(trained(name, None), trained(name, callback))


def test_several_envs():
    callback = AuxiliaryLossCallback(CURL(), weight=0.0)
    assert same(trained("sac", None, n_envs=3), trained("sac", callback, n_envs=3))


class WithStatistics(PixelEncoder):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._head.append(nn.BatchNorm1d(self.features_dim))


@pytest.mark.parametrize("mode", ["own_optimizer", "add_gradient"])
@pytest.mark.parametrize("name", ["sac", "dqn", "ppo"])
def test_running_statistics_are_the_agents(name, mode):
    kwargs = dict(policy_kwargs=dict(features_extractor_class=WithStatistics))
    callback = AuxiliaryLossCallback(CURL(**augmentation(name)), mode, weight=0.0, batch_size=6, log_interval=3)
    assert same(trained(name, None, **kwargs), trained(name, callback, **kwargs))


def test_state_dependent_exploration_keeps_its_noise():
    callback = AuxiliaryLossCallback(CURL(), weight=0.0)
    assert same(trained("sac", None, use_sde=True), trained("sac", callback, use_sde=True))


def test_heads_learn_at_weight_zero():
    callback = AuxiliaryLossCallback(CURL(), weight=0.0)
    model = make_model("sac")
    model.learn(18, callback=callback)
    before = callback.objective.weight.detach().clone()
    model.learn(18, callback=callback)
    assert not (before == callback.objective.weight).all()


@pytest.mark.parametrize("name", ["sac", "ppo"])
def test_runs_repeat_by_seed(name):
    runs = [trained(name, AuxiliaryLossCallback(CURL(**augmentation(name)))) for _ in range(2)]
    assert same(*runs)

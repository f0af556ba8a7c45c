"""What is particular to sb3-contrib's algorithms."""

import pytest
import torch as th
from sb3_contrib import TRPO
from sb3_contrib.common.torch_layers import BatchRenorm1d
from torch import nn

from crl.augment import RandomShift
from crl.callbacks import AuxiliaryLossCallback
from crl.callbacks.attachment import evaluation_mode
from crl.encoders import PixelEncoder
from crl.matrix import ROWS
from crl.objectives import CURL

MODES = ["own_optimizer", "add_gradient"]


def row(name):
    return next(row for row in ROWS if row.name == name)


def curl(mode, **kwargs):
    return AuxiliaryLossCallback(CURL(augment=RandomShift(2)), mode, batch_size=6, **kwargs)


class WithStatistics(PixelEncoder):
    """Two kinds of layers with running statistics, of which CrossQ switches one kind by itself."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._head.append(nn.BatchNorm1d(self.features_dim))
        self._head.append(BatchRenorm1d(self.features_dim))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["CrossQ MlpPolicy separate", "CrossQ MlpPolicy shared"])
def test_crossq_keeps_its_running_statistics(name, mode):
    states = []
    for callback in (None, curl(mode, weight=0.0, log_interval=3)):
        chosen = row(name)
        model = type(chosen)(
            chosen.algorithm, chosen.policy, policy_kwargs={**chosen.policy_kwargs, "features_extractor_class": WithStatistics}
        ).make()
        model.learn(40, callback=callback)
        states.append({key: value.clone() for key, value in model.policy.state_dict().items()})
    assert any("ra_mean" in key and "features_extractor" in key for key in states[0])
    assert all(th.equal(states[0][key], states[1][key]) for key in states[0])
    assert all(item.n_updates > 5 for item in callback.attachments.values())


def test_every_layer_is_in_its_own_mode_again():
    network = nn.Sequential(nn.BatchNorm1d(3), BatchRenorm1d(3)).train()
    network[1].eval()
    with pytest.raises(RuntimeError), evaluation_mode(network):
        assert not any(layer.training for layer in network.modules())
        raise RuntimeError
    assert [layer.training for layer in network.modules()] == [True, True, False]


def test_crossq_has_no_target_keys():
    model = row("CrossQ MlpPolicy separate").make()
    with pytest.raises(ValueError, match="no target encoder"):
        model.learn(20, callback=AuxiliaryLossCallback(CURL(keys="target", augment=RandomShift(2))))
    callback = curl("own_optimizer", encoders=["critic"])
    model.learn(40, callback=callback)
    item = callback.attachments["critic"]
    assert item.found.encoder.target is None
    online, keys = item.found.encoder.extractor, item.objective.key_encoder.extractor
    pairs = list(zip(online.parameters(), keys.parameters(), strict=True))
    assert any(not th.equal(a, b) for a, b in pairs), "the keys' encoder follows slowly"
    assert not any(b.requires_grad for _, b in pairs)


@pytest.mark.parametrize("subclass", [False, True])
def test_trpo_refuses_added_gradients(subclass):
    model = row("TRPO CnnPolicy shared").make()
    if subclass:
        model.__class__ = type("OwnTRPO", (TRPO,), {})
    with pytest.raises(ValueError, match="line search.*own_optimizer"):
        model.learn(20, callback=curl("add_gradient"))
    assert model.num_timesteps == 0


def test_trpo_is_left_alone_between_rollout_and_update():
    """TRPO starts its search where the KL divergence is zero: at the weights that collected the rollout."""
    model = row("TRPO CnnPolicy shared").make()
    collected, train, equal = [], model.train, []
    callback = curl("own_optimizer")
    on_step = callback._on_step

    def stepped():
        collected[:] = [p.detach().clone() for p in model.policy.parameters()]
        return on_step()

    def training():
        equal.append(all(th.equal(a, b) for a, b in zip(collected, model.policy.parameters(), strict=True)))
        train()

    callback._on_step, model.train = stepped, training
    model.learn(64, callback=callback)
    assert equal == [True] * 4 and callback.attachments["shared"].n_updates == 4 * 2 * 2


def test_trpo_steps_alike_with_fast_layers(monkeypatch):
    """Products with the Hessian go through crl's encoder: with torch's own layers the policy's step is the same."""
    after = []
    for fast in (True, False):
        if not fast:
            monkeypatch.setattr("crl.networks.linear.onednn_linear", lambda: False)
            monkeypatch.setattr("crl.networks.conv_stack.onednn_convolution", lambda: False)
        # little damping, or the Hessian would hardly count: without it the step is off by a fifth
        model = row("TRPO CnnPolicy shared").make(learning_rate=1e-12, cg_damping=1e-4)
        before = th.cat([p.detach().flatten() for p in model.policy.features_extractor.parameters()])
        model.learn(16)
        after.append(th.cat([p.detach().flatten() for p in model.policy.features_extractor.parameters()]) - before)
    fast, plain = after
    assert plain.norm() > 1e-3
    assert (fast - plain).norm() < 1e-2 * plain.norm()


def test_recurrent_policies_keep_their_hidden_states():
    """The objective's passes go through the encoder alone: the LSTM states that the rollout goes on with are the agent's."""
    states = []
    for callback in (None, curl("own_optimizer", weight=0.0)):
        model = row("RecurrentPPO CnnLstmPolicy shared").make()
        model.learn(32, callback=callback)
        states.append([*model._last_lstm_states.pi, *model._last_lstm_states.vf])
    assert all(th.equal(a, b) for a, b in zip(*states, strict=True)) and states[0][0].abs().sum() > 0

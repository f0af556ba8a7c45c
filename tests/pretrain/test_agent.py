"""SB3 agents on a pre-trained encoder, frozen and fine-tuned."""

import pytest
import torch as th
from safetensors.torch import load_file
from stable_baselines3 import DQN, PPO, SAC

from crl import CURL, AuxiliaryLossCallback, FrameReplayBuffer, PixelSACPolicy
from crl.callbacks.find_encoders import find_encoders
from crl.encoders import PixelEncoder
from crl.envs import make_vec_env
from crl.pretrain.agent import load_pretrained, pretrained_policy_kwargs
from crl.pretrain.training import new_pretraining, pretrain

from .stored import saved
from .test_training import SMALL


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("agent")
    made = new_pretraining(
        saved(path / "b.pkl"), settings=SMALL, updates=5, batch_size=8, threads=1, device="cpu", out=path / "run"
    )
    pretrain(made)
    return made


def make(name, folder):
    kwargs = {"net_arch": [8], **pretrained_policy_kwargs(folder.path)}
    off = dict(buffer_size=100, learning_starts=10, batch_size=8, train_freq=1, seed=0, device="cpu")
    if name == "sac":
        env = make_vec_env("toy/reach")
        return SAC(PixelSACPolicy, env, policy_kwargs=kwargs, replay_buffer_class=FrameReplayBuffer, **off)
    if name == "sac-separate":
        return SAC("CnnPolicy", make_vec_env("toy/reach"), policy_kwargs=kwargs, **off)
    env = make_vec_env("toy/reach-discrete")
    if name == "dqn":
        return DQN("CnnPolicy", env, policy_kwargs=kwargs, target_update_interval=15, **off)
    return PPO("CnnPolicy", env, n_steps=16, batch_size=8, n_epochs=1, policy_kwargs=kwargs, seed=0, device="cpu")


NAMES = {"sac": ["critic"], "sac-separate": ["actor", "critic"], "dqn": ["q_net"], "ppo": ["shared"]}


def encoders(model):
    """State of every encoder, and of every target's."""
    online = [item.encoder for item in find_encoders(model)]
    targets = [encoder.target for encoder in online if encoder.target is not None]
    return [[{k: v.clone() for k, v in e.extractor.state_dict().items()} for e in part] for part in (online, targets)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("frozen", [True, False])
def test_agents_start_from_it(name, frozen, folder):
    stored = load_file(folder.encoder_file)
    model = make(name, folder)
    assert isinstance(find_encoders(model)[0].encoder.extractor, PixelEncoder)
    assert sorted(load_pretrained(model, folder.path, frozen=frozen)) == NAMES[name]
    online, targets = encoders(model)
    assert (len(online), len(targets)) == {"sac": (1, 1), "sac-separate": (2, 1), "dqn": (1, 1), "ppo": (1, 0)}[name]
    for state in online + targets:
        assert all(th.equal(state[key], value) for key, value in stored.items())
    rest = {key: value.clone() for key, value in model.policy.state_dict().items() if "features_extractor" not in key}
    model.learn(40)
    online, targets = encoders(model)
    same = [all(th.equal(state[key], value) for key, value in stored.items()) for state in online]
    assert all(same) if frozen else not any(same)
    # Polyak steps between equal weights round
    near = [all(th.allclose(state[key], value, rtol=0, atol=1e-6) for key, value in stored.items()) for state in targets]
    assert all(near) if frozen else not any(near)
    now = model.policy.state_dict()
    assert any((now[key] != value).any() for key, value in rest.items()), "the heads learn either way"


def test_one_of_several_encoders(folder):
    model = make("sac-separate", folder)
    assert load_pretrained(model, folder.encoder_file, encoders=["actor"]) == ["actor"]
    stored = load_file(folder.encoder_file)
    by_name = {item.name: item.encoder.extractor.state_dict() for item in find_encoders(model)}
    equal = {name: all(th.equal(s[key], value) for key, value in stored.items()) for name, s in by_name.items()}
    assert equal == {"actor": True, "critic": False}


def test_fine_tuning_with_the_objective(folder):
    """The same objective goes on beside the agent's own loss."""
    from crl.augment import RandomShift

    model = make("sac", folder)
    load_pretrained(model, folder.path)
    model.learn(30, callback=AuxiliaryLossCallback(CURL(augment=RandomShift(2))))
    stored = load_file(folder.encoder_file)
    assert any((encoders(model)[0][0][key] != value).any() for key, value in stored.items())


def test_what_does_not_fit(folder, tmp_path):
    env = make_vec_env("toy/reach")
    other = SAC(PixelSACPolicy, env, buffer_size=10, policy_kwargs=dict(features_extractor_kwargs=dict(filters=8)))
    with pytest.raises(ValueError, match="does not fit"):
        load_pretrained(other, folder.path)
    with pytest.raises(FileNotFoundError):
        load_pretrained(make("sac", folder), tmp_path / "nothing.safetensors")
    with pytest.raises(ValueError, match="no config.yaml"):
        pretrained_policy_kwargs(tmp_path)

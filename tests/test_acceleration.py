"""Models that are not crl's, made faster: the same predictions, files and training."""

import copy

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.vec_env import DummyVecEnv

import crl
from crl import PixelSACPolicy
from crl.acceleration import AcceleratedSequential
from crl.encoders import ModelEncoder

from .fakes import FakeImages
from .processor import PRECISIONS, needs_bf16

CONTINUOUS = spaces.Box(-1, 1, (2,), np.float32)
KINDS = {
    "sac": (SAC, "CnnPolicy", CONTINUOUS, dict(buffer_size=200, learning_starts=10, batch_size=8)),
    "ppo": (PPO, "CnnPolicy", CONTINUOUS, dict(n_steps=16, batch_size=8, n_epochs=2)),
    "dqn": (DQN, "CnnPolicy", spaces.Discrete(3), dict(buffer_size=200, learning_starts=10, batch_size=8)),
    "sac on crl's policy": (SAC, PixelSACPolicy, CONTINUOUS, dict(buffer_size=200, learning_starts=10, batch_size=8)),
}


def make(kind):
    algorithm, policy, actions, options = KINDS[kind]
    if policy is PixelSACPolicy:
        options = {**options, "policy_kwargs": dict(features_extractor_kwargs=dict(filters=4), net_arch=[16])}
    return algorithm(policy, DummyVecEnv([lambda: FakeImages(actions, (9, 40, 40), length=20)]), seed=0, **options)


def outputs(model, images):
    """What the networks say, before anything is sampled."""
    policy = model.policy
    with th.no_grad():
        if isinstance(model, SAC):
            return [policy.actor(images, deterministic=True), *policy.critic(images, th.zeros(len(images), 2))]
        if isinstance(model, PPO):
            return [policy.get_distribution(images).mode(), policy.predict_values(images)]
        return [policy.q_net(images), policy.q_net_target(images)]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_predictions_state_and_training(kind, precision, tmp_path):
    model = make(kind)
    images = th.randint(0, 256, (16, 9, 40, 40), dtype=th.uint8)
    before, state = outputs(model, images), copy.deepcopy(model.policy.state_dict())
    report = crl.accelerate(model, precision)
    assert report["precision"] == precision and report["conv_bodies"] >= 1
    # crl's own policy has them already
    assert (report["linear_layers"] > 0) != isinstance(model.policy, PixelSACPolicy)
    assert crl.accelerate(model, precision)["conv_bodies"] == report["conv_bodies"], "twice is once"
    after = model.policy.state_dict()
    assert list(after) == list(state) and all(th.equal(after[key], state[key]) for key in state)
    tolerance = 1e-5 if precision == "fp32" else 2e-2
    for one, other in zip(outputs(model, images), before, strict=True):
        assert one.dtype == th.float32
        assert (one - other).abs().max() <= tolerance * max(1.0, other.abs().max().item())
    model.learn(40)
    assert any(not th.equal(model.policy.state_dict()[key], state[key]) for key in state if "cnn" in key or "body" in key)
    model.save(tmp_path / "model")
    loaded = type(model).load(tmp_path / "model")
    assert not any(isinstance(module, AcceleratedSequential) for module in loaded.policy.modules())
    for one, other in zip(outputs(loaded, images), outputs(model, images), strict=True):
        assert (one - other).abs().max() <= 2 * tolerance * max(1.0, other.abs().max().item())


@needs_bf16
def test_only_convolutions_run_in_bf16():
    model, seen = make("dqn"), []
    images = th.randint(0, 256, (16, 9, 40, 40), dtype=th.uint8)
    plain = outputs(model, images)[0]
    crl.accelerate(model, "bf16")
    flatten = model.policy.q_net.features_extractor.cnn[-1]
    flatten.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    assert not th.equal(outputs(model, images)[0], plain), "bf16 has 8 bits: something must differ"
    assert seen[0].dtype == th.float32 and seen[0].is_contiguous(), "what is flattened is float32 again"
    assert th.equal(seen[0], seen[0].bfloat16().float()), "and holds bf16's numbers"


def test_slices_are_accelerated_too():
    """ST-DIM takes SB3's NatureCNN apart to look at its feature map."""
    model = make("dqn")
    cnn, images = model.policy.q_net.features_extractor.cnn, th.rand(4, 9, 40, 40)
    crl.accelerate(model, "bf16")
    feature_map = cnn[:-1](images)
    assert isinstance(cnn[:-1], AcceleratedSequential) and feature_map.dim() == 4
    assert th.equal(cnn[-1:](feature_map), cnn(images)) and isinstance(cnn[-1], th.nn.Flatten)
    encoder = ModelEncoder(model.policy.q_net.features_extractor, model.observation_space)
    assert th.equal(encoder.feature_map(images.mul(255)), cnn[:-1](images.mul(255) / 255))


def test_policies_without_images_are_refused():
    model = PPO("MlpPolicy", "CartPole-v1")
    with pytest.raises(ValueError, match="no convolutions in ActorCriticPolicy"):
        crl.accelerate(model)
    with pytest.raises(ValueError, match="choose one of fp32, bf16, auto"):
        crl.accelerate(make("dqn"), "fp16")

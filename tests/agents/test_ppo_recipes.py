"""Recipes of PPO: what they resolve to, bad input, what they build."""

import numpy as np
import pytest
import torch as th

from crl.agents import PixelPPO, build, resolve
from crl.agents.fields import ConfigError, FieldValueError
from crl.agents.ppo_family import COLUMNS
from crl.agents.recipes import flatten, parse
from crl.envs import make_vec_env

CRAFTER = "crafter/reward"


def test_published_values():
    flat = flatten(resolve("ppo-crafter", CRAFTER))
    published = {
        "algorithm.learning_rate": 3e-4,
        "algorithm.n_steps": 512,
        "algorithm.batch_size": 512,
        "algorithm.n_epochs": 3,
        "algorithm.gamma": 0.95,
        "algorithm.gae_lambda": 0.65,
        "algorithm.clip_range": 0.2,
        "algorithm.ent_coef": 0.01,
        "algorithm.vf_coef": 0.5,
        "algorithm.max_grad_norm": 0.5,
        "algorithm.advantages": "rollout",
        "algorithm.adam_eps": 1e-8,
        "policy.filters": [64, 128, 128],
        "policy.hidden_dim": 256,
        "policy.features_dim": 1024,
        "policy.normalize_values": True,
        "policy.value_beta": 0.99,
        "distillation.every": None,
        "train.n_envs": 8,
        "train.env_steps": 1_000_000,
        "env.id": CRAFTER,
    }
    assert {key: flat[key] for key in published} == published


def test_the_small_one_differs_in_its_columns_alone():
    large, small = (flatten(resolve(name, CRAFTER)) for name in ("ppo-crafter", "ppo-crafter-small"))
    assert {key for key in large if large[key] != small[key]} - {"agent"} == set(COLUMNS)
    assert small["policy.filters"] == [16, 32, 32]


@pytest.mark.parametrize("agent", ["ppo-crafter", "ppo-crafter-small"])
@pytest.mark.parametrize("env_id", [CRAFTER, "toy/chain", "toy/reach-discrete", "Anything-v0"])
def test_what_is_resolved_is_accepted(agent, env_id):
    config = resolve(agent, env_id)
    assert parse(config).algorithm.n_steps == config["algorithm"]["n_steps"]


@pytest.mark.parametrize(
    ("env_id", "overrides", "error", "message"),
    [
        ("dmc/walker-walk", {}, ConfigError, "continuous actions"),
        ("toy/reach", {}, ConfigError, "toy/reach-discrete"),
        (CRAFTER, {"algorithm.batch_size": 500}, FieldValueError, r"512 \* 8 = 4096"),
        (CRAFTER, {"train.n_envs": 3, "algorithm.batch_size": 1024}, FieldValueError, "has to divide a rollout"),
        (CRAFTER, {"algorithm.advantages": "minibatch"}, FieldValueError, "choose one of rollout, batch, raw"),
        (CRAFTER, {"policy.filters": "0,4"}, FieldValueError, "at least 1"),
        (CRAFTER, {"policy.value_beta": 1}, FieldValueError, "at most 0.999999"),
        (CRAFTER, {"distillation.every": 0}, FieldValueError, "at least 1"),
    ],
)
def test_bad_input(env_id, overrides, error, message):
    with pytest.raises(error, match=message):
        resolve("ppo-crafter-small", env_id, overrides)


def test_what_is_built():
    overrides = {"train.n_envs": 2, "algorithm.n_steps": 8, "algorithm.batch_size": 8, "algorithm.ent_coef": 0.03}
    config = resolve("ppo-crafter-small", "toy/chain", overrides)
    env = make_vec_env("toy/chain", seed=0, n_envs=2)
    model, callbacks = build(config, env, seed=3, device="cpu")
    assert type(model) is PixelPPO and callbacks == []
    assert (model.n_steps, model.batch_size, model.ent_coef, model.seed) == (8, 8, 0.03, 3)
    assert model.policy.features_extractor.features_dim == config["policy"]["features_dim"]
    assert model.policy.optimizer.param_groups[0]["eps"] == 1e-8 and model.policy.value_normalizer.beta == 0.99
    before = [p.clone() for p in model.policy.parameters()]
    model.learn(16)
    assert any(not th.equal(a, b) for a, b in zip(before, model.policy.parameters(), strict=True))
    raw = resolve("ppo-crafter-small", "toy/chain", {**overrides, "policy.normalize_values": False})
    assert build(raw, env, seed=3, device="cpu")[0].policy.value_normalizer is None


def test_continuous_actions_of_unknown_environments_are_refused():
    import gymnasium as gym
    from stable_baselines3.common.vec_env import DummyVecEnv

    class Continuous(gym.Env):
        observation_space = gym.spaces.Box(0, 255, (3, 36, 36), np.uint8)
        action_space = gym.spaces.Box(-1.0, 1.0, (2,))

    with pytest.raises(ConfigError, match="needs discrete actions"):
        build(resolve("ppo-crafter-small", "Anything-v0"), DummyVecEnv([Continuous] * 8), seed=0, device="cpu")

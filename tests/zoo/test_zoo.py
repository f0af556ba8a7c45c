"""
The configuration for rl_zoo3: by its own train command where it is installed, and step by step as it documents them elsewhere.
"""

import copy
import importlib
import os
import subprocess
import sys
from importlib.util import find_spec

import gymnasium as gym
import pytest
import torch as th
import yaml
from stable_baselines3 import DQN, SAC
from stable_baselines3.common.env_util import make_vec_env

from crl import zoo
from crl.callbacks import AuxiliaryLossCallback

SMALL = dict(learning_starts=20, batch_size=8, buffer_size=200)


def by_name(name):
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def agent(cls, env_id, hyperparams, log=None):
    """What rl_zoo3 does with a configuration, after its documentation ('Configuration')."""
    hyperparams = copy.deepcopy(hyperparams)  # SB3 adds to policy_kwargs
    kwargs = {key: value for key, value in hyperparams.items() if key not in ("n_timesteps", "callback")}
    if isinstance(kwargs["replay_buffer_class"], str):
        kwargs["replay_buffer_class"] = eval(kwargs["replay_buffer_class"])
    if "." in kwargs["policy"]:
        kwargs["policy"] = by_name(kwargs["policy"])
    callbacks = [by_name(name)(**arguments) for item in hyperparams["callback"] for name, arguments in item.items()]
    spec = gym.spec(env_id)
    env = make_vec_env(lambda **options: spec.make(**options), n_envs=1, seed=0)
    return cls(env=env, seed=0, device="cpu", tensorboard_log=log, **{**kwargs, **SMALL}), callbacks


@pytest.mark.parametrize("cls, env_id", [(SAC, "toy/reach"), (DQN, "toy/reach-discrete")])
def test_step_by_step(cls, env_id, tmp_path):
    model, callbacks = agent(cls, env_id, zoo.hyperparams[env_id])
    assert len(callbacks) == 1 and isinstance(callbacks[0], AuxiliaryLossCallback)
    model.learn(40, callback=callbacks)
    (item,) = callbacks[0].attachments.values()
    assert item.n_updates > 10
    # rl_zoo3 ends the first callback once more by itself
    before = {key: value.clone() for key, value in model.policy.state_dict().items()}
    callbacks[0].on_training_end()
    assert all(th.equal(value, before[key]) for key, value in model.policy.state_dict().items())
    model.save(tmp_path / "model")
    assert cls.load(tmp_path / "model", device="cpu").policy.state_dict().keys() == before.keys()


def test_trials_share_nothing():
    first, second = (agent(SAC, "toy/reach", zoo.hyperparams["toy/reach"])[1][0] for _ in range(2))
    assert first is not second and first.objective is not second.objective


@pytest.mark.parametrize("name", zoo.hyperparams)
def test_it_is_saved_and_read_as_yaml(name):
    """rl_zoo3 writes config.yml by yaml.dump, and reads it by the unsafe loader."""
    back = yaml.load(yaml.dump(zoo.hyperparams[name]), Loader=yaml.UnsafeLoader)
    assert yaml.dump(back) == yaml.dump(zoo.hyperparams[name])
    assert repr(back["replay_buffer_kwargs"]["augment"]) == repr(zoo.hyperparams[name]["replay_buffer_kwargs"]["augment"])
    # callbacks and policies are names: nothing of a run is in them
    assert yaml.safe_load(yaml.safe_dump({key: back[key] for key in ("callback", "policy")}))


def test_the_default_fits_dmc_tasks():
    """Shapes alone: its networks are built for a control task without rendering one."""
    from gymnasium import spaces

    kwargs = zoo.hyperparams["default"]
    space = spaces.Box(0, 255, (9, 84, 84), "uint8")
    policy = by_name(kwargs["policy"])(space, spaces.Box(-1, 1, (6,)), lambda _: 1e-3, **kwargs["policy_kwargs"])
    assert policy.encoder.features_dim == 50


def test_environments_are_registered():
    assert {"toy/reach", "toy/reach-discrete", "dmc/cartpole-swingup"} <= set(gym.registry)
    env = gym.make("toy/reach")
    obs, info = env.reset(seed=3)
    assert obs.shape == (9, 32, 32) and info["state"].shape == (8,) and env.spec.id == "toy/reach"
    zoo.register_envs()  # a second time is no error, and gymnasium warns of none


def test_unknown_objective():
    with pytest.raises(ValueError, match="no objective 'crul': choose one of"):
        zoo.auxiliary_loss("crul")


@pytest.mark.parametrize("algo, env_id", [("sac", "toy/reach"), ("dqn", "toy/reach-discrete")])
def test_rl_zoo3_trains_and_enjoys_it(algo, env_id, tmp_path):
    if find_spec("rl_zoo3") is None:  # importing it would change gymnasium for all tests that follow
        pytest.skip("rl_zoo3 is not installed")
    command = [sys.executable, "-m", "rl_zoo3.train", "--algo", algo, "--env", env_id, "--gym-packages", "crl.zoo"]
    command += ["-conf", "crl.zoo", "-n", "200", "-f", str(tmp_path), "--eval-freq", "-1", "--device", "cpu", "--seed", "1"]
    command += ["--log-interval", "1", "-params", *(f"{key}:{value}" for key, value in SMALL.items())]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
    assert result.returncode == 0, result.stderr
    assert "curl_loss" in result.stdout, "the objective was part of the training"
    (model,) = (path for path in (tmp_path / algo).rglob("*.zip"))
    assert {"sac": SAC, "dqn": DQN}[algo].load(model, device="cpu").num_timesteps >= 200
    command = [sys.executable, "-m", "rl_zoo3.enjoy", "--algo", algo, "--env", env_id, "--gym-packages", "crl.zoo"]
    command += ["-f", str(tmp_path), "-n", "100", "--no-render", "--device", "cpu"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("Episode Reward") == 2, "two episodes of fifty steps"

"""make_env and make_vec_env: what they accept, what they say to the rest, seeds."""

import subprocess
import sys
from itertools import product

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.env_checker import check_env

from crl.envs import (
    EnvironmentOptionError,
    NotPixelsError,
    UnknownEnvironmentError,
    check_env_id,
    list_envs,
    make_env,
    make_vec_env,
)
from crl.envs.episode_seeds import episode_seed
from crl.envs.toy import ToyReach


class Noise(gym.Env):
    """A user's own environment: channels last, beside a vector."""

    observation_space = spaces.Dict(image=spaces.Box(0, 255, (40, 40, 3), np.uint8), place=spaces.Box(-1, 1, (2,), np.float32))
    action_space = spaces.Discrete(2)

    def __init__(self, length=3, render_mode=None):
        self.length, self.render_mode = length, render_mode

    def _obs(self):
        image = self.np_random.integers(0, 256, (40, 40, 3), dtype=np.uint8)
        return dict(image=image, place=np.zeros(2, np.float32))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self._obs(), {}

    def step(self, action):
        self.t += 1
        return self._obs(), 0.0, False, self.t == self.length, {}


@pytest.mark.parametrize(
    "env_id, near",
    [
        ("toy/raech", "toy/reach"),
        ("dmc/cheetah-runn", "dmc/cheetah-run"),
        ("cheetah-run", "dmc/cheetah-run"),
        ("gym/CartPol-v1", "gym/CartPole-v1"),
        ("CartPol-v1", "CartPole-v1"),
        ("no_such_module:Env-v0", "no module no_such_module to take the environment Env-v0 .* from: .*current folder"),
    ],
)
def test_unknown_ids_name_the_nearest(env_id, near):
    for function in (check_env_id, make_env, make_vec_env):
        with pytest.raises(UnknownEnvironmentError, match=near):
            function(env_id)


@pytest.mark.parametrize(
    "env_id, options, text",
    [
        (
            "dmc/cheetah-run",
            dict(sise=84),
            "no option sise; it has size, n_stack, action_repeat, camera, shadow_size, time_limit",
        ),
        ("dmc/cheetah-run", dict(size=0), "size=0"),
        ("dmc/cheetah-run", dict(size=84.0), "size=84.0"),
        ("dmc/cheetah-run", dict(action_repeat=0), "action_repeat=0"),
        ("dmc/cheetah-run", dict(n_stack=True), "n_stack=True"),
        ("dmc/cheetah-run", dict(shadow_size=-1), "shadow_size=-1"),
        ("dmc/cheetah-run", dict(time_limit=0), "time_limit=0"),
        ("toy/reach", dict(size=84), "no option size; it has distractors, render_mode"),
        ("toy/reach", dict(render_mode="human"), "rgb_array"),
        ("gym/CartPole-v1", dict(n_stack=0), "n_stack=0"),
    ],
)
def test_wrong_options_before_anything_is_made(env_id, options, text):
    with pytest.raises(EnvironmentOptionError, match=text):
        check_env_id(env_id, options)
    with pytest.raises(EnvironmentOptionError, match=text):
        make_vec_env(env_id, **options)


def test_wrong_options_of_the_environment_itself():
    with pytest.raises(EnvironmentOptionError, match="no such option.*gravitas.*crl's own are size"):
        make_env("gym/CartPole-v1", gravitas=2)
    with pytest.raises(EnvironmentOptionError, match="n_envs=0"):
        make_vec_env("toy/reach", n_envs=0)
    for function in (make_env, make_vec_env):
        with pytest.raises(EnvironmentOptionError, match="seed=-1"):
            function("toy/reach", seed=-1)


def test_wrong_names_load_no_simulator():
    code = """
import sys
from crl.envs import make_env, list_envs
for env_id, options in (("dmc/cartpole-fly", {}), ("dmc/cartpole-swingup", {"size": -1}), ("gym/Nothing-v0", {})):
    try:
        make_env(env_id, **options)
    except ValueError:
        list_envs()
    else:
        raise SystemExit("no error")
print([name for name in ("mujoco", "dm_control", "shimmy", "torch", "stable_baselines3") if name in sys.modules])
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_observations_must_be_images():
    with pytest.raises(NotPixelsError, match="gym/CartPole-v1 shows its renderings"):
        make_env("CartPole-v1")


def test_own_environments():
    check_env(make_env(Noise))
    assert make_env(Noise, length=5).unwrapped.length == 5
    assert make_env(lambda: Noise(4)).unwrapped.length == 4
    own = Noise()
    assert make_env(own, seed=0).unwrapped is own
    with pytest.raises(EnvironmentOptionError, match="still to be made"):
        make_env(own, length=5)
    with pytest.raises(EnvironmentOptionError, match="give what makes it"):
        make_vec_env(own, n_envs=2)
    env = make_vec_env(Noise, seed=0, n_envs=2)
    obs = env.reset()
    assert obs["image"].shape == (2, 40, 40, 3) and (obs["image"][0] != obs["image"][1]).any()


@pytest.fixture
def registered():
    gym.register("crl-test/Noise-v0", entry_point=Noise, max_episode_steps=9)
    gym.register("crl-test/Toy-v0", entry_point="crl.envs.toy:ToyReach")
    yield
    del gym.registry["crl-test/Noise-v0"], gym.registry["crl-test/Toy-v0"]


def test_registered_environments(registered):
    assert make_env("crl-test/Noise-v0", length=20).unwrapped.length == 20
    check_env_id("crl-test/Noise-v0")
    # the worker's own registry does not have it
    env = make_vec_env("crl-test/Toy-v0", seed=0, subprocess=True)
    assert (env.reset() == make_vec_env("toy/reach", seed=0).reset()).all()
    env.close()


def test_toys_are_registered_with_gymnasium():
    for name, kind in (("toy-reach", spaces.Box), ("toy-reach-discrete", spaces.Discrete)):
        env = gym.make(f"crl.envs:crl/{name}-v0")
        assert isinstance(env.unwrapped, ToyReach) and isinstance(env.action_space, kind)
    assert make_env("crl.envs:crl/toy-reach-v0").observation_space.shape == (9, 32, 32)


def test_streams_of_seeds():
    """Different for each run, environment, episode and purpose; what they are is part of what a seed means."""
    numbers = list(product(range(4), range(4), range(4), (False, True)))
    assert len({episode_seed(*item) for item in numbers}) == len(numbers)
    assert episode_seed(0, 0, 0) == 1484405855 and episode_seed(3, 1, 7) == 456211111
    train, test = (make_env("toy/reach", seed=0, evaluation=evaluation) for evaluation in (False, True))
    assert (train.reset()[0] != test.reset()[0]).any()
    assert (make_vec_env("toy/reach", seed=0, evaluation=True).reset()[0] == make_env("toy/reach", 0, True).reset()[0]).all()


def test_episodes_of_a_vector_environment_are_those_of_single_ones():
    env = make_vec_env("toy/reach", seed=4, n_envs=2)
    env.reset()
    for _ in range(50):
        obs, _, dones, _ = env.step(np.zeros((2, 2), np.float32))
    assert dones.all()
    for index in range(2):
        alone = ToyReach()
        assert (alone.reset(seed=episode_seed(4, index, 1))[0] == obs[index]).all()


def test_list():
    names = list_envs()
    assert "toy/reach" in names and "dmc/cheetah-run" in names
    for name in names:
        if "<" not in name:
            check_env_id(name)

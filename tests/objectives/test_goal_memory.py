"""What the policy is shown of the last sub-goal, beside a memory kept by hand."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv

from crl.encoders import ModelEncoder, PixelEncoder
from crl.objectives.goal_memory import GoalMemory, SingleGoalMemory, reached_goals
from crl.objectives.memory_extractor import MemoryExtractor, memory_space, memory_width

from ..fakes import FakeImages

SHAPE, WIDTH = (3, 12, 12), 6


class FakeGoals(FakeImages):
    """Noise; sub-goals are reached at random, now and then with the last step."""

    subgoal_names = ("a", "b")

    def __init__(self, channels_last=False, **kwargs):
        super().__init__(spaces.Discrete(3), **{"shape": SHAPE, "length": 7, **kwargs})
        self.channels_last = channels_last
        if channels_last:
            self.observation_space = spaces.Box(0, 255, (*SHAPE[1:], SHAPE[0]), np.uint8)

    def _observe(self):
        image = super()._observe()
        return image.transpose(1, 2, 0) if self.channels_last else image

    def step(self, action):
        obs, reward, terminated, truncated, info = super().step(action)
        return obs, reward, terminated, truncated, {**info, "subgoals": self.np_random.random(2) < 0.2}

    def get_state(self):
        return {"t": self.t, "frames": list(self.frames), "rng": self.np_random.bit_generator.state}

    def set_state(self, state):
        self.t, self.frames = state["t"], list(state["frames"])
        self.np_random.bit_generator.state = state["rng"]


def encoder(width=WIDTH, seed=0):
    with th.random.fork_rng(devices=[]):
        th.manual_seed(seed)
        space = spaces.Box(0, 255, SHAPE, np.uint8)
        return ModelEncoder(PixelEncoder(space, width, filters=4, layers=2), space)


@th.no_grad()
def by_hand(look, before, after):
    a, b = (look(th.as_tensor(x[None])) for x in (before, after))
    return ((b - a) / (b - a).norm())[0].numpy()


def vec_env(n=3, seed=0, **kwargs):
    env = DummyVecEnv([lambda: FakeGoals(**kwargs) for _ in range(n)])
    env.seed(seed)
    return env


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("truncate", [False, True])
def test_it_is_the_last_goal_of_the_episode(truncate, channels_last):
    look = encoder()
    env = GoalMemory(vec_env(truncate=truncate, channels_last=channels_last), WIDTH)
    assert env.observation_space == memory_space(spaces.Box(0, 255, SHAPE, np.uint8), WIDTH)
    env.bind(look)
    obs = env.reset()
    assert not obs["memory"].any()
    want, met = np.zeros((3, WIDTH), np.float32), {"last": 0, "before": 0, "ends": 0}
    for _ in range(60):
        before = obs["image"]
        obs, _, dones, infos = env.step(np.zeros(3, int))
        for i, (done, info) in enumerate(zip(dones, infos, strict=True)):
            after = info["terminal_observation"]["image"] if done else obs["image"][i]
            assert after.shape == SHAPE
            if info["subgoals"].any():
                want[i] = by_hand(look, before[i], after)
                met["last" if done else "before"] += 1
            if done:
                np.testing.assert_allclose(info["terminal_observation"]["memory"], want[i], atol=1e-5)
                want[i], met["ends"] = 0.0, met["ends"] + 1
        np.testing.assert_allclose(obs["memory"], want, atol=1e-5)
    assert min(met.values()) > 0, met
    assert not env.reset()["memory"].any()


def test_what_was_handed_out_does_not_change():
    """SB3 keeps the last observation and stores it after the next step."""
    env = GoalMemory(vec_env(), WIDTH)
    env.bind(encoder())
    obs = [env.reset(), *(env.step(np.zeros(3, int))[0] for _ in range(5))]
    copies = [{key: value.copy() for key, value in o.items()} for o in obs]
    for _ in range(20):
        env.step(np.zeros(3, int))
    assert all((o[key] == c[key]).all() for o, c in zip(obs, copies, strict=True) for key in o)
    assert any(c["memory"].any() for c in copies)


class OneArray(gym.Wrapper):
    """Draws every observation into the same array, as some simulators do."""

    def __init__(self, env):
        super().__init__(env)
        self.array = np.zeros(env.observation_space.shape, np.uint8)

    def reset(self, **kwargs):
        self.array[:], info = self.env.reset(**kwargs)
        return self.array, info

    def step(self, action):
        self.array[:], *rest = self.env.step(action)
        return self.array, *rest


@pytest.mark.parametrize("alone", [FakeGoals, lambda: FakeGoals(channels_last=True), lambda: OneArray(FakeGoals())])
def test_one_environment_alone_sees_the_same(alone):
    look = encoder()
    env, single = GoalMemory(vec_env(1, seed=5), WIDTH), SingleGoalMemory(alone(), look)
    env.bind(look)
    obs, (one, _) = env.reset(), single.reset(seed=5)
    for _ in range(7):
        assert single.observation_space.contains(one)
        for key in one:
            np.testing.assert_array_equal(obs[key][0], one[key])
        obs, _, dones, infos = env.step(np.zeros(1, int))
        one, _, terminated, _, _ = single.step(0)
    assert terminated and dones[0]
    assert (infos[0]["terminal_observation"]["memory"] == one["memory"]).all() and one["memory"].any()
    assert not single.reset(seed=5)[0]["memory"].any()


def test_states_hold_the_memory():
    look = encoder()
    env, other = (GoalMemory(vec_env(seed=seed), WIDTH) for seed in (0, 1))
    for e in (env, other):
        e.bind(look)
        e.reset()
    for _ in range(5):
        env.step(np.zeros(3, int))
    for index, state in enumerate(env.env_method("get_state")):
        other.env_method("set_state", state, indices=index)
    assert env.memory.any()
    for _ in range(12):
        a, b = env.step(np.zeros(3, int)), other.step(np.zeros(3, int))
        assert all((a[0][key] == b[0][key]).all() for key in a[0])


def test_it_needs_an_encoder_that_fits():
    env = GoalMemory(vec_env(), WIDTH)
    env.reset()
    with pytest.raises(RuntimeError, match="bind"):
        for _ in range(20):
            env.step(np.zeros(3, int))
    env.bind(encoder(5))
    with pytest.raises(RuntimeError, match="features_dim=6, the encoder gives 5"):
        for _ in range(20):
            env.step(np.zeros(3, int))


def test_environments_that_report_nothing():
    with pytest.raises(KeyError, match="environment 1 puts no 'subgoals'"):
        reached_goals([{"subgoals": np.zeros(2, bool)}, {}])
    with pytest.raises(ValueError, match="GoalMemory"):
        GoalMemory(DummyVecEnv([lambda: gym.make("CartPole-v1")]), WIDTH)


def test_the_extractor_puts_it_behind_the_encoders_output():
    space = memory_space(spaces.Box(0, 255, SHAPE, np.uint8), WIDTH)
    assert memory_width(space) == WIDTH and memory_width(space["image"]) == 0
    assert memory_width(spaces.Dict(image=space["image"], vector=space["memory"])) == 0
    extractor = MemoryExtractor(space, PixelEncoder, dict(features_dim=WIDTH, filters=4, layers=2))
    image, memory = th.rand(4, *SHAPE), th.rand(4, WIDTH)
    out = extractor({"image": image, "memory": memory})
    assert extractor.features_dim == 2 * WIDTH
    assert th.equal(out, th.cat([extractor.extractors["image"](image), memory], 1))
    with pytest.raises(ValueError, match="features_dim=5"):
        MemoryExtractor(space, PixelEncoder, dict(features_dim=5, layers=2))
    with pytest.raises(ValueError, match="observations of GoalMemory"):
        MemoryExtractor(space["image"], PixelEncoder)

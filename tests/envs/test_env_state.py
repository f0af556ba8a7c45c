"""Saving and restoring through wrappers, gymnasium's and our own."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.wrappers import RecordEpisodeStatistics, RescaleAction, TimeLimit

from crl.envs import make_env, make_vec_env
from crl.envs.env_state import get_state, saves_state, set_state
from crl.envs.toy import ToyReach
from crl.envs.wrappers import PixelStack


def go_on(env, steps=20):
    out = []
    for t in range(steps):
        obs, reward, terminated, truncated, _ = env.step(np.array([np.sin(t), np.cos(t)], np.float32))
        out.append((obs.tobytes(), reward, terminated, truncated))
        if truncated:
            out.append(env.reset()[0].tobytes())
    return out


def stacked():
    """gymnasium's own wrappers from make, one of ours, and a time limit that is shorter than the toy's."""
    env = gym.make("crl.envs:crl/toy-reach-v0", render_mode="rgb_array", max_episode_steps=12)
    return PixelStack(RescaleAction(env, -1.0, 1.0), 2)


def test_time_limits_and_order_enforcing_are_restored():
    env, fresh = stacked(), stacked()
    env.reset(seed=0)
    go_on(env, 5)
    assert saves_state(env)
    state = get_state(env)
    want = go_on(env)
    assert any(isinstance(item, bytes) for item in want), "the time limit must fall within the test"
    set_state(fresh, state)
    assert go_on(fresh) == want


class LaterLimit(gym.wrappers.TimeLimit):
    """Like rl_zoo3's, which takes the place of gymnasium's: other steps, nothing more to remember."""

    def step(self, action):
        return super().step(action)


class CountingLimit(gym.wrappers.TimeLimit):
    """Remembers more than gymnasium's does."""

    def __init__(self, env, limit):
        super().__init__(env, limit)
        self.resets = 0


def test_subclasses_that_remember_nothing_more_are_restored():
    env, fresh = (LaterLimit(ToyReach(), 8) for _ in range(2))
    env.reset(seed=0)
    go_on(env, 5)
    set_state(fresh, get_state(env))
    assert saves_state(env) and fresh._elapsed_steps == 5 and go_on(fresh) == go_on(env)
    assert not saves_state(CountingLimit(ToyReach(), 8))
    with pytest.raises(AttributeError, match="CountingLimit cannot be saved"):
        get_state(CountingLimit(ToyReach(), 8))


def test_gymnasiums_checker_is_restored_whatever_it_has_seen():
    for steps in (0, 1, 5):
        env, fresh = (gym.wrappers.PassiveEnvChecker(ToyReach()) for _ in range(2))
        env.reset(seed=0)
        go_on(env, steps)
        state = get_state(env)
        set_state(fresh, state)
        assert go_on(fresh) == go_on(env)


def test_vector_environments():
    make = dict(env_id="toy/reach", seed=0, n_envs=2)
    env, other = make_vec_env(**make), make_vec_env(**{**make, "seed": 9}, subprocess=True)
    env.reset()
    other.reset()

    def go_on(env, steps=60):
        rng = np.random.default_rng(0)
        out = [env.step(rng.uniform(-1, 1, (2, 2)).astype(np.float32)) for _ in range(steps)]
        # SB3 gives rewards as float32 in one process and as float64 from several
        return [(obs.tobytes(), np.float32(rewards).tobytes(), dones.tobytes()) for obs, rewards, dones, _ in out], out

    go_on(env, 13)
    states = env.env_method("get_state")
    want, _ = go_on(env)
    for index, state in enumerate(states):
        other.env_method("set_state", state, indices=index)
    got, steps = go_on(other)
    assert got == want
    episodes = [infos[0]["episode"] for *_, infos in steps if "episode" in infos[0]]
    assert [episode["l"] for episode in episodes] == [50], "Monitor counts the steps before the snapshot"
    other.close()


def test_what_cannot_be_saved_says_so():
    """Never half a state: a wrapper that is not known may remember something."""
    env = make_env(TimeLimit(ToyOfOthers(), 5), seed=0)
    assert not saves_state(env)
    with pytest.raises(AttributeError, match="ToyOfOthers cannot be saved"):
        get_state(env)
    recorded = RecordEpisodeStatistics(ToyReach())
    assert not saves_state(recorded)
    with pytest.raises(AttributeError, match="RecordEpisodeStatistics cannot be saved"):
        get_state(recorded)
    with pytest.raises(AttributeError, match="RecordEpisodeStatistics cannot be restored"):
        set_state(recorded, {})


def test_monitors_tell_before_they_raise():
    assert make_vec_env("toy/reach", n_envs=2).env_method("saves_state") == [True, True]
    assert make_vec_env(ToyOfOthers).env_method("saves_state") == [False]


class ToyOfOthers(gym.Wrapper):
    """Whatever it remembers, it does not tell."""

    def __init__(self):
        super().__init__(ToyReach())

"""Held-out episodes: repeatable, of their own seeds, with both the agent's actions and random ones."""

import numpy as np
import pytest
from gymnasium import spaces

from crl.envs import make_env
from crl.envs.episode_seeds import episode_seed
from crl.probe import episodes as module
from crl.probe.episodes import PROBE_SEED, ProbeError, collect, image_box
from crl.probe.labels import UNKNOWN
from crl.runs.evaluation import EVALUATION_SEED

CONFIG = {"env": {"id": "toy/reach", "kwargs": {}}}


SPACE = spaces.Box(0, 255, (9, 32, 32), np.uint8)


class Agent:
    """Always thrusts along +x."""

    observation_space = SPACE

    def __init__(self):
        self.asked = 0

    def predict(self, obs, deterministic):
        assert deterministic
        self.asked += 1
        return np.array([1.0, 0.0], np.float32), None


def test_what_is_collected():
    agent, ended = Agent(), []
    data = collect(agent, CONFIG, 6, advance=lambda: ended.append(1))
    assert data.images.shape == (300, 9, 32, 32) and data.images.numpy().dtype == np.uint8 and len(ended) == 6
    assert data.states.shape == (300, 8) and data.names[:2] == ["x", "y"] and data.labels == {}
    assert (data.episodes == np.repeat(np.arange(6), 50)).all() and (data.times == np.tile(np.arange(1, 51), 6)).all()
    assert 60 < agent.asked < 240, "about half of the steps are the agent's"
    # states belong to their images: the dot is white, and stands where the state says
    for row in (0, 77, 299):
        x, y = data.states[row, :2]
        column, line = 3 + (x + 1) / 2 * 25, 3 + (1 - y) / 2 * 25
        assert data.images[row, -3:, round(line), round(column)].min() > 200


def test_seeds():
    first, again, other = (collect(Agent(), CONFIG, 4, seed).images.numpy() for seed in (0, 0, 1))
    assert (first == again).all() and (first != other).any()
    # neither the evaluation's episodes nor any of training
    probe = {episode_seed(PROBE_SEED + s, 0, e, evaluation=True) for s in range(3) for e in range(200)}
    evaluation = {episode_seed(EVALUATION_SEED, 0, e, evaluation=True) for e in range(200)}
    training = {episode_seed(s, 0, e) for s in range(20) for e in range(200)}
    assert len(probe) == 600 and not probe & evaluation and not probe & training


def test_long_episodes_are_thinned():
    data = collect(Agent(), CONFIG, 5, max_rows=50)
    assert len(data) == 50 and data.times[:10].tolist() == [1, 6, 12, 17, 23, 28, 34, 39, 45, 50]


class Short:
    """Episodes of a given length, with labels but no state."""

    def __init__(self, length):
        self.length, self.t = length, 0
        self.action_space = spaces.Discrete(2)
        self.unwrapped = self

    def reset(self):
        self.t = 0
        return {"image": np.zeros((3, 4, 4), np.uint8), "speed": np.zeros(1)}, {}

    def step(self, action):
        self.t += 1
        obs = {"speed": np.zeros(1), "image": np.full((3, 4, 4), self.t, np.uint8)}
        return obs, 0.0, self.t >= self.length, False, {"labels": {"score": self.t // 2}}

    def close(self):
        pass


class Still:
    observation_space = SPACE

    def predict(self, obs, deterministic):
        return 0, None


def test_labels_and_dict_observations(monkeypatch):
    monkeypatch.setattr(module, "make_env", lambda *args, **kwargs: Short(3))
    data = collect(Still(), CONFIG, 4)
    assert data.labels["score"].tolist() == [0, 1, 1] * 4 and data.states.shape == (12, 0) and data.names == []
    assert data.images[:, 0, 0, 0].tolist() == [1, 2, 3] * 4
    assert image_box(spaces.Dict(a=spaces.Box(0, 1, (2,)), b=make_env("toy/reach").observation_space)).shape == (9, 32, 32)


class Goals(Short):
    """Unlocks sub-goals in given steps."""

    UNLOCKED = {2: [1], 3: [], 5: [0, 2]}

    def step(self, action):
        obs, reward, terminated, truncated, _ = super().step(action)
        return obs, reward, terminated, truncated, {"subgoals": np.isin(np.arange(3), self.UNLOCKED.get(self.t, []))}


def test_the_next_sub_goal_is_told_in_hindsight(monkeypatch):
    """Of each episode alone, without what was unlocked in the very step that led to the picture."""
    monkeypatch.setattr(module, "make_env", lambda *args, **kwargs: Goals(6))
    data = collect(Still(), CONFIG, 4)
    assert data.labels["next_subgoal"].tolist() == [1, 0, 0, 0, -1, -1] * 4 and UNKNOWN == -1


def test_episodes_of_one_step(monkeypatch):
    monkeypatch.setattr(module, "make_env", lambda *args, **kwargs: Short(1))
    with pytest.raises(ProbeError, match="single step"):
        collect(Still(), CONFIG, 4)

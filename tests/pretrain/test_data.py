"""Where stored transitions come from, and what is said of what is none."""

import sys
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer
from stable_baselines3.common.save_util import save_to_pkl

from crl.contract import DataRequest
from crl.pretrain.data import DataError, load_transitions
from crl.pretrain.minari_data import from_episodes
from crl.replay import FrameReplayBuffer, ReplaySource

from .stored import BOX, saved, toy_buffer

IMAGE = spaces.Box(0, 255, (3, 8, 8), np.uint8)


def test_a_saved_buffer_is_read_back(tmp_path):
    path = saved(tmp_path / "buffer.pkl")
    original = toy_buffer()
    for name in (path, path.removesuffix(".pkl")):  # SB3 leaves the suffix out, too
        buffer, space, key = load_transitions(name)
        assert isinstance(buffer, FrameReplayBuffer) and space.shape == (9, 32, 32) and key is None
        rows, env = np.arange(200), np.zeros(200, int)
        assert (buffer.observations_at(rows, env) == original.observations_at(rows, env)).all()


def fill(buffer, obs):
    for _ in range(5):
        buffer.add(obs(), obs(), np.zeros((1, 2)), np.zeros(1), np.zeros(1, bool), [{}])
    return buffer


def test_sb3s_own_buffers(tmp_path):
    def images():
        return np.random.default_rng(0).integers(0, 255, (1, 3, 8, 8), dtype=np.uint8)

    save_to_pkl(tmp_path / "plain.pkl", fill(ReplayBuffer(20, IMAGE, BOX, "cpu"), images))
    assert load_transitions(str(tmp_path / "plain.pkl"))[1:] == (IMAGE, None)
    both = spaces.Dict(a=IMAGE, b=IMAGE, speed=spaces.Box(-1, 1, (2,)))
    buffer = fill(DictReplayBuffer(20, both, BOX, "cpu"), lambda: {"a": images(), "b": images(), "speed": np.zeros((1, 2))})
    save_to_pkl(tmp_path / "dict.pkl", buffer)
    assert load_transitions(str(tmp_path / "dict.pkl"), image_key="b")[1:] == (IMAGE, "b")
    for key in (None, "speed"):
        with pytest.raises(DataError, match="images are a, b"):
            load_transitions(str(tmp_path / "dict.pkl"), image_key=key)


def test_what_is_no_data(tmp_path):
    with pytest.raises(DataError, match="no file .*save_replay_buffer"):
        load_transitions(str(tmp_path / "nothing"))
    (tmp_path / "text.pkl").write_text("hello")
    with pytest.raises(DataError, match="is no saved replay buffer"):
        load_transitions(str(tmp_path / "text.pkl"))
    save_to_pkl(tmp_path / "list.pkl", [1, 2])
    with pytest.raises(DataError, match="holds a list"):
        load_transitions(str(tmp_path / "list.pkl"))
    save_to_pkl(tmp_path / "empty.pkl", ReplayBuffer(20, IMAGE, BOX, "cpu"))
    with pytest.raises(DataError, match="holds no transitions"):
        load_transitions(str(tmp_path / "empty.pkl"))
    vectors = fill(ReplayBuffer(20, spaces.Box(-1, 1, (4,)), BOX, "cpu"), lambda: np.zeros((1, 4)))
    save_to_pkl(tmp_path / "vectors.pkl", vectors)
    with pytest.raises(DataError, match="needs images"):
        load_transitions(str(tmp_path / "vectors.pkl"))
    with pytest.raises(DataError, match="for Minari data sets"):
        load_transitions(saved(tmp_path / "buffer.pkl"), stack=3)
    with pytest.raises(ValueError, match="is no run"):
        load_transitions(str(tmp_path))


@dataclass
class Episode:
    """As Minari's EpisodeData."""

    observations: object
    actions: np.ndarray
    rewards: np.ndarray
    terminations: np.ndarray
    truncations: np.ndarray


def episode(length, ends="terminations", seed=0, channels_first=False):
    rng = np.random.default_rng(seed)
    flags = {"terminations": np.zeros(length, bool), "truncations": np.zeros(length, bool)}
    if ends is not None:
        flags[ends][-1] = True
    shape = (length + 1, 1, 6, 6) if channels_first else (length + 1, 6, 6, 1)
    images = rng.integers(0, 256, shape, dtype=np.uint8)
    return Episode(images, rng.uniform(0, 4, (length, 2)), rng.normal(size=length), **flags)


SPACES = {False: spaces.Box(0, 255, (6, 6, 1), np.uint8), True: spaces.Box(0, 255, (1, 6, 6), np.uint8)}
ACTIONS = spaces.Box(0.0, 4.0, (2,), np.float64)


@pytest.mark.parametrize("channels_first", [False, True])
def test_episodes_become_transitions(channels_first):
    """Against the episodes themselves: stacks, actions in [-1, 1], rewards, ends, and sequences that stop at them."""
    ends = ["terminations", "truncations", None, "terminations"]
    episodes = [episode(5 + i, e, i, channels_first) for i, e in enumerate(ends)]
    buffer = from_episodes(episodes, SPACES[channels_first], ACTIONS, 26, stack=3)
    row = 0
    for item in episodes:
        frames = item.observations if channels_first else item.observations.transpose(0, 3, 1, 2)
        for t in range(len(item.rewards)):
            stack = np.concatenate([frames[max(0, t - back)] for back in (2, 1, 0)])
            assert (buffer.observations_at(np.array([row]), np.array([0]))[0] == stack).all()
            np.testing.assert_allclose(buffer.actions[row, 0], item.actions[t] / 2 - 1, rtol=1e-6)
            assert buffer.rewards[row, 0] == np.float32(item.rewards[t])
            assert buffer.dones[row, 0] == (item.terminations[t] or item.truncations[t])
            assert buffer.timeouts[row, 0] == item.truncations[t]
            row += 1
    assert buffer.size() == row == 26
    raw = ReplaySource(buffer).draw(DataRequest("sequence", steps=3), 400, np.random.default_rng(0))
    lasts = np.cumsum([len(item.rewards) for item in episodes]) - 1
    # a window that begins at row r holds what is left of its episode
    first = np.array([np.flatnonzero(np.isclose(buffer.rewards[:, 0], r))[0] for r in raw.rewards[:, 0]])
    left = np.array([lasts[lasts >= r][0] - r + 1 for r in first])
    assert (raw.mask.sum(1) == np.minimum(left, 3)).all()


def test_frames_are_resized():
    image = np.arange(36, dtype=np.uint8).reshape(1, 6, 6, 1).repeat(3, axis=0) * 7
    item = episode(2)
    item.observations = image
    small = from_episodes([item], SPACES[False], ACTIONS, 2, size=3)
    found = small.observations_at(np.array([0]), np.array([0]))[0]
    np.testing.assert_allclose(found[0], image[0, :, :, 0].reshape(3, 2, 3, 2).mean((1, 3)), atol=0.5)
    assert from_episodes([item], SPACES[False], ACTIONS, 2, size=12).image_space.shape == (1, 12, 12)


def test_values_out_of_range():
    for bad in (dict(stack=0), dict(size=0)):
        with pytest.raises(ValueError, match="at least 1"):
            from_episodes([], SPACES[False], ACTIONS, 2, **bad)
    with pytest.raises(ValueError, match="no bounds"):
        from_episodes([], SPACES[False], spaces.Box(-np.inf, np.inf, (2,)), 2)


def minari(monkeypatch, observation_space, observations=lambda images: images):
    """A stand-in with the part of Minari's interface that is used."""
    episodes = [episode(6, seed=i) for i in range(3)]
    for item in episodes:
        item.observations = observations(item.observations)

    def load_dataset(name):
        if name != "pixels/test-v0":
            raise FileNotFoundError(f"Dataset {name} not found locally")
        return SimpleNamespace(
            observation_space=observation_space,
            action_space=ACTIONS,
            total_steps=18,
            iterate_episodes=lambda: iter(episodes),
        )

    module = SimpleNamespace(load_dataset=load_dataset, list_local_datasets=lambda: {"pixels/test-v0": {}})
    monkeypatch.setitem(sys.modules, "minari", module)


def test_minari(monkeypatch):
    minari(monkeypatch, SPACES[False])
    buffer, space, key = load_transitions("minari:pixels/test-v0", stack=2)
    assert buffer.size() == 18 and space.shape == (2, 6, 6) and key is None
    with pytest.raises(DataError, match=r"no Minari data set 'pixels/tset-v0'.*There are: pixels/test-v0.*minari download"):
        load_transitions("minari:pixels/tset-v0")
    both = spaces.Dict(image=SPACES[False], speed=spaces.Box(-1, 1, (2,)))
    minari(monkeypatch, both, lambda images: {"image": images, "speed": np.zeros((len(images), 2))})
    assert load_transitions("minari:pixels/test-v0")[1].shape == (1, 6, 6)
    minari(monkeypatch, spaces.Box(-1, 1, (4,)))
    with pytest.raises(DataError, match="holds no images"):
        load_transitions("minari:pixels/test-v0")


def test_without_minari(monkeypatch):
    monkeypatch.setitem(sys.modules, "minari", None)
    with pytest.raises(DataError, match=r"pip install 'crl\[minari\]'"):
        load_transitions("minari:pixels/test-v0")


def test_a_real_minari_data_set(tmp_path, monkeypatch):
    """Where minari is installed: collected, stored and read by itself."""
    module = pytest.importorskip("minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    from minari.data_collector import EpisodeBuffer

    from crl.envs.toy import ToyReach

    # Minari's own collector needs jax
    env, episodes = ToyReach(), []
    for seed in range(2):
        item = EpisodeBuffer(id=seed, seed=seed, observations=[env.reset(seed=seed)[0]], actions=[], infos={})
        while not any(item.terminations[-1:] + item.truncations[-1:]):
            item.actions.append(env.action_space.sample())
            obs, reward, terminated, truncated, _ = env.step(item.actions[-1])
            item.observations.append(obs)
            item.rewards.append(reward)
            item.terminations.append(terminated)
            item.truncations.append(truncated)
        episodes.append(item)
    spaces_of = dict(observation_space=env.observation_space, action_space=env.action_space)
    module.create_dataset_from_buffers("toy/reach-v0", episodes, **spaces_of)
    buffer, space, _ = load_transitions("minari:toy/reach-v0")
    assert buffer.size() == 100 and space.shape == (9, 32, 32) and buffer.timeouts.sum() == 2

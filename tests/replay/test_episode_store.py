"""The store of episodes against a list of them."""

import numpy as np
import pytest

from crl.replay.episode_store import EpisodeStore

from ..objectives.episodes import store


def play(store, script, seed=0, told=False):
    """Episodes of several environments, interleaved; what was played, in the order in which episodes ended."""
    rng, played, running = np.random.default_rng(seed), [], {}
    lengths = {env: list(of_env) for env, of_env in script.items()}
    while any(lengths.values()) or running:
        for env, left in lengths.items():
            if env not in running:
                if not left:
                    continue
                obs = rng.normal(size=2).astype(np.float32)
                running[env] = dict(left=left.pop(0), obs=[obs], actions=[], rewards=[], id=int(rng.integers(5)))
                store.begin(env, obs, {"partner_id": running[env]["id"]})
                continue
            episode = running[env]
            episode["left"] -= 1
            obs, action, reward = rng.normal(size=2).astype(np.float32), rng.integers(0, 3, 1), float(rng.normal())
            cut = episode["left"] == 0 and len(played) % 2 == 0
            over = episode["left"] == 0
            store.add(env, action, reward, obs, over and not cut, cut, {"partner_id": episode["id"]})
            episode["obs"].append(obs)
            episode["actions"].append(action)
            episode["rewards"].append(reward)
            if over:
                episode["cut"] = cut
                played.append(running.pop(env))
    return played


@pytest.mark.parametrize("size", [3, 20])
def test_episodes_are_what_was_played(size):
    store = EpisodeStore(size, 2, min_steps=2, told=("partner_id",))
    played = [e for e in play(store, {0: [4, 2, 7, 1, 3], 1: [6, 5, 9, 2]}) if len(e["actions"]) >= 2]
    kept = played[-size:]
    assert len(store) == min(size, 8) == len(kept)
    batch = store.episodes(np.arange(len(store)))
    # a ring: the newest overwrite the oldest
    order = [(len(played) - len(kept) + i) % size for i in range(len(kept))]
    for place, episode in zip(order, kept, strict=True):
        n = len(episode["actions"])
        assert batch.mask[place].tolist() == [True] * n + [False] * (batch.steps - n)
        np.testing.assert_array_equal(batch.obs[place, : n + 1], episode["obs"])
        assert (batch.obs[place, n + 1 :] == batch.obs[place, n]).all(), "padding is of the same episode"
        np.testing.assert_array_equal(batch.actions[place, :n], episode["actions"])
        np.testing.assert_allclose(batch.rewards[place, :n], episode["rewards"], rtol=1e-6)
        assert batch.terminated[place].tolist() == [False] * (n - 1) + [not episode["cut"]] + [False] * (batch.steps - n)
        assert batch.truncated[place].tolist() == [False] * (n - 1) + [episode["cut"]] + [False] * (batch.steps - n)
        assert batch.partner_id[place] == episode["id"]


def test_draws_are_without_replacement_and_uniform():
    filled, rng = store(), np.random.default_rng(0)
    counts = np.zeros(6)
    for _ in range(600):
        numbers = filled.draw(3, rng).obs[:, 0, 0].long().tolist()
        assert len(set(numbers)) == 3
        counts[numbers] += 1
    assert np.abs(counts / 300 - 1).max() < 0.2
    with pytest.raises(ValueError, match="stored episodes, 6"):
        filled.draw(7, rng)


def test_state_survives_in_mid_episode():
    first = EpisodeStore(4, 1, told=("partner_id",))
    play(first, {0: [3, 5, 4, 2, 6]})
    first.begin(0, np.zeros(2, np.float32), {"partner_id": 1})
    second = EpisodeStore(4, 1, told=("partner_id",))
    second.load_state_dict(first.state_dict())
    for one in (first, second):
        for t in range(9):
            one.add(0, np.array([1]), 1.0, np.full(2, t, np.float32), t == 8, False, {"partner_id": 1})
    a, b = (one.draw(4, np.random.default_rng(0)) for one in (first, second))
    assert (a.obs == b.obs).all() and (a.mask == b.mask).all() and (a.partner_id == b.partner_id).all()


def test_frames_are_kept_as_they_are_and_saved_small():
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (6, 3, 4, 4)).astype(np.uint8)
    first = EpisodeStore(40, 1)
    for _ in range(30):
        first.begin(0, frames[0])
        for t in range(5):
            first.add(0, np.array([t]), 0.0, frames[t + 1], t == 4, False)
    first.begin(0, frames[3])
    assert first.arrays["obs"].dtype == np.uint8
    state = first.state_dict()
    assert len(state["arrays"]["obs"]["zlib"]) < 30 * frames.nbytes / 10, "what is there thirty times is written once"
    second = EpisodeStore(40, 1)
    second.load_state_dict(state)
    for one in (first, second):
        one.add(0, np.array([1]), 1.0, frames[4], True, False)
        batch = one.episodes(np.array([0, 29, 30]))
        assert str(batch.obs.dtype) == "torch.uint8"
        np.testing.assert_array_equal(batch.obs[1], frames)
        np.testing.assert_array_equal(batch.obs[2, :2], frames[3:5])


def test_bad_input():
    with pytest.raises(ValueError, match="at least 1"):
        EpisodeStore(0, 1)
    with pytest.raises(ValueError, match="partner_actions"):
        EpisodeStore(1, 1, told=("partner_names",))
    empty = EpisodeStore(2, 1, told=("partner_id",))
    with pytest.raises(RuntimeError, match="begin"):
        empty.add(0, np.array([1]), 0.0, np.zeros(2), False, False)
    empty.begin(0, np.zeros(2, np.float32))
    with pytest.raises(ValueError, match=r"info\['partner_id'\]"):
        empty.add(0, np.array([1]), 0.0, np.zeros(2), True, False, {})
    with pytest.raises(ValueError, match="saved store"):
        EpisodeStore(2, 2, told=("partner_id",)).load_state_dict(empty.state_dict())

"""Prioritised replay against a plain list of priorities."""

import pickle

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from crl.replay import FrameReplayBuffer
from crl.replay.prioritized import PrioritizedFrameReplayBuffer

from .scripts import Story, Teller

ACTION = spaces.Box(-1, 1, (2,), np.float32)


def filled(steps=60, size=40, n_envs=2, seed=0, **kwargs):
    """The buffer, the plain one with the same content, and who told them."""
    story = Story(2, 1, n_envs, size, "repeat", tuple((1 if t % 13 == 12 else 0,) * n_envs for t in range(steps)), seed, True)
    buffers = [
        PrioritizedFrameReplayBuffer(size, story.space, ACTION, "cpu", n_envs=n_envs, n_stack=2, **kwargs),
        FrameReplayBuffer(size, story.space, ACTION, "cpu", n_envs=n_envs, n_stack=2, **_plain(kwargs)),
    ]
    for step in Teller(story).steps():
        for buffer in buffers:
            buffer.add(*step)
    return buffers


def _plain(kwargs):
    return {key: value for key, value in kwargs.items() if not key.startswith("priority")}


@pytest.mark.parametrize("n_steps", [1, 3])
def test_samples_are_those_transitions_and_weights_those_of_the_paper(n_steps):
    buffer, plain = filled(n_steps=n_steps, gamma=0.9, priority_exponent=0.7)
    priorities = np.random.default_rng(1).random(40) * 5
    buffer.update_priorities(np.arange(40), priorities)
    np.random.seed(3)
    samples = buffer.sample_prioritized(16, beta=0.4)
    probabilities = priorities**0.7 / (priorities**0.7).sum()
    weights = (40 * probabilities[samples.items]) ** -0.4
    assert np.allclose(samples.weights.numpy(), weights / weights.max(), rtol=1e-6) and samples.weights.dtype == th.float32
    rows, columns = samples.items // 2, samples.items % 2
    want = plain._get_samples(rows, None, columns)
    for ours, theirs in zip(samples.data, want, strict=True):
        assert (ours is None and theirs is None) or th.equal(ours, theirs)


def test_distribution_and_strata():
    buffer, _ = filled(priority_exponent=0.5)
    priorities = np.random.default_rng(1).random(40) ** 4
    buffer.update_priorities(np.arange(40), priorities)
    np.random.seed(0)
    items = np.concatenate([buffer.sample_prioritized(20, 0.5).items for _ in range(3000)])
    share = np.sqrt(priorities) / np.sqrt(priorities).sum()
    counts = np.bincount(items, minlength=40)
    # strata draw no more unevenly than independent draws would
    assert np.abs(counts - 60_000 * share).max() < 4.5 * np.sqrt(60_000 * share.max())
    one = np.sort(buffer.sample_prioritized(20, 0.5).items)
    edges = np.searchsorted(np.cumsum(share), (np.arange(20) + 0.5) / 20)
    assert np.abs(one - edges).max() <= np.ceil(1 / 20 / share[share > 0].min()), "each share gives one"


def test_new_transitions_have_the_largest_priority_so_far():
    buffer, _ = filled(steps=10)
    assert np.array_equal(buffer.tree.get(np.arange(40)), np.r_[np.ones(20), np.zeros(20)]), "nothing that is not stored"
    buffer.update_priorities(np.array([0, 3]), np.array([9.0, 0.04]))
    story = Story(2, 1, 2, 40, "repeat", ((0, 0),), 7, True)
    for step in Teller(story).steps():
        buffer.add(*step)
    assert buffer.tree.get(np.array([20, 21])).tolist() == [3.0, 3.0]
    assert buffer.tree.get(np.array([0, 3])).tolist() == pytest.approx([3.0, 0.2])
    buffer.reset()
    assert buffer.tree.total == 0 and buffer.largest == 1.0


def test_overwritten_slots_begin_anew():
    buffer, _ = filled(steps=20)
    buffer.update_priorities(np.arange(40), np.zeros(40))
    story = Story(2, 1, 2, 40, "repeat", ((0, 0),), 7, True)
    for step in Teller(story).steps():
        buffer.add(*step)
    np.random.seed(0)
    assert set(buffer.sample_prioritized(50, 1.0).items.tolist()) == {0, 1}, "all the others have priority 0"


def test_pickle_and_checkpoint_go_on_identically():
    buffer, _ = filled()
    buffer.update_priorities(np.arange(40), np.random.default_rng(2).random(40))
    other = PrioritizedFrameReplayBuffer(40, buffer.observation_space, ACTION, "cpu", n_envs=2, n_stack=2)
    live = [buffer.live_range(env) for env in range(2)]
    other.restore(buffer.book_keeping(), [(a, buffer.frames.export(env, a, b)) for env, (a, b) in enumerate(live)])
    for again in (pickle.loads(pickle.dumps(buffer)), other):
        results = []
        for which in (buffer, again):
            np.random.seed(5)
            results.append(which.sample_prioritized(12, 0.6))
        assert np.array_equal(results[0].items, results[1].items) and th.equal(results[0].weights, results[1].weights)
        assert th.equal(results[0].data.observations, results[1].data.observations) and again.largest == buffer.largest


def test_bad_input():
    buffer, _ = filled(steps=3)
    with pytest.raises(ValueError, match=r"beta=1.5: in \[0, 1\]"):
        buffer.sample_prioritized(4, 1.5)
    with pytest.raises(ValueError, match="finite and not negative"):
        buffer.update_priorities(np.array([0]), np.array([np.nan]))
    with pytest.raises(ValueError, match="priority_exponent=2"):
        filled(priority_exponent=2)
    empty = PrioritizedFrameReplayBuffer(40, buffer.observation_space, ACTION, "cpu", n_stack=2)
    with pytest.raises(ValueError, match="nothing is stored yet"):
        empty.sample_prioritized(4, 0.5)

"""Whole episodes out of rollouts, beside a walk step by step."""

import numpy as np
import pytest
import torch as th

from crl.callbacks.rollout_window import Rollout, RolloutWindow


def rollouts(n=3, steps=10, envs=3, memory=True, seed=0):
    """Every observation tells where it is from."""
    rng = np.random.default_rng(seed)
    found = []
    for k in range(n):
        images = np.arange(k * steps, (k + 1) * steps)[:, None] + 100 * np.arange(envs)
        starts = rng.random((steps, envs)) < 0.2
        if k == 0:
            starts[0] = True
        images = np.broadcast_to(images[..., None, None, None], (steps, envs, 1, 2, 2)).astype(np.float32)
        actions, returns = rng.integers(0, 4, (steps, envs, 1)), rng.random((steps, envs)).astype(np.float32)
        vectors = rng.random((steps, envs, 5)).astype(np.float32) if memory else None
        found.append(Rollout(images, actions, starts, rng.random((steps, envs)) < 0.3, returns, vectors))
    return found


def walk(found):
    """Episodes step by step, each a list of (rollout, step) of one environment."""
    episodes = []
    for env in range(found[0].starts.shape[1]):
        current = None
        for rollout in found:
            for step in range(len(rollout.starts)):
                if rollout.starts[step, env]:
                    if current is not None:
                        episodes.append((env, current))
                    current = []
                if current is not None:
                    current.append((rollout, step))
    return episodes


@pytest.mark.parametrize("memory", [True, False])
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_episodes_with_both_ends(size, memory):
    window, given = RolloutWindow(size), rollouts(memory=memory)
    for rollout in given:
        window.add(rollout)
    assert window.full == (size <= 3)
    want = walk(given[-size:])
    found = window.trajectories()
    assert len(found) == len(want) > 0
    for trajectory, (env, steps) in zip(found, want, strict=True):
        for name, values in (
            ("images", trajectory.obs),
            ("actions", trajectory.actions),
            ("unlocked", trajectory.unlocked),
            ("returns", trajectory.returns),
            ("memory", trajectory.memory),
        ):
            if values is None:
                assert name == "memory" and not memory
                continue
            assert np.array_equal(values.numpy(), np.stack([getattr(rollout, name)[step, env] for rollout, step in steps]))


def test_nothing_is_no_episode():
    window = RolloutWindow(2)
    assert window.trajectories() == [] and not window.full
    window.add(rollouts(1)[0])
    window.clear()
    assert window.trajectories() == []


@pytest.mark.parametrize("memory", [True, False])
def test_state(memory):
    window, other = RolloutWindow(3), RolloutWindow(3)
    for rollout in rollouts(memory=memory):
        window.add(rollout)
    other.load_state_dict(window.state_dict())
    for a, b in zip(window.trajectories(), other.trajectories(), strict=True):
        assert th.equal(a.obs, b.obs) and th.equal(a.goal_steps, b.goal_steps) and th.equal(a.returns, b.returns)
        assert (a.memory is None and b.memory is None) or th.equal(a.memory, b.memory)


def test_size():
    with pytest.raises(ValueError, match="at least 1"):
        RolloutWindow(0)

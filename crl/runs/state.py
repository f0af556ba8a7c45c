"""Everything that a run's future depends on besides weights and replay: random streams, environments, counters."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv


def capture_random(model: BaseAlgorithm) -> dict[str, Any]:
    """States of all global streams, and of the action space (random actions of the warm-up)."""
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": np.random.get_state(),  # noqa: NPY002 (SB3 draws from it)
        "torch": th.get_rng_state(),
        "action_space": model.action_space.np_random.bit_generator.state,
    }
    if model.device.type == "cuda":
        state["cuda"] = th.cuda.get_rng_state(model.device)
    return state


def restore_random(model: BaseAlgorithm, state: dict[str, Any]) -> None:
    """
    :param model: whose action space is seeded
    :param state: from :func:`capture_random`
    """
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])  # noqa: NPY002
    th.set_rng_state(state["torch"])
    model.action_space.np_random.bit_generator.state = state["action_space"]
    if "cuda" in state and model.device.type == "cuda":
        th.cuda.set_rng_state(state["cuda"], model.device)


def capture_envs(env: VecEnv) -> list[Any] | None:
    """
    :param env: of the model
    :return: each environment's state, or None when they cannot tell it
    """
    try:
        return list(env.env_method("get_state"))
    except AttributeError:
        return None


def capture_episodes(env: VecEnv) -> list[tuple[int, int]] | None:
    """
    :param env: of the model
    :return: each environment's seed and number of its next episode; None when it does not count them
    """
    try:
        return list(zip(env.get_attr("run_seed"), env.get_attr("episode"), strict=True))
    except AttributeError:
        return None


def restore_envs(model: BaseAlgorithm, states: list[Any] | None, episodes: list[tuple[int, int]] | None = None) -> bool:
    """
    :param model: loaded, with its environment
    :param states: from :func:`capture_envs`
    :param episodes: from :func:`capture_episodes`, for environments without state
    :return: whether the episodes go on where they were. Otherwise those that were under way begin anew; the replay buffer
        notices by itself that the next observation does not continue the last one.
    """
    assert model.env is not None
    if states is None:
        if episodes is not None:
            for index, (seed, episode) in enumerate(episodes):
                model.env.env_method("begin_at", seed, max(0, episode - 1), indices=index)
            model.env._reset_seeds()  # the agent's seed would begin with the first episode again
        model._last_obs = model.env.reset()  # type: ignore[assignment]
        model._last_episode_starts = np.ones((model.env.num_envs,), dtype=bool)
        return False
    for index, state in enumerate(states):
        model.env.env_method("set_state", state, indices=index)
    return True


def check_finite(model: BaseAlgorithm) -> None:
    """
    :param model: whose weights are looked at
    :raises FloatingPointError: when some are no finite numbers
    """
    weights = model.policy.state_dict().items()
    bad = [name for name, value in weights if value.is_floating_point() and not value.isfinite().all()]
    if bad:
        raise FloatingPointError(
            f"training diverged: {len(bad)} of the networks' tensors are not finite, {bad[0]} first; lower the learning rate"
        )


def weights_sha256(model: BaseAlgorithm) -> str:
    """A hash of all of the policy's weights and buffers."""
    import hashlib

    digest = hashlib.sha256()
    for name, tensor in sorted(model.policy.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()

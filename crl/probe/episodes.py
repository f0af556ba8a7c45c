"""Held-out episodes to probe a representation on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm

from crl.callbacks.acting_env import acting_env
from crl.envs import make_env
from crl.envs.subgoals import KEY
from crl.probe.labels import UNKNOWN

#: episodes of the evaluation's stream (never trained on) under a seed that no evaluation uses
PROBE_SEED = 2_000_003
#: observations that are kept of all episodes together
MAX_ROWS = 3000
#: chance at each step that somebody else takes over: the agent, or one random action that is held
_CHANGE = 0.2


class ProbeError(ValueError):
    """A run that cannot be probed; the message says why."""


@dataclass
class ProbeData:
    """
    Rows of all episodes, one after the other.

    :param images: ``(n, channels, height, width)`` uint8
    :param states: ``(n, n_states)`` float64, ``info["state"]``; no columns where the environment does not tell
    :param names: of the states
    :param episodes: ``(n,)``, from 0 on
    :param times: ``(n,)`` steps since the episode began
    :param labels: discrete variables of ``info["labels"]``, ``(n,)`` each; where the environment reports sub-goals
        (:mod:`crl.envs.subgoals`), also ``next_subgoal``: the number of the one that the episode comes to next, in hindsight,
        :data:`crl.probe.labels.UNKNOWN` where it came to none any more
    """

    images: th.Tensor
    states: np.ndarray
    names: list[str]
    episodes: np.ndarray
    times: np.ndarray
    labels: dict[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.episodes)


def collect(
    model: BaseAlgorithm,
    config: dict[str, Any],
    episodes: int,
    seed: int = 0,
    max_rows: int = MAX_ROWS,
    advance: Callable[[], None] = lambda: None,
) -> ProbeData:
    """
    Episodes in which the agent and random actions take turns, so that both what the agent usually sees and what it does not
    occur. Of long episodes, evenly spaced steps are kept.

    :param model: the agent; it acts deterministically
    :param config: of the run; ``env`` is read
    :param episodes: how many
    :param seed: of episodes and actions; equal ones give equal episodes if the agent is the same
    :param max_rows: kept of all episodes together
    :param advance: called after each episode
    :raises ProbeError: when episodes end at their first step
    """
    env_id = config["env"]["id"]
    env = acting_env(model, make_env(env_id, seed=PROBE_SEED + seed, evaluation=True, **config["env"]["kwargs"]))
    env.action_space.seed(seed)
    rng = np.random.default_rng(np.random.SeedSequence((PROBE_SEED, seed)))
    parts: list[dict[str, list[Any]]] = []
    try:
        for _ in range(episodes):
            parts.append(_thin(_episode(model, env, rng), max(2, max_rows // episodes)))
            advance()
        given = getattr(env.unwrapped, "STATE", ())
    finally:
        env.close()
    lengths = [len(part["images"]) for part in parts]
    if min(lengths) < 2:
        raise ProbeError(f"{env_id} has episodes of a single step: nothing to tell apart within an episode")

    def joined(name: str) -> list[Any]:
        return [value for part in parts for value in part[name]]

    states = np.array(joined("states"), dtype=np.float64).reshape(sum(lengths), -1)
    names = list(given) if len(given) == states.shape[1] else [f"state_{i}" for i in range(states.shape[1])]
    labels = joined("labels")
    return ProbeData(
        th.as_tensor(np.array(joined("images"))),
        states,
        names,
        np.repeat(np.arange(episodes), lengths),
        np.array(joined("times")),
        {name: np.array([row[name] for row in labels], dtype=np.int64) for name in labels[0]},
    )


def _episode(model: BaseAlgorithm, env: Any, rng: np.random.Generator) -> dict[str, list[Any]]:
    """Observation, state and labels of each step but the reset's, whose stack repeats one frame."""
    rows: dict[str, list[Any]] = {"images": [], "states": [], "labels": [], "times": []}
    unlocked: list[np.ndarray | None] = []
    obs, _ = env.reset()
    over, step, held = False, 0, None
    while not over:
        if step == 0 or rng.random() < _CHANGE:
            held = env.action_space.sample() if rng.random() < 0.5 else None
        action = model.predict(obs, deterministic=True)[0] if held is None else held
        obs, _, terminated, truncated, info = env.step(action)
        step, over = step + 1, terminated or truncated
        rows["images"].append(_image(obs))
        rows["states"].append(np.asarray(info.get("state", ()), dtype=np.float64).ravel())
        rows["labels"].append(dict(info.get("labels", {})))
        rows["times"].append(step)
        unlocked.append(info.get(KEY))
    if unlocked[0] is not None:
        for labels, ahead in zip(rows["labels"], _next_subgoals(unlocked), strict=True):
            labels["next_subgoal"] = ahead
    return rows


def _next_subgoals(unlocked: Sequence[Any]) -> list[int]:
    """For each step of an episode, the sub-goal that is unlocked first after it."""
    ahead, found = UNKNOWN, []
    for now in reversed(unlocked):
        found.append(ahead)
        if np.any(now):
            ahead = int(np.flatnonzero(now)[0])
    return found[::-1]


def _image(obs: Any) -> np.ndarray:
    """The image of a Dict observation, or the observation."""
    return np.asarray(next(part for part in obs.values() if part.ndim == 3) if isinstance(obs, dict) else obs)


def _thin(rows: dict[str, list[Any]], keep: int) -> dict[str, list[Any]]:
    n = len(rows["times"])
    if n <= keep:
        return rows
    chosen = np.linspace(0, n - 1, keep).round().astype(int)
    return {name: [values[i] for i in chosen] for name, values in rows.items()}


def image_box(space: spaces.Space) -> spaces.Box:
    """The image space, alone or within a Dict."""
    inner = space.spaces.values() if isinstance(space, spaces.Dict) else [space]
    return next(box for box in inner if isinstance(box, spaces.Box) and len(box.shape) == 3)

"""The last rollouts of an on-policy algorithm, and the whole episodes with sub-goals that lie within them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch as th

from crl.objectives.goal_trajectory import GoalTrajectory


@dataclass
class Rollout:
    """
    T steps of n_envs environments, as collected.

    :param images: ``(T, n_envs, channels, height, width)``
    :param actions: ``(T, n_envs, action_dim)``
    :param starts: ``(T, n_envs)`` bool, the observation is the first one of an episode
    :param unlocked: ``(T, n_envs)`` bool, the step reached a sub-goal
    :param returns: ``(T, n_envs)`` float32, what the value function is trained towards
    :param memory: ``(T, n_envs, width)`` float32, None without
    """

    images: np.ndarray
    actions: np.ndarray
    starts: np.ndarray
    unlocked: np.ndarray
    returns: np.ndarray
    memory: np.ndarray | None


class RolloutWindow:
    """
    Rollouts since the last auxiliary phase. Arrays are kept as they come: whoever hands them over must not change them.

    :param size: rollouts in a full window
    :raises ValueError: for less than one
    """

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ValueError(f"RolloutWindow(size={size}): at least 1 rollout")
        self.size = size
        self.rollouts: list[Rollout] = []

    @property
    def full(self) -> bool:
        """Whether there are ``size`` rollouts."""
        return len(self.rollouts) >= self.size

    def add(self, rollout: Rollout) -> None:
        """
        :param rollout: the one that follows the last one
        """
        self.rollouts.append(rollout)
        del self.rollouts[: -self.size]

    def clear(self) -> None:
        """Forget everything."""
        self.rollouts.clear()

    def trajectories(self) -> list[GoalTrajectory]:
        """
        Episodes whose reset and end are both within the window, by environment and time. One that goes on at the end of the
        window, or had begun before it, is left out.
        """
        if not self.rollouts:
            return []
        offsets = np.cumsum([0, *(len(rollout.starts) for rollout in self.rollouts)])
        starts = np.concatenate([rollout.starts for rollout in self.rollouts])
        found = []
        for env in range(starts.shape[1]):
            cuts = np.flatnonzero(starts[:, env])
            found += [self._cut(offsets, env, begin, end) for begin, end in pairwise(cuts.tolist())]
        return found

    def _cut(self, offsets: np.ndarray, env: int, begin: int, end: int) -> GoalTrajectory:
        def part(name: str) -> th.Tensor | None:
            pieces = []
            for rollout, offset in zip(self.rollouts, offsets[:-1], strict=True):
                values = getattr(rollout, name)
                if values is None:
                    return None
                low, high = max(0, begin - offset), min(len(values), end - offset)
                if low < high:
                    pieces.append(values[low:high, env])
            return th.as_tensor(pieces[0] if len(pieces) == 1 else np.concatenate(pieces))

        images, actions, unlocked, returns, memory = map(part, ("images", "actions", "unlocked", "returns", "memory"))
        assert images is not None and actions is not None and unlocked is not None and returns is not None
        return GoalTrajectory(images, actions, unlocked, returns, memory)

    def state_dict(self) -> list[dict[str, th.Tensor | None]]:
        """Everything, as tensors."""
        return [
            {name: None if values is None else th.as_tensor(values) for name, values in vars(rollout).items()}
            for rollout in self.rollouts
        ]

    def load_state_dict(self, state: list[dict[str, th.Tensor | None]]) -> None:
        """
        :param state: from :meth:`state_dict`
        """
        self.rollouts = [
            Rollout(**{name: None if values is None else values.numpy() for name, values in rollout.items()})  # type: ignore[arg-type]
            for rollout in state
        ]

"""One whole episode with the sub-goals that were reached in it, and which of them each step leads to."""

from __future__ import annotations

from dataclasses import dataclass

import torch as th


@dataclass
class GoalTrajectory:
    """
    An episode of T steps, from a reset to its end. The observation that the last step led to is not among them: a sub-goal
    that was reached with the last step has no frame after it and is none here.

    :param obs: ``(T, channels, height, width)``, values 0..255
    :param actions: ``(T, action_dim)``, as in :class:`crl.contract.SequenceBatch`
    :param unlocked: ``(T,)`` bool, step t reached a sub-goal (or several: they count as one)
    :param returns: ``(T,)`` float32, what the value function was trained towards
    :param memory: ``(T, width)`` float32, the policy's memory input at each step; None for policies without
    :raises ValueError: when lengths differ
    """

    obs: th.Tensor
    actions: th.Tensor
    unlocked: th.Tensor
    returns: th.Tensor
    memory: th.Tensor | None = None

    def __post_init__(self) -> None:
        parts = [self.obs, self.actions, self.unlocked, self.returns, *([] if self.memory is None else [self.memory])]
        lengths = [len(part) for part in parts]
        if len(set(lengths)) > 1 or not lengths[0]:
            raise ValueError(f"a trajectory's parts must have one length, at least 1; they have {lengths}")
        #: ``(m,)`` int64, steps that reached a sub-goal, in order: ``obs[u]`` is the frame before, ``obs[u + 1]`` that after
        self.goal_steps = self.unlocked[:-1].nonzero().flatten()

    def __len__(self) -> int:
        return len(self.obs)

    @property
    def n_goals(self) -> int:
        """m, the number of sub-goals."""
        return len(self.goal_steps)

    def next_goals(self, steps: th.Tensor) -> th.Tensor:
        """
        :param steps: ``(n,)`` int64
        :return: ``(n,)`` int64, the goal that each step leads to: the first one that is reached with it or later; m where
            none is left
        """
        return th.searchsorted(self.goal_steps, steps)

"""Prioritised replay (Schaul et al. 2016, arXiv:1511.05952) on frames that are stored once."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.type_aliases import DictReplayBufferSamples, ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize

from crl.replay.frame_replay import FrameReplayBuffer
from crl.replay.sum_tree import SumTree


class PrioritizedSamples(NamedTuple):
    """
    SB3's samples, and:

    :param weights: ``(batch,)`` float32 importance weights in (0, 1], on the device
    :param items: ``(batch,)`` int64, to hand back to :meth:`PrioritizedFrameReplayBuffer.update_priorities`
    """

    data: ReplayBufferSamples | DictReplayBufferSamples
    weights: th.Tensor
    items: np.ndarray


class PrioritizedFrameReplayBuffer(FrameReplayBuffer):
    """
    Draws transitions in proportion to ``priority ** exponent``; a new one has the largest priority so far, so that each is
    seen soon. :meth:`sample` is the uniform one of the base class; agents that learn from priorities call
    :meth:`sample_prioritized`.

    :param args: see :class:`FrameReplayBuffer`
    :param priority_exponent: 0 draws uniformly; 0.5 in Rainbow (omega)
    :param priority_floor: added to each priority, so that none is 0 for ever
    :param kwargs: see :class:`FrameReplayBuffer`
    """

    def __init__(self, *args: Any, priority_exponent: float = 0.5, priority_floor: float = 0.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not 0.0 <= priority_exponent <= 1.0 or not priority_floor >= 0.0:
            raise ValueError(
                f"priority_exponent={priority_exponent}, priority_floor={priority_floor}: the first lies in [0, 1], the "
                "second is not negative"
            )
        self.priority_exponent = priority_exponent
        self.priority_floor = priority_floor
        self._forget_priorities()

    def _forget_priorities(self) -> None:
        self.tree = SumTree(self.buffer_size * self.n_envs)
        #: largest priority so far, after the exponent
        self.largest = 1.0

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self._forget_priorities()

    def add(self, *args: Any, **kwargs: Any) -> None:
        """See :meth:`FrameReplayBuffer.add`."""
        pos = self.pos
        super().add(*args, **kwargs)
        items = pos * self.n_envs + np.arange(self.n_envs)
        self.tree.set(items, np.full(self.n_envs, self.largest))

    def sample_prioritized(self, batch_size: int, beta: float, env: VecNormalize | None = None) -> PrioritizedSamples:
        """
        One transition out of each of ``batch_size`` equal shares of all priorities.

        :param batch_size: transitions
        :param beta: how far weights undo the preference: ``(size * probability) ** -beta``, the largest of a batch scaled to 1
        :param env: see :meth:`FrameReplayBuffer.sample`
        :raises ValueError: when nothing is stored yet, or for a beta outside [0, 1]
        """
        if not 0.0 <= beta <= 1.0:
            raise ValueError(f"beta={beta}: in [0, 1]")
        if self.tree.total <= 0:
            raise ValueError("nothing is stored yet: add transitions before sampling")
        shares = (np.arange(batch_size) + np.random.random_sample(batch_size)) / batch_size  # noqa: NPY002
        items = self.tree.find(shares * self.tree.total)
        probabilities = self.tree.get(items) / self.tree.total
        weights = (self.size() * self.n_envs * probabilities) ** -beta
        inds, env_inds = np.divmod(items, self.n_envs)
        data = self._get_samples(inds, env, env_inds)
        return PrioritizedSamples(data, self.to_torch((weights / weights.max()).astype(np.float32)), items)

    def update_priorities(self, items: np.ndarray, priorities: np.ndarray) -> None:
        """
        :param items: of a batch
        :param priorities: ``(batch,)`` not negative, before the exponent: losses or absolute errors
        :raises ValueError: when one is NaN, infinite or negative
        """
        powers = (np.asarray(priorities, dtype=np.float64) + self.priority_floor) ** self.priority_exponent
        self.tree.set(items, powers)
        self.largest = max(self.largest, float(powers.max(initial=0.0)))

    def book_keeping(self) -> dict[str, Any]:
        """See :meth:`FrameReplayBuffer.book_keeping`."""
        priorities = self.tree.get(np.arange(self.tree.size))
        return {**super().book_keeping(), "priorities": priorities, "largest": self.largest}

    def restore(self, book_keeping: dict[str, Any], frames: list[tuple[int, np.ndarray]]) -> None:
        """See :meth:`FrameReplayBuffer.restore`."""
        state = dict(book_keeping)
        priorities = state.pop("priorities")
        super().restore(state, frames)
        self.tree = SumTree(self.buffer_size * self.n_envs)
        self.tree.set(np.arange(self.tree.size), priorities)

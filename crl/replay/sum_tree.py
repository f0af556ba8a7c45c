"""A binary tree of sums: draws in proportion to priorities, many at a time."""

from __future__ import annotations

import numpy as np


class SumTree:
    """
    Priorities of ``size`` items, and the sums of them that a draw needs. All operations take arrays and cost
    ``O(items * log(size))`` in a few dozen calls of numpy.

    :param size: items; all have priority 0 at first
    """

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ValueError(f"SumTree(size={size}): at least 1")
        self.size = size
        self.depth = max(1, (size - 1).bit_length())
        # level by level, the root at 1; float64, as sums of many small numbers are taken
        self._sums = np.zeros(2 ** (self.depth + 1), dtype=np.float64)
        self._first = 2**self.depth

    @property
    def total(self) -> float:
        """Of all priorities."""
        return float(self._sums[1])

    def get(self, items: np.ndarray) -> np.ndarray:
        """Priorities of items, ``(n,)`` float64."""
        return self._sums[items + self._first]

    def set(self, items: np.ndarray, priorities: np.ndarray) -> None:
        """
        :param items: ``(n,)`` int, in 0..size-1; of one that occurs twice, the last priority counts
        :param priorities: ``(n,)``, finite and not negative
        :raises ValueError: for other priorities: a single NaN would spoil every sum above it
        """
        priorities = np.asarray(priorities, dtype=np.float64)
        if not (np.isfinite(priorities).all() and (priorities >= 0).all()):
            raise ValueError("priorities must be finite and not negative; has the loss diverged?")
        nodes = np.asarray(items, dtype=np.int64) + self._first
        self._sums[nodes] = priorities
        for _ in range(self.depth):
            # sums of children, not differences added: rounding never builds up
            nodes = np.unique(nodes >> 1)
            self._sums[nodes] = self._sums[2 * nodes] + self._sums[2 * nodes + 1]

    def find(self, values: np.ndarray) -> np.ndarray:
        """
        :param values: ``(n,)`` in [0, total)
        :return: ``(n,)`` int64: for each the item in whose share of the running sum it falls; never one of priority 0
        """
        nodes = np.ones(len(values), dtype=np.int64)
        left_over = np.array(values, dtype=np.float64)
        for _ in range(self.depth):
            nodes *= 2
            left, right = self._sums[nodes], self._sums[nodes + 1]
            # rounding may leave a value at the very end of its share: a branch without priority is never taken
            go_right = ((left_over >= left) & (right > 0)) | (left == 0)
            left_over -= np.where(go_right, left, 0.0)
            nodes += go_right
        return nodes - self._first

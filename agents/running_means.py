"""Means of metrics that stay on the device until they are asked for."""

from __future__ import annotations

import math

import torch as th


class RunningMeans:
    """Sums scalars without waiting for the device (``.item()`` at every update would)."""

    def __init__(self) -> None:
        self._sums: dict[str, th.Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, metrics: dict[str, th.Tensor]) -> None:
        """
        :param metrics: 0-dim tensors, with or without a graph
        """
        for key, value in metrics.items():
            value = value.detach().float()
            self._sums[key] = self._sums[key] + value if key in self._sums else value
            self._counts[key] = self._counts.get(key, 0) + 1

    def flush(self) -> dict[str, float]:
        """
        :return: means since the last call
        :raises FloatingPointError: when one of them is no finite number
        """
        means = {key: (total / self._counts[key]).item() for key, total in self._sums.items()}
        self._sums, self._counts = {}, {}
        bad = {key: value for key, value in means.items() if not math.isfinite(value)}
        if bad:
            raise FloatingPointError(
                f"training diverged: {', '.join(f'{key} is {value}' for key, value in bad.items())}; lower the learning rate"
            )
        return means

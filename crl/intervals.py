"""Intervals of shares and means of independent episodes. Numpy alone."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

#: of the standard normal distribution, for 95 %
_Z = 1.959964
_RESAMPLES = 2000


class Estimate(NamedTuple):
    """
    :param value: estimate
    :param low: of its 95 % interval
    :param high: likewise
    """

    value: float
    low: float
    high: float


def share(hits: np.ndarray) -> Estimate:
    """
    Wilson's interval, which is right for few episodes and near 0 and 1, too.

    :param hits: ``(n,)`` bool, at least one
    """
    n, p = len(hits), float(np.mean(hits))
    centre = (p + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z * math.sqrt(p * (1 - p) / n + _Z**2 / (4 * n**2)) / (1 + _Z**2 / n)
    return Estimate(p, max(0.0, centre - half), min(1.0, centre + half))


def mean(values: np.ndarray, rng: np.random.Generator) -> Estimate:
    """
    Percentile bootstrap; of differences of the same episodes, it is paired.

    :param values: ``(n,)``, at least one
    :param rng: of the resamples
    """
    values = np.asarray(values, dtype=np.float64)
    resampled = values[rng.integers(len(values), size=(_RESAMPLES, len(values)))].mean(1)
    low, high = np.quantile(resampled, (0.025, 0.975))
    return Estimate(float(values.mean()), float(low), float(high))


def mean_of_draws(values: np.ndarray, rng: np.random.Generator) -> Estimate:
    """
    Percentile bootstrap of a mean over episodes and over draws of something that all episodes are measured with, such as
    random encoders: both are drawn anew, so that the interval holds what either could have been.

    :param values: ``(draws, n)``, at least one of each; of a single draw, what :func:`mean` says of it
    :param rng: of the resamples
    """
    values = np.asarray(values, dtype=np.float64)
    draws, n = values.shape
    if draws == 1:
        return mean(values[0], rng)
    resampled = [values[rng.integers(draws, size=draws)].mean(0)[rng.integers(n, size=n)].mean() for _ in range(_RESAMPLES)]
    low, high = np.quantile(resampled, (0.025, 0.975))
    return Estimate(float(values.mean()), float(low), float(high))

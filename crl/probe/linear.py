"""Linear (ridge) probes of a true state, split by episodes. Numpy alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

#: of the mean variance of a feature; the best on the choosing episodes is taken
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
#: where there are more features than rows, little data may call for more
WIDE_PENALTIES = (*PENALTIES, 1e1, 1e2, 1e3)
#: fewer cannot be split
MIN_EPISODES = 4
#: features that are turned to float64 at a time, where there are too many to do so at once
_CHUNK = 4096


class EpisodeSplit(NamedTuple):
    """
    Which rows serve what. Each episode is in one part alone: two steps of one episode look so much alike that a probe which
    has seen the one knows the other.

    :param fit: ``(n,)`` bool, half of the episodes: weights
    :param choose: ``(n,)`` bool, a quarter: the penalty
    :param test: ``(n,)`` bool, the last quarter: what is reported
    """

    fit: np.ndarray
    choose: np.ndarray
    test: np.ndarray

    @property
    def train(self) -> np.ndarray:
        """``(n,)`` bool, rows that the final probe is fitted to."""
        return self.fit | self.choose


def split_episodes(episodes: np.ndarray) -> EpisodeSplit:
    """
    :param episodes: ``(n,)`` numbers of the episodes, in the order in which they are dealt out
    :raises ValueError: for fewer than four episodes
    """
    numbers = np.unique(episodes)
    if len(numbers) < MIN_EPISODES:
        raise ValueError(f"{len(numbers)} episodes: a probe needs at least {MIN_EPISODES}, to fit, to choose and to test on")
    quarter = len(numbers) // 4
    rank = np.searchsorted(numbers, episodes)
    fit, test = rank < 2 * quarter, rank >= 3 * quarter
    return EpisodeSplit(fit, ~fit & ~test, test)


def ridge_r2(features: np.ndarray, states: np.ndarray, episodes: np.ndarray) -> np.ndarray:
    """
    R^2 of each state on the test episodes, read off the features by ridge regression. The penalty is relative to the
    features' mean variance, so that their scale does not matter, and the one with the best mean R^2 on the choosing episodes
    is taken; weights are then fitted anew to both other parts.

    :param features: ``(n, width)``, finite
    :param states: ``(n, n_states)`` float64; each must vary within each part
    :param episodes: ``(n,)`` numbers of the episodes
    :return: ``(n_states,)``: 1 is perfect, 0 is no better than the mean, and below 0 worse than that
    :raises ValueError: for fewer than four episodes, or a state that does not vary
    """
    split = split_episodes(episodes)
    if not np.asarray(varying(states, split)).all():
        raise ValueError(f"states {np.flatnonzero(~varying(states, split)).tolist()} do not vary: leave them out")
    wide = features.shape[1] > int(split.fit.sum())
    solver: Callable[..., np.ndarray] = _Dual(features) if wide else _primal

    def r2(fit: np.ndarray, rows: np.ndarray, penalty: float) -> np.ndarray:
        error = ((states[rows] - solver(features, states, fit, rows, penalty)) ** 2).sum(0)
        return np.asarray(1.0 - error / ((states[rows] - states[rows].mean(0)) ** 2).sum(0))

    best = max(WIDE_PENALTIES if wide else PENALTIES, key=lambda penalty: r2(split.fit, split.choose, penalty).mean())
    return r2(split.train, split.test, best)


def varying(states: np.ndarray, split: EpisodeSplit) -> np.ndarray:
    """
    :param states: ``(n, n_states)``
    :param split: of the rows
    :return: ``(n_states,)`` bool, which are not constant within any part; R^2 of others means nothing
    """
    parts = [states[rows] for rows in split]
    return np.logical_and.reduce([part.std(0) > 1e-6 * (1e-6 + np.abs(part).max(0)) for part in parts])


def _primal(features: np.ndarray, states: np.ndarray, fit: np.ndarray, rows: np.ndarray, penalty: float) -> np.ndarray:
    """Predictions for some rows, from weights fitted to others; solves for one weight a feature."""
    chosen = np.asarray(features[fit], dtype=np.float64)
    mean, target = chosen.mean(0), states[fit].mean(0)
    x = chosen - mean
    scale = penalty * x.var(0).sum() / x.shape[1] * len(x)  # relative to the features' size
    weights = np.linalg.solve(x.T @ x + (scale + 1e-9) * np.eye(x.shape[1]), x.T @ (states[fit] - target))
    return np.asarray((np.asarray(features[rows], dtype=np.float64) - mean) @ weights + target)


class _Dual:
    """
    The same solution by one unknown a row, for more features than rows (a conv map at 84x84 has 39200).

    :param features: ``(n, width)``
    """

    def __init__(self, features: np.ndarray) -> None:
        self._width = features.shape[1]
        self._gram = np.zeros((len(features), len(features)))
        for start in range(0, self._width, _CHUNK):
            # any shift will do, rows are centred below; this one keeps digits
            part = np.asarray(features[:, start : start + _CHUNK], dtype=np.float64)
            part = part - part.mean(0)
            self._gram += part @ part.T

    def __call__(
        self, features: np.ndarray, states: np.ndarray, fit: np.ndarray, rows: np.ndarray, penalty: float
    ) -> np.ndarray:
        target = states[fit].mean(0)
        own, cross = self._gram[np.ix_(fit, fit)], self._gram[np.ix_(rows, fit)]
        # as if the mean of the fitted rows had been taken off all features
        mean, total = own.mean(0), own.mean()
        own = own - mean - mean[:, None] + total
        cross = cross - mean - cross.mean(1, keepdims=True) + total
        scale = penalty * np.trace(own) / self._width
        return np.asarray(cross @ np.linalg.solve(own + (scale + 1e-9) * np.eye(len(own)), states[fit] - target) + target)

"""
Statistics of a grid of runs, by rliable (Agarwal et al. 2021, arXiv:2108.13264): point estimates with 95 % intervals from a
stratified bootstrap, that is, runs are drawn anew within each task.

Scores come as ``{agent: (runs, tasks)}``, one row a seed, normalised so that 0 and 1 mean the same on every task
(:func:`normalise`). Every function here wants whole rows: :func:`complete_runs` leaves incomplete ones out and says which.
Below :data:`MIN_RUNS` runs a bootstrap says little more than that the runs are few: points are given, and no intervals.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

#: fewer runs than these get no interval
MIN_RUNS = 5
#: bootstrap samples: 50 of them lie beyond each end of an interval
REPS = 2000
#: what :func:`aggregates` gives, in the order of tables
METRICS = ("IQM", "median", "mean", "optimality gap")

Scores = Mapping[str, np.ndarray]


class StatisticsError(ValueError):
    """Scores that these statistics are not defined for; the message says what to do."""


class Estimate(NamedTuple):
    """
    :param point: of all runs
    :param low: lower end of the 95 % interval; None below :data:`MIN_RUNS` runs
    :param high: upper end
    :param runs: how many
    """

    point: float
    low: float | None
    high: float | None
    runs: int


class CurveEstimate(NamedTuple):
    """
    :param x: where, ``(points,)``
    :param point: of all runs, ``(points,)``
    :param low: lower end of the 95 % interval at each point; None below :data:`MIN_RUNS` runs
    :param high: upper end
    :param runs: how many
    """

    x: np.ndarray
    point: np.ndarray
    low: np.ndarray | None
    high: np.ndarray | None
    runs: int


def normalise(returns: np.ndarray, low: Sequence[float], high: Sequence[float]) -> np.ndarray:
    """
    :param returns: ``(runs, tasks)`` or ``(runs, tasks, steps)``
    :param low: return of each task that becomes 0, ``(tasks,)``
    :param high: return of each task that becomes 1, ``(tasks,)``
    :raises StatisticsError: unless every high is above its low
    """
    bottom, top = np.asarray(low, float), np.asarray(high, float)
    if returns.ndim < 2 or bottom.shape != top.shape or bottom.shape != returns.shape[1:2]:
        raise StatisticsError(
            f"returns {returns.shape}, low {bottom.shape}, high {top.shape}: returns are (runs, tasks, ...), and each task "
            "has a low and a high"
        )
    if not (top > bottom).all():
        raise StatisticsError(f"high {list(high)} must be above low {list(low)} on every task")
    extra = (1,) * (returns.ndim - 2)
    return (returns - bottom.reshape(-1, *extra)) / (top - bottom).reshape(-1, *extra)


def complete_runs(
    scores: Scores, tasks: Sequence[str], seeds: Mapping[str, Sequence[int]]
) -> tuple[dict[str, np.ndarray], list[str]]:
    """
    The rows of which no task is missing. What is left out is said in words, never filled in.

    :param scores: ``{agent: (runs, tasks)}`` or ``{agent: (runs, tasks, steps)}``, NaN where there is none
    :param tasks: their names
    :param seeds: of each agent's rows
    :return: agents that have whole rows, with those; and a sentence for each agent of which something is left out
    """
    whole, words = {}, []
    for agent, values in scores.items():
        missing = np.asarray(np.isnan(values).reshape(*values.shape[:2], -1).any(axis=2))
        left = [str(seed) for seed, row in zip(seeds[agent], missing, strict=True) if row.any()]
        if 0 < len(left) < len(values):
            lacking = [task for task, column in zip(tasks, missing.T, strict=True) if column.any()]
            shown = ", ".join(lacking[:3]) + (f" and {len(lacking) - 3} more" if len(lacking) > 3 else "")
            words.append(f"{agent}: seed {', '.join(left)} left out of the aggregates, for want of a final return on {shown}")
        kept = values[~missing.any(axis=1)]
        if len(kept):
            whole[agent] = kept
        else:
            words.append(f"{agent} is in no aggregate: no seed of it has a return on every task")
    return whole, words


def iqm(scores: np.ndarray, keep: int = 0) -> np.ndarray:
    """
    Interquartile mean: of what is left without the lowest and the highest quarter.

    :param scores: ``(runs, tasks, ...)``
    :param keep: trailing axes that are kept apart
    :return: of the kept axes' shape
    """
    shape = scores.shape[scores.ndim - keep :]
    pooled = np.sort(scores.reshape(-1, *shape), axis=0)
    cut = int(0.25 * len(pooled))
    middle: np.ndarray = pooled[cut : len(pooled) - cut].mean(axis=0)
    return middle


def aggregates(scores: Scores, reps: int = REPS, seed: int = 0) -> dict[str, dict[str, Estimate]]:
    """
    IQM over all runs and tasks; median and mean over tasks of the tasks' means; optimality gap, the mean shortfall from 1.

    :param scores: ``{agent: (runs, tasks)}``, normalised, whole
    :param reps: bootstrap samples
    :param seed: of the bootstrap
    :return: by agent, by name of :data:`METRICS`
    :raises StatisticsError: for missing scores
    """
    from rliable import metrics

    def all_four(values: np.ndarray) -> np.ndarray:
        means = values.mean(axis=0)
        return np.array([iqm(values), np.median(means), means.mean(), metrics.aggregate_optimality_gap(values)])

    result = {}
    for agent, values in _checked(scores).items():
        points, low, high = _bootstrap(values, all_four, reps, seed)
        result[agent] = {
            name: Estimate(
                float(points[i]), None if low is None else float(low[i]), None if high is None else float(high[i]), len(values)
            )
            for i, name in enumerate(METRICS)
        }
    return result


def profiles(scores: Scores, thresholds: np.ndarray, reps: int = REPS, seed: int = 0) -> dict[str, CurveEstimate]:
    """
    Performance profiles: which share of all runs scores above each threshold.

    :param scores: ``{agent: (runs, tasks)}``, normalised, whole
    :param thresholds: ``(points,)``
    :param reps: bootstrap samples
    :param seed: of the bootstrap
    :raises StatisticsError: for missing scores
    """

    def shares(values: np.ndarray) -> np.ndarray:
        above: np.ndarray = (values.reshape(-1, 1) > thresholds).mean(axis=0)
        return above

    return {
        agent: CurveEstimate(thresholds, *_bootstrap(values, shares, reps, seed), len(values))
        for agent, values in _checked(scores).items()
    }


def improvement_share(first: np.ndarray, second: np.ndarray) -> float:
    """
    How likely a run of the first is above one of the second on the same task, ties counted half, mean over tasks.

    :param first: ``(runs, tasks)``
    :param second: ``(other runs, tasks)``
    """
    above = first[:, None] > second[None]
    tied = first[:, None] == second[None]
    return float((above + 0.5 * tied).mean())


def improvements(scores: Scores, reps: int = REPS, seed: int = 0) -> dict[tuple[str, str], Estimate]:
    """
    Probability of improvement of each agent over each later one (the other way round it is 1 minus that).

    :param scores: ``{agent: (runs, tasks)}``, whole
    :param reps: bootstrap samples
    :param seed: of the bootstrap
    :return: by pair; no interval unless both have :data:`MIN_RUNS` runs
    :raises StatisticsError: for missing scores
    """
    from rliable.library import get_interval_estimates

    def share(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return np.array([improvement_share(first, second)])

    result = {}
    for (one, first), (other, second) in itertools.combinations(_checked(scores).items(), 2):
        low, high, runs = None, None, min(len(first), len(second))
        if runs >= MIN_RUNS:
            with _seeded(seed):
                _, ends = get_interval_estimates({"": [first, second]}, share, reps=reps)
            low, high = float(ends[""][0, 0]), float(ends[""][1, 0])
        result[one, other] = Estimate(improvement_share(first, second), low, high, runs)
    return result


def differences(finals: Scores, reps: int = REPS, seed: int = 0) -> dict[tuple[str, str], Estimate]:
    """
    Of one task: how much more the runs of each agent return, on average, than those of each later one.

    :param finals: ``{agent: (runs,)}``
    :param reps: bootstrap samples, of both agents' runs
    :param seed: of the bootstrap
    :return: by pair; no interval unless both have :data:`MIN_RUNS` runs
    :raises StatisticsError: for missing values
    """
    from rliable.library import get_interval_estimates

    def difference(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return np.array([first.mean() - second.mean()])

    result = {}
    checked = _checked({agent: np.asarray(values, float)[:, None] for agent, values in finals.items()})
    for (one, first), (other, second) in itertools.combinations(checked.items(), 2):
        low, high, runs = None, None, min(len(first), len(second))
        if runs >= MIN_RUNS:
            with _seeded(seed):
                _, found = get_interval_estimates({"": [first, second]}, difference, reps=reps)
            low, high = float(found[""][0, 0]), float(found[""][1, 0])
        result[one, other] = Estimate(float(difference(first, second)[0]), low, high, runs)
    return result


def efficiency(curves: Scores, steps: np.ndarray, reps: int = REPS, seed: int = 0) -> dict[str, CurveEstimate]:
    """
    Sample-efficiency curves: the IQM at each evaluation.

    :param curves: ``{agent: (runs, tasks, steps)}``, normalised, whole
    :param steps: environment steps, ``(steps,)``
    :param reps: bootstrap samples, drawn for each evaluation: bands hold point by point
    :param seed: of the bootstrap
    :raises StatisticsError: for missing scores
    """
    return {
        agent: CurveEstimate(steps, *_bootstrap(values, lambda part: iqm(part, keep=1), reps, seed), len(values))
        for agent, values in _checked(curves).items()
    }


def areas(curves: Scores, steps: np.ndarray) -> dict[str, np.ndarray]:
    """
    Area under each run's normalised curve, divided by its length: the mean score from the first evaluation to the last.

    :param curves: ``{agent: (runs, tasks, steps)}``, normalised
    :param steps: environment steps, rising, at least two
    :return: ``{agent: (runs, tasks)}``: pass them to :func:`aggregates`
    :raises StatisticsError: for fewer than two steps, or steps that do not rise
    """
    if len(steps) < 2 or not (np.diff(steps) > 0).all():
        raise StatisticsError(f"an area needs two or more evaluations in rising order, not {list(steps)}")
    return {agent: np.trapezoid(values, steps, axis=-1) / (steps[-1] - steps[0]) for agent, values in curves.items()}


def mean_over_runs(values: np.ndarray, reps: int = REPS, seed: int = 0) -> Estimate:
    """
    Of one task.

    :param values: ``(runs,)``
    :param reps: bootstrap samples
    :param seed: of the bootstrap
    :raises StatisticsError: for missing values
    """
    curve = mean_curve(values[:, None], np.zeros(1), reps, seed)
    low = None if curve.low is None else float(curve.low[0])
    return Estimate(float(curve.point[0]), low, None if curve.high is None else float(curve.high[0]), curve.runs)


def mean_curve(values: np.ndarray, x: np.ndarray, reps: int = REPS, seed: int = 0) -> CurveEstimate:
    """
    Of one task, with an interval at each point.

    :param values: ``(runs, points)``
    :param x: ``(points,)``
    :param reps: bootstrap samples, drawn for each point: bands hold point by point
    :param seed: of the bootstrap
    :raises StatisticsError: for missing values
    """
    values = _checked({"the task": values[:, None]})["the task"]
    return CurveEstimate(x, *_bootstrap(values, lambda part: part.mean(axis=(0, 1)), reps, seed), len(values))


def _checked(scores: Scores) -> dict[str, np.ndarray]:
    checked = {}
    for agent, values in scores.items():
        values = np.asarray(values, float)
        if values.ndim < 2 or 0 in values.shape:
            raise StatisticsError(f"scores of {agent} have the shape {values.shape}: (runs, tasks), at least one of each")
        if not np.isfinite(values).all():
            raise StatisticsError(f"scores of {agent} are not whole: leave incomplete runs out by complete_runs()")
        checked[agent] = values
    return checked


def _bootstrap(
    values: np.ndarray, function: Callable[[np.ndarray], np.ndarray], reps: int, seed: int
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Point estimates and, for enough runs, the ends of their intervals."""
    from rliable.library import get_interval_estimates

    if len(values) < MIN_RUNS:
        return function(values), None, None
    with _seeded(seed):
        points, ends = get_interval_estimates({"": values}, function, reps=reps)
    return points[""], ends[""][0], ends[""][1]


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """rliable draws from numpy's global generator, whatever generator it is given: seed that, and put it back."""
    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(state)  # noqa: NPY002

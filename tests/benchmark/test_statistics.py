"""Statistics against plain numpy, rliable's own metrics, and values that can be worked out by hand."""

import itertools

import numpy as np
import pytest

from crl.benchmark import statistics
from crl.benchmark.statistics import StatisticsError

pytest.importorskip("rliable")
from rliable import metrics

RNG = np.random.default_rng(3)
SCORES = {"a": RNG.random((6, 4)), "b": RNG.random((8, 4)) + 0.1}


def slow_iqm(values):
    flat = sorted(values.ravel())
    cut = len(flat) // 4
    return sum(flat[cut : len(flat) - cut]) / (len(flat) - 2 * cut)


def slow_four(values):
    runs, tasks = values.shape
    means = [sum(values[:, task]) / runs for task in range(tasks)]
    short = [max(0.0, 1.0 - value) for value in values.ravel()]
    middle = sorted(means)
    median = (middle[(tasks - 1) // 2] + middle[tasks // 2]) / 2
    # rliable lets scores above the threshold count as the threshold
    return [slow_iqm(values), median, sum(means) / tasks, sum(short) / len(short)]


def slow_interval(values, function, reps=4000):
    """Runs drawn anew, task by task."""
    rng = np.random.default_rng(11)
    drawn = []
    for _ in range(reps):
        sample = np.empty_like(values)
        for task in range(values.shape[1]):
            for run in range(len(values)):
                sample[run, task] = values[rng.integers(len(values)), task]
        drawn.append(function(sample))
    return np.percentile(np.array(drawn), [2.5, 97.5], axis=0)


def test_aggregates_are_what_they_are_called():
    found = statistics.aggregates(SCORES, reps=50)
    for agent, values in SCORES.items():
        points = [found[agent][name].point for name in statistics.METRICS]
        np.testing.assert_allclose(points, slow_four(values))
        by_rliable = [metrics.aggregate_iqm(values), metrics.aggregate_median(values), metrics.aggregate_mean(values)]
        np.testing.assert_allclose(points[:3], by_rliable)
        assert found[agent]["IQM"].runs == len(values)


def test_known_values():
    values = np.array([[0.0, 1.0], [0.2, 1.4], [0.4, 1.2], [0.6, 1.0]])
    found = statistics.aggregates({"a": values})["a"]
    assert found["mean"].point == pytest.approx(0.725)
    assert found["median"].point == pytest.approx((0.3 + 1.15) / 2)
    # the middle four of 0 .2 .4 .6 1 1 1.2 1.4
    assert found["IQM"].point == pytest.approx((0.4 + 0.6 + 1.0 + 1.0) / 4)
    # what is above 1 makes up for nothing
    assert found["optimality gap"].point == pytest.approx((1.0 + 0.8 + 0.6 + 0.4) / 8)


def test_intervals_are_those_of_a_stratified_bootstrap():
    values = SCORES["a"]
    found = statistics.aggregates({"a": values}, reps=4000)["a"]
    low, high = slow_interval(values, lambda sample: np.array(slow_four(sample)))
    for number, name in enumerate(statistics.METRICS):
        width = high[number] - low[number]
        assert abs(found[name].low - low[number]) < 0.06 * width, name
        assert abs(found[name].high - high[number]) < 0.06 * width, name
        assert found[name].low < found[name].point < found[name].high


def test_tasks_are_strata():
    """Runs that are alike on each task leave nothing uncertain, however different the tasks are."""
    values = np.tile([0.1, 0.5, 0.9], (5, 1))
    for estimate in statistics.aggregates({"a": values}, reps=100)["a"].values():
        assert estimate.low == pytest.approx(estimate.point) and estimate.high == pytest.approx(estimate.point)


def test_few_runs_have_no_intervals():
    few = {"a": SCORES["a"][:4], "b": SCORES["b"]}
    found = statistics.aggregates(few, reps=20)
    assert all(e.low is None and e.high is None and e.runs == 4 for e in found["a"].values())
    assert all(e.low is not None for e in found["b"].values())
    assert statistics.improvements(few, reps=20)["a", "b"].low is None
    assert statistics.profiles(few, np.array([0.5]), reps=20)["a"].low is None
    assert statistics.mean_over_runs(np.arange(4.0)).low is None
    assert statistics.mean_over_runs(np.arange(5.0), reps=50).low is not None
    assert statistics.MIN_RUNS == 5


def test_equal_seeds_give_equal_intervals_and_leave_the_global_generator_alone():
    np.random.seed(5)
    before = np.random.get_state()[1].copy()
    first, second, other = (statistics.aggregates(SCORES, reps=60, seed=seed) for seed in (1, 1, 2))
    assert first == second and first != other
    np.testing.assert_array_equal(np.random.get_state()[1], before)


def test_improvement():
    for one, other in itertools.permutations(SCORES, 2):
        first, second = SCORES[one], SCORES[other]
        shares = []
        for task in range(4):
            pairs = [(x, y) for x in first[:, task] for y in second[:, task]]
            shares.append(sum((x > y) + 0.5 * (x == y) for x, y in pairs) / len(pairs))
        assert statistics.improvement_share(first, second) == pytest.approx(sum(shares) / 4)
        assert statistics.improvement_share(first, second) == pytest.approx(metrics.probability_of_improvement(first, second))
    assert statistics.improvement_share(np.ones((2, 3)), np.ones((4, 3))) == 0.5
    assert statistics.improvement_share(np.ones((2, 3)), np.zeros((4, 3))) == 1.0
    found = statistics.improvements(SCORES, reps=200)
    assert list(found) == [("a", "b")]
    assert found["a", "b"].low < found["a", "b"].point < found["a", "b"].high and found["a", "b"].runs == 6


def test_differences_of_means():
    finals = {"a": RNG.normal(5, 1, 6), "b": RNG.normal(3, 2, 8), "c": np.array([1.0, 2.0])}
    found = statistics.differences(finals, reps=2000)
    assert list(found) == [("a", "b"), ("a", "c"), ("b", "c")]
    for (one, other), estimate in found.items():
        expected = sum(finals[one]) / len(finals[one]) - sum(finals[other]) / len(finals[other])
        assert estimate.point == pytest.approx(expected)
        assert estimate.runs == min(len(finals[one]), len(finals[other]))
    assert found["a", "c"].low is None and found["b", "c"].high is None, "two runs make no interval"
    rng, drawn = np.random.default_rng(4), []
    for _ in range(4000):
        first, second = (rng.choice(finals[agent], len(finals[agent])) for agent in "ab")
        drawn.append(first.mean() - second.mean())
    ends = np.percentile(drawn, [2.5, 97.5])
    np.testing.assert_allclose([found["a", "b"].low, found["a", "b"].high], ends, atol=0.15)
    with pytest.raises(StatisticsError, match="not whole"):
        statistics.differences({"a": np.array([1.0, np.nan])})


def test_profiles_fall_from_one_to_zero():
    thresholds = np.array([-0.1, 0.3, 0.6, 2.0])
    found = statistics.profiles(SCORES, thresholds, reps=100)
    for agent, values in SCORES.items():
        shares = [sum(value > threshold for value in values.ravel()) / values.size for threshold in thresholds]
        np.testing.assert_allclose(found[agent].point, shares)
        assert (found[agent].low <= found[agent].point).all() and (found[agent].point <= found[agent].high).all()
        assert found[agent].point[0] == 1 and found[agent].point[-1] == 0


def test_efficiency_is_the_iqm_of_each_evaluation():
    curves, steps = RNG.random((5, 3, 7)), np.arange(7.0)
    found = statistics.efficiency({"a": curves}, steps, reps=100)["a"]
    np.testing.assert_allclose(found.point, [slow_iqm(curves[:, :, step]) for step in range(7)])
    assert (found.low <= found.high).all() and found.low.shape == (7,)
    at_end = statistics.aggregates({"a": curves[:, :, -1]}, reps=100)["a"]["IQM"]
    assert found.point[-1] == pytest.approx(at_end.point)


def test_areas():
    steps = np.array([10.0, 20.0, 40.0])
    curves = np.array([[[0.0, 1.0, 1.0], [0.5, 0.5, 0.5]]])
    # (0.5 * 10 + 1 * 20) / 30
    np.testing.assert_allclose(statistics.areas({"a": curves}, steps)["a"], [[25 / 30, 0.5]])
    for wrong in (steps[:1], steps[::-1]):
        with pytest.raises(StatisticsError, match="rising"):
            statistics.areas({"a": curves[:, :, : len(wrong)]}, wrong)


def test_normalise():
    returns = np.array([[5.0, 100.0], [25.0, 300.0]])
    np.testing.assert_allclose(statistics.normalise(returns, [5, 100], [45, 200]), [[0, 0], [0.5, 2]])
    curves = np.stack([returns, returns * 2], axis=2)
    np.testing.assert_allclose(statistics.normalise(curves, [0, 0], [10, 100])[1, 0], [2.5, 5])
    with pytest.raises(StatisticsError, match="above low"):
        statistics.normalise(returns, [5, 100], [5, 200])
    with pytest.raises(StatisticsError, match="each task has a low and a high"):
        statistics.normalise(returns, [5], [10])


def test_incomplete_rows_are_left_out_and_named():
    scores = {"a": SCORES["a"].copy(), "b": SCORES["b"].copy(), "c": SCORES["a"][:1].copy()}
    scores["a"][1, 2] = scores["a"][4, 3] = scores["c"][0, 0] = np.nan
    seeds = {"a": [1, 2, 3, 4, 5, 6], "b": list(range(8)), "c": [1]}
    whole, words = statistics.complete_runs(scores, ["w", "x", "y", "z"], seeds)
    np.testing.assert_array_equal(whole["a"], SCORES["a"][[0, 2, 3, 5]])
    np.testing.assert_array_equal(whole["b"], SCORES["b"])
    assert "c" not in whole
    assert words == [
        "a: seed 2, 5 left out of the aggregates, for want of a final return on y, z",
        "c is in no aggregate: no seed of it has a return on every task",
    ]


@pytest.mark.parametrize("wrong", [np.array([[0.1, np.nan]]), np.array([[np.inf, 0.0]]), np.zeros((0, 2)), np.zeros(3)])
def test_scores_that_are_not_whole_are_refused(wrong):
    with pytest.raises(StatisticsError, match="scores of a"):
        statistics.aggregates({"a": wrong})
    with pytest.raises(StatisticsError, match="scores of a"):
        statistics.improvements({"a": wrong, "b": np.zeros((2, 2))})

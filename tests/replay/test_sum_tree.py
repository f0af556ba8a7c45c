"""The sum tree against cumulative sums."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crl.replay.sum_tree import SumTree


@given(
    size=st.integers(1, 40),
    rounds=st.lists(st.lists(st.tuples(st.integers(0, 39), st.sampled_from([0.0, 0.5, 1.0, 3.25])), max_size=8), max_size=6),
)
@settings(max_examples=150, deadline=None)
def test_equals_running_sums(size, rounds):
    tree, plain = SumTree(size), np.zeros(size)
    for pairs in rounds:
        pairs = [(item, value) for item, value in pairs if item < size]
        if pairs:
            items, values = (np.array(column) for column in zip(*pairs, strict=True))
            tree.set(items, values)
            for item, value in pairs:
                plain[item] = value
        assert tree.total == pytest.approx(plain.sum())
        assert np.array_equal(tree.get(np.arange(size)), plain)
        if plain.sum() > 0:
            values = np.linspace(0, plain.sum(), 64, endpoint=False)
            want = np.searchsorted(np.cumsum(plain), values, side="right")
            assert np.array_equal(tree.find(values), want)


def test_draws_in_proportion_and_never_without_priority():
    rng = np.random.default_rng(0)
    priorities = rng.random(1000) * (rng.random(1000) < 0.5)
    tree = SumTree(1000)
    tree.set(np.arange(1000), priorities)
    drawn = tree.find(rng.random(200_000) * tree.total)
    share = np.bincount(drawn, minlength=1000) / 200_000
    assert share[priorities == 0].sum() == 0
    assert np.abs(share - priorities / priorities.sum()).max() < 5 * np.sqrt(0.002 / 200_000)
    # at the very end of the sum, where rounding may have left more than there is
    assert priorities[tree.find(np.array([tree.total, np.nextafter(tree.total, np.inf)]))].min() > 0


def test_rounding_does_not_build_up():
    rng = np.random.default_rng(1)
    tree = SumTree(64)
    for _ in range(3000):
        tree.set(rng.integers(0, 64, 8), rng.random(8) * 10.0 ** rng.integers(-8, 8))
    tree.set(np.arange(64), np.full(64, 0.1))
    assert tree.total == pytest.approx(6.4, rel=1e-12)


def test_bad_input():
    with pytest.raises(ValueError, match="at least 1"):
        SumTree(0)
    tree = SumTree(4)
    for bad in (np.nan, np.inf, -1.0):
        with pytest.raises(ValueError, match="finite and not negative"):
            tree.set(np.array([1]), np.array([bad]))
    assert tree.total == 0

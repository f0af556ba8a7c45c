"""The ridge probe on data whose answer is known, and the split that it stands on."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from crl.probe import linear
from crl.probe.linear import _Dual, _primal, ridge_r2, split_episodes, varying

EPISODES = np.repeat(np.arange(20), 15)


def features(width, seed=0):
    return np.random.default_rng(seed).normal(size=(len(EPISODES), width))


@pytest.mark.parametrize("width", [8, 400])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_a_linear_state_is_known(width, scale):
    """Both ways of solving (fewer and more features than rows), whatever the features' scale."""
    x = features(8)
    states = x @ np.random.default_rng(1).normal(size=(8, 3))
    # the first eight features tell the state, the others are noise too weak to matter
    wide = np.concatenate([x, 1e-3 * features(width, 2)[:, 8:]], axis=1)
    assert (ridge_r2(scale * wide, states, EPISODES) > 0.99).all()


@pytest.mark.parametrize("width", [8, 400])
def test_shuffled_states_are_not_known(width):
    x = features(8)
    states = np.random.default_rng(3).permutation(x @ np.random.default_rng(1).normal(size=(8, 3)))
    r2 = ridge_r2(features(width), states, EPISODES)
    assert (np.abs(r2) < 0.15).all()


def test_noise_is_known_by_its_share():
    """Half of the variance is noise: R^2 is about one half."""
    x = np.random.default_rng(0).normal(size=(4000, 1))
    states = x + np.random.default_rng(1).normal(size=(4000, 1))
    assert abs(ridge_r2(x, states, np.repeat(np.arange(100), 40))[0] - 0.5) < 0.05


def test_both_solutions_are_ridge():
    """Against scikit-learn: its penalty is the absolute one."""
    x, states = features(40) + 5.0, features(2, 4)
    split = split_episodes(EPISODES)
    chosen = x[split.fit]
    penalty = 0.3
    alpha = penalty * chosen.var(0).mean() * len(chosen) + 1e-9
    expected = Ridge(alpha=alpha).fit(chosen, states[split.fit]).predict(x[split.test])
    for solve in (_primal, _Dual(x)):
        np.testing.assert_allclose(solve(x, states, split.fit, split.test, penalty), expected, rtol=1e-8, atol=1e-10)


def test_chunks_do_not_matter(monkeypatch):
    x, states = features(500), features(2, 4)
    whole = ridge_r2(x, states, EPISODES)
    monkeypatch.setattr(linear, "_CHUNK", 7)
    np.testing.assert_allclose(ridge_r2(x, states, EPISODES), whole, atol=1e-9)


def test_an_episode_is_in_one_part():
    for episodes in (EPISODES, np.repeat([3, 9, 4, 20, 7], [4, 2, 5, 6, 1])):
        parts = [set(episodes[rows]) for rows in split_episodes(episodes)]
        assert all(parts) and not any(a & b for i, a in enumerate(parts) for b in parts[i + 1 :])
        assert set().union(*parts) == set(episodes)
        assert (np.sum(split_episodes(episodes), axis=0) == 1).all(), "each row serves one purpose"


def test_fingerprints_of_episodes_do_not_leak():
    """
    Features that tell the episode and nothing else, and a state that is constant within each: split by rows such a probe
    looks perfect, split by episodes it knows nothing.
    """
    rng = np.random.default_rng(0)
    episodes = np.repeat(np.arange(200), 10)
    x = rng.normal(size=(200, 150))[episodes] + 0.01 * rng.normal(size=(2000, 150))
    states = rng.normal(size=(200, 1))[episodes] + 0.01 * rng.normal(size=(2000, 1))
    assert ridge_r2(x, states, episodes)[0] < 0.1
    by_rows = np.arange(2000) % 10  # ten "episodes" that share all true ones
    assert ridge_r2(x, states, by_rows)[0] > 0.5


def test_the_test_episodes_choose_nothing(monkeypatch):
    """Other states on the test episodes change what is reported, but not the weights."""
    x, states = features(8), features(2, 4)
    split = split_episodes(EPISODES)
    seen = []

    def spy(features, states, fit, rows, penalty):
        seen.append((fit.copy(), rows.copy(), penalty))
        return _primal(features, states, fit, rows, penalty)

    monkeypatch.setattr(linear, "_primal", spy)
    ridge_r2(x, states, EPISODES)
    *choosing, last = seen
    assert all((fit == split.fit).all() and (rows == split.choose).all() for fit, rows, _ in choosing)
    assert (last[0] == split.train).all() and (last[1] == split.test).all()
    assert {penalty for *_, penalty in choosing} == set(linear.PENALTIES)


def test_bad_input():
    with pytest.raises(ValueError, match="at least 4"):
        split_episodes(np.repeat(np.arange(3), 5))
    states = features(2, 4)
    states[:, 1] = 3.0
    assert varying(states, split_episodes(EPISODES)).tolist() == [True, False]
    with pytest.raises(ValueError, match=r"states \[1\] do not vary"):
        ridge_r2(features(8), states, EPISODES)

"""F1 of discrete variables."""

import numpy as np
import pytest
from sklearn.metrics import f1_score

from crl.probe.labels import UNKNOWN, entropy, linear_f1, linear_hits, score_labels, weighted_f1

EPISODES = np.repeat(np.arange(12), 25)


def test_weighted_f1_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    true, predicted = rng.integers(0, 4, 200), rng.integers(0, 5, 200)
    predicted[:80] = true[:80]
    assert np.isclose(weighted_f1(predicted, true), f1_score(true, predicted, average="weighted"))


def test_what_the_features_tell_is_known():
    x = np.random.default_rng(0).normal(size=(300, 6))
    labels = (x @ np.random.default_rng(1).normal(size=(6, 3))).argmax(1) + 7
    assert linear_f1(x, labels, EPISODES) > 0.9


def test_shuffled_labels_are_not_known():
    x = np.random.default_rng(0).normal(size=(300, 6))
    labels = np.random.default_rng(1).integers(0, 3, 300)
    assert linear_f1(x, labels, EPISODES) < 0.5


def test_fingerprints_of_episodes_do_not_leak():
    rng = np.random.default_rng(0)
    episodes = np.repeat(np.arange(60), 5)
    x, labels = rng.normal(size=(60, 40))[episodes], rng.integers(0, 2, 60)[episodes]
    by_rows = np.arange(300) % 5
    assert linear_f1(x, labels, episodes) < 0.75 < 0.95 < linear_f1(x, labels, by_rows)


def test_entropy():
    assert entropy(np.zeros(5)) == pytest.approx(0.0)
    assert entropy(np.array([0, 1, 2, 3])) == pytest.approx(np.log(4))


def test_rows_without_label_are_left_out():
    """The same as if they were not there, whatever their features."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 6))
    labels = (x @ rng.normal(size=(6, 3))).argmax(1)
    known = rng.random(300) < 0.7
    hidden = np.where(known, labels, UNKNOWN)
    spoilt = np.where(known[:, None], x, 1e6)
    score = score_labels(spoilt, hidden, EPISODES)
    assert score == score_labels(x[known], labels[known], EPISODES[known]) and score.f1 > 0.9
    hits = linear_hits(spoilt, hidden, EPISODES)
    assert len(hits) == known[EPISODES >= 9].sum() and score.accuracy == hits.mean() > 0.9
    assert score.majority == np.bincount(labels[known & (EPISODES >= 9)]).max() / len(hits)
    assert entropy(hidden) == entropy(labels[known])

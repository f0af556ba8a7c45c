"""F1 of discrete variables."""

import numpy as np
import pytest
from sklearn.metrics import f1_score

from crl.probe.labels import entropy, linear_f1, weighted_f1

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

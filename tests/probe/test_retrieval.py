"""Retrieval among negatives, half of which are from the query's own episode."""

import numpy as np
import pytest

from crl.probe.retrieval import retrieval_top1

EPISODES = np.repeat(np.arange(6), 40)


def rng(seed=0):
    return np.random.default_rng(seed)


def test_what_is_the_same_is_found():
    z = rng().normal(size=(len(EPISODES), 16))
    result = retrieval_top1(z, 3.0 * z, EPISODES, rng())
    assert result.top1 == 1.0 and result.negatives == 64 and result.chance == 1 / 65


@pytest.mark.parametrize("collapsed", [False, True])
def test_guessing_gets_chance(collapsed):
    episodes = np.repeat(np.arange(50), 40)
    query, key = rng(1).normal(size=(2000, 16)), rng(2).normal(size=(2000, 16))
    if collapsed:
        query, key = np.ones((2000, 16)), np.ones((2000, 16))
    result = retrieval_top1(query, key, episodes, rng())
    assert abs(result.top1 - result.chance) < 4 * np.sqrt(result.chance / 2000)


def test_half_of_the_negatives_share_the_episode():
    """Who knows the episode alone is left with guessing among the 32 that share it, and itself."""
    episodes = np.repeat(np.arange(50), 40)
    z = rng().normal(size=(50, 16))[episodes]
    result = retrieval_top1(z, z, episodes, rng())
    assert abs(result.top1 - 1 / 33) < 4 * np.sqrt(1 / 33 / 2000)


def test_against_plain_loops():
    query, key = rng(1).normal(size=(240, 4)), rng(2).normal(size=(240, 4))
    key += query
    result = retrieval_top1(query, key, EPISODES, rng(5), negatives=8)
    draws, mean, right = rng(5), key.mean(0), 0
    for i in range(240):
        same = [j for j in range(240) if EPISODES[j] == EPISODES[i]]
        inside = draws.choice([j for j in same if j != i], 4, replace=False)
        outside = draws.choice([j for j in range(240) if EPISODES[j] != EPISODES[i]], 4, replace=False)
        draws.permutation(9)
        q = query[i] - mean

        def cosine(j, q=q):
            k = key[j] - mean
            return q @ k / np.linalg.norm(q) / np.linalg.norm(k)

        right += all(cosine(i) > cosine(j) for j in [*inside, *outside])
    assert result.top1 == right / 240 and 0.3 < result.top1 < 0.95 and result.negatives == 8


def test_short_episodes_have_fewer_negatives():
    z = rng().normal(size=(10, 4))
    assert retrieval_top1(z, z, np.repeat([0, 1], [3, 7]), rng()).negatives == 4
    for episodes in (np.zeros(10), np.arange(10)):
        with pytest.raises(ValueError, match="two episodes"):
            retrieval_top1(z, z, episodes, rng())

"""Can an observation be found again by its representation? Numpy alone."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

#: of one query
NEGATIVES = 64


class Retrieval(NamedTuple):
    """
    :param top1: share of queries whose own key is the nearest of all candidates
    :param chance: what guessing gets
    :param negatives: of one query; half of them come from its own episode
    """

    top1: float
    chance: float
    negatives: int


def retrieval_top1(
    query: np.ndarray, key: np.ndarray, episodes: np.ndarray, rng: np.random.Generator, negatives: int = NEGATIVES
) -> Retrieval:
    """
    Row i of ``query`` and of ``key`` show the same observation, augmented independently. Each query is compared with its own
    key and those of others, half of which are from the same episode: these share background and goal, so that only what
    changes within an episode tells them apart. Similarity is the cosine, after the mean key is taken off both sides (what all
    observations share tells none apart). Guessing among equals, as in a collapsed representation, gets chance.

    :param query: ``(n, width)``
    :param key: ``(n, width)``
    :param episodes: ``(n,)``
    :param rng: draws the negatives
    :param negatives: an even number; fewer where the shortest episode, or all others together, are too short
    :raises ValueError: for a single episode, or an episode of a single row
    """
    numbers, counts = np.unique(episodes, return_counts=True)
    half = int(min(negatives // 2, counts.min() - 1, len(episodes) - counts.max()))
    if len(numbers) < 2 or half < 1:
        raise ValueError("retrieval needs at least two episodes of at least two observations each")
    mean = key.mean(0)
    similarity = _unit(query - mean) @ _unit(key - mean).T
    right = 0
    for row, episode in enumerate(episodes):
        same = np.flatnonzero(episodes == episode)
        inside = rng.choice(same[same != row], half, replace=False)
        outside = rng.choice(np.flatnonzero(episodes != episode), half, replace=False)
        candidates = rng.permutation(np.concatenate([[row], inside, outside]))
        right += int(candidates[similarity[row, candidates].argmax()] == row)
    return Retrieval(right / len(episodes), 1.0 / (2 * half + 1), 2 * half)


def _unit(z: np.ndarray) -> np.ndarray:
    z = z.astype(np.float64)
    return np.asarray(z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12))

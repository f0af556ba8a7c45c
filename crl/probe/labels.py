"""
Linear probes of discrete variables (the RAM variables of Atari games, Anand et al. 2019, arXiv:1906.08226), split by episodes.

An environment takes part by ``info["labels"]``, a dict from name to a small whole number; one that reports sub-goals also by
which is reached next (Moon et al. 2023, arXiv:2307.03486). Negative labels are unknown, and their rows are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch as th
import torch.nn.functional as F

from crl.probe.linear import EpisodeSplit, split_episodes

#: weight decay of the logistic regression, on standardised features; the best on the choosing episodes is taken
PENALTIES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
#: variables of less entropy hardly change, and everybody gets them right (the paper's threshold)
MIN_ENTROPY = 0.6


#: label of a row for which there is none
UNKNOWN = -1


class LabelScore(NamedTuple):
    """
    :param f1: see :func:`linear_f1`
    :param accuracy: share of rows whose label is predicted
    :param majority: the same for the most frequent label
    """

    f1: float
    accuracy: float
    majority: float


def score_labels(features: np.ndarray, labels: np.ndarray, episodes: np.ndarray) -> LabelScore:
    """
    How well a multinomial logistic regression tells the labels on the test episodes.

    :param features: ``(n, width)``, finite
    :param labels: ``(n,)`` whole numbers, negative where unknown; some are known in each part of the episodes
    :param episodes: ``(n,)`` numbers of the episodes
    :raises ValueError: for fewer than four episodes
    """
    predicted, true = _predict(features, labels, episodes, weighted_f1)
    majority = np.unique(true, return_counts=True)[1].max() / len(true)
    return LabelScore(weighted_f1(predicted, true), float((predicted == true).mean()), float(majority))


def linear_f1(features: np.ndarray, labels: np.ndarray, episodes: np.ndarray) -> float:
    """
    Weighted F1 score of a multinomial logistic regression on the test episodes: per class, averaged by how often the class
    occurs, as in the paper. Classes that the training episodes lack count as missed.

    :param features: ``(n, width)``, finite
    :param labels: ``(n,)`` whole numbers
    :param episodes: ``(n,)`` numbers of the episodes
    :raises ValueError: for fewer than four episodes
    """
    return score_labels(features, labels, episodes).f1


def linear_hits(features: np.ndarray, labels: np.ndarray, episodes: np.ndarray) -> np.ndarray:
    """
    Where a multinomial logistic regression is right on the test episodes; as :func:`linear_f1`, for classes that are about as
    frequent.

    :param features: ``(n, width)``, finite
    :param labels: ``(n,)`` whole numbers
    :param episodes: ``(n,)`` numbers of the episodes
    :return: ``(n_test,)`` bool, in the order of the rows
    :raises ValueError: for fewer than four episodes
    """
    predicted, true = _predict(features, labels, episodes, lambda p, t: float((p == t).mean()))
    return np.asarray(predicted == true)


def _predict(
    features: np.ndarray, labels: np.ndarray, episodes: np.ndarray, quality: Callable[[np.ndarray, np.ndarray], float]
) -> tuple[np.ndarray, np.ndarray]:
    """Predictions for the test episodes, by the penalty that does best on the choosing ones, and what is true."""
    fit, choose, test = known_parts(labels, split_episodes(episodes))
    classes, codes = np.unique(labels, return_inverse=True)
    mean, std = features[fit].mean(0), features[fit].std(0)
    x = th.as_tensor((features - mean) / np.maximum(std, 1e-6)).float()
    y = th.as_tensor(codes).long()

    last: tuple[th.Tensor, th.Tensor] | None = None

    def predicted(fit: np.ndarray, rows: np.ndarray, penalty: float) -> np.ndarray:
        nonlocal last
        last = weights, bias = _fit(x[fit], y[fit], len(classes), penalty, last)
        return np.asarray((x[rows] @ weights + bias).argmax(1).numpy())

    strong_first = sorted(PENALTIES, reverse=True)
    best = max(strong_first, key=lambda penalty: quality(predicted(fit, choose, penalty), codes[choose]))
    return predicted(fit | choose, test, best), codes[test]


def known_parts(labels: np.ndarray, split: EpisodeSplit) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    :param labels: ``(n,)``, negative where unknown
    :param split: of their episodes
    :return: ``(n,)`` bool, the rows with a label to fit to, to choose by, and to test on
    """
    known = labels >= 0
    return split.fit & known, split.choose & known, split.test & known


def _fit(
    x: th.Tensor, y: th.Tensor, n_classes: int, penalty: float, start: tuple[th.Tensor, th.Tensor] | None
) -> tuple[th.Tensor, th.Tensor]:
    """Convex, hence the same from any start: that of the penalty before is near, else zeros."""
    weights, bias = start or (th.zeros(x.shape[1], n_classes, dtype=x.dtype), th.zeros(n_classes, dtype=x.dtype))
    weights, bias = (tensor.clone().requires_grad_() for tensor in (weights, bias))
    # a position has a hundred classes: float32, and no iterations that change no prediction
    optimizer = th.optim.LBFGS(
        [weights, bias], max_iter=100, tolerance_grad=1e-5, tolerance_change=1e-6, line_search_fn="strong_wolfe"
    )

    def closure() -> th.Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(x @ weights + bias, y) + 0.5 * penalty * weights.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return weights.detach(), bias.detach()


def weighted_f1(predicted: np.ndarray, true: np.ndarray) -> float:
    """
    :param predicted: ``(n,)`` classes
    :param true: ``(n,)`` classes
    :return: F1 of each class that occurs, weighted by how often
    """
    total = 0.0
    for value, count in zip(*np.unique(true, return_counts=True), strict=True):
        hit = float(((predicted == value) & (true == value)).sum())
        total += count * 2.0 * hit / float((predicted == value).sum() + count)
    return total / len(true)


def entropy(labels: np.ndarray) -> float:
    """In nats, of the known labels' frequencies."""
    counts = np.unique(labels[labels >= 0], return_counts=True)[1]
    share = counts / counts.sum()
    return float(-(share * np.log(share)).sum())

import math

import numpy as np
import pytest
import torch as th

from crl.metrics import (
    alignment,
    dormant_fraction,
    effective_rank,
    embedding_std,
    grad_cosine,
    grad_norm,
    negative_similarity,
    positive_similarity,
    top1_accuracy,
    uniformity,
)

LOGITS = th.tensor([[3.0, 1.0, 2.0], [5.0, 4.0, 0.0], [1.0, 1.0, 9.0]])


def test_similarities():
    assert top1_accuracy(LOGITS).item() == pytest.approx(2 / 3)
    assert positive_similarity(LOGITS).item() == pytest.approx(16 / 3)
    assert negative_similarity(LOGITS).item() == pytest.approx((1 + 2 + 5 + 0 + 1 + 1) / 6)


def test_embedding_std():
    z = th.tensor([[0.0, 1.0], [2.0, 1.0]])
    assert embedding_std(z).item() == pytest.approx(0.5)
    assert embedding_std(th.ones(5, 3)).item() == 0


def test_effective_rank_against_numpy():
    z = np.random.default_rng(0).normal(size=(40, 6)) * np.array([5, 4, 1, 0.5, 0.1, 0])
    s = np.linalg.svd(z - z.mean(0), compute_uv=False)
    p = s / s.sum()
    want = math.exp(-sum(x * math.log(x) for x in p if x > 1e-12))
    assert effective_rank(th.as_tensor(z)).item() == pytest.approx(want, rel=1e-4)


def test_effective_rank_at_its_ends():
    corners = th.cat([th.eye(4), -th.eye(4)])
    assert effective_rank(corners).item() == pytest.approx(4, rel=1e-5)
    assert effective_rank(th.outer(th.arange(8.0), th.ones(5))).item() == pytest.approx(1, rel=1e-3)
    assert effective_rank(th.ones(8, 5)).item() == pytest.approx(1, rel=1e-3)


def test_dormant_units():
    activations = th.tensor([[1.0, 0.0, 2.0, 0.001], [1.0, 0.0, -2.0, 0.001]])
    assert dormant_fraction(activations).item() == 0.5
    assert dormant_fraction(th.ones(4, 3, 2, 2)).item() == 0
    maps = th.zeros(2, 4, 3, 3)
    maps[:, 0] = 1
    assert dormant_fraction(maps).item() == 0.75


def test_alignment_and_uniformity():
    z = th.tensor([[1.0, 0.0], [0.0, 3.0]])
    assert alignment(z, 2 * z).item() == pytest.approx(0)
    assert alignment(z, -z).item() == pytest.approx(4)
    assert uniformity(z).item() == pytest.approx(math.log(math.exp(-2 * 2)))
    assert uniformity(th.ones(3, 2)).item() == pytest.approx(0, abs=1e-5)


def test_gradients():
    a, b = [th.tensor([3.0]), th.tensor([[4.0]])], [th.tensor([6.0]), th.tensor([[8.0]])]
    assert grad_norm(a).item() == 5
    assert grad_cosine(a, b).item() == pytest.approx(1)
    assert grad_cosine(a, [-x for x in b]).item() == pytest.approx(-1)
    assert grad_cosine(a, [th.zeros(1), th.zeros(1, 1)]).item() == 0


def test_nothing_carries_a_graph():
    z = th.randn(6, 3, requires_grad=True)
    values = [f(z) for f in (embedding_std, effective_rank, uniformity, dormant_fraction)]
    for value in (*values, alignment(z, z), top1_accuracy(z @ z.T)):
        assert value.dim() == 0 and not value.requires_grad

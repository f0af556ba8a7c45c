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


def test_rows_left_out():
    rows = th.tensor([True, False, True])
    assert top1_accuracy(LOGITS, rows).item() == 1.0
    assert positive_similarity(LOGITS, rows).item() == 6.0
    assert negative_similarity(LOGITS, rows).item() == pytest.approx((1 + 2 + 1 + 1) / 4)
    poisoned = LOGITS.clone()
    poisoned[1] = float("nan")
    for metric in (top1_accuracy, positive_similarity, negative_similarity):
        assert metric(poisoned, rows).item() == metric(LOGITS, rows).item()
        assert metric(LOGITS, rows=th.zeros(3, dtype=th.bool)).isnan()


def test_a_collapsed_batch_is_right_by_chance_only():
    assert top1_accuracy(th.ones(8, 8)).item() == pytest.approx(1 / 8)


def embeddings(n=9, width=4):
    return th.randn(n, width, generator=th.Generator().manual_seed(0), dtype=th.float64)


def test_alignment_and_uniformity_against_loops():
    z1, z2 = embeddings(), embeddings().flip(0)
    unit = [[[x / math.sqrt(sum(y * y for y in row)) for x in row] for row in z.tolist()] for z in (z1, z2)]

    def squared(a, b):
        return sum((x - y) ** 2 for x, y in zip(a, b, strict=True))

    want = sum(squared(a, b) for a, b in zip(*unit, strict=True)) / 9
    assert alignment(z1, z2).item() == pytest.approx(want, rel=1e-5)
    pairs = [math.exp(-2 * squared(unit[0][i], unit[0][j])) for i in range(9) for j in range(i)]
    assert uniformity(z1).item() == pytest.approx(math.log(sum(pairs) / len(pairs)), rel=1e-5)


def test_dormant_fraction_against_a_loop():
    activations = th.relu(th.randn(5, 16, 3, 3, generator=th.Generator().manual_seed(0)) - 2.0)
    activations *= th.logspace(-3, 0, 16)[None, :, None, None]
    score = [sum(abs(x) for x in activations[:, u].flatten().tolist()) / 45 for u in range(16)]
    for tau in (0.0, 0.025, 0.1, 1.0):
        want = sum(s <= tau * sum(score) / 16 for s in score) / 16
        assert dormant_fraction(activations, tau).item() == pytest.approx(want)
    assert dormant_fraction(th.zeros(4, 3)).item() == 1, "a layer that is silent altogether"


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_effective_rank_of_what_is_not_finite_is_nan(poison):
    z = embeddings().float()
    assert effective_rank(z).isfinite()
    z[2, 1] = poison
    assert effective_rank(z).isnan()


def test_effective_rank_does_not_see_a_common_shift_or_scale():
    z = embeddings()
    th.testing.assert_close(effective_rank(7.0 * z + 100.0), effective_rank(z), rtol=1e-3, atol=0)


def test_parameters_without_a_gradient():
    a, b = [th.tensor([3.0, 4.0]), None, th.tensor([12.0])], [th.tensor([6.0, 8.0]), th.tensor([5.0]), None]
    assert grad_norm(a).item() == 13
    assert grad_norm([None]).item() == 0 and grad_norm([]).item() == 0
    assert grad_cosine(a, b).item() == pytest.approx(50 / (13 * math.sqrt(125)))
    assert grad_cosine([None], [th.ones(2)]).item() == 0
    with pytest.raises(ValueError):
        grad_cosine(a, b[:2])


def test_cosines_never_pass_one():
    for seed in range(20):
        g = [th.randn(1000, generator=th.Generator().manual_seed(seed))]
        assert grad_cosine(g, g).item() <= 1.0


def test_values_never_leave_the_device():
    """On the meta device there are shapes and no values: whatever asks for one (item, bool, a boolean index) raises."""
    with th.device("meta"):
        z, rows = th.empty(6, 4), th.empty(6, dtype=th.bool)
        logits, maps = th.empty(6, 6), th.empty(6, 4, 3, 3)
    values = [top1_accuracy(logits, rows), positive_similarity(logits, rows), negative_similarity(logits, rows)]
    values += [embedding_std(z), effective_rank(z), dormant_fraction(maps), alignment(z, z), uniformity(z)]
    values += [grad_norm([z, logits]), grad_cosine([z, logits], [z, logits])]
    with pytest.raises((RuntimeError, NotImplementedError)):
        z.sum().item()
    assert all(value.dim() == 0 and value.dtype == th.float32 and value.device.type == "meta" for value in values)


@pytest.mark.parametrize("dtype", [th.bfloat16, th.float64])
def test_computed_in_float32(dtype):
    z = embeddings().to(dtype)
    for metric in (embedding_std, effective_rank, uniformity, dormant_fraction):
        value = metric(z)
        assert value.dtype == th.float32
        th.testing.assert_close(value, metric(z.float()))
    assert grad_norm([z]).dtype == grad_cosine([z], [z]).dtype == th.float32

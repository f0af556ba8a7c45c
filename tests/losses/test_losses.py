import math

import pytest
import torch as th
import torch.nn.functional as F
from pytorch_metric_learning.losses import NTXentLoss

from crl.losses import bilinear_info_nce, bilinear_logits, cosine_logits, diagonal_cross_entropy, info_nce, nt_xent

GRID = [(2, 1, 0.5), (3, 4, 0.1), (7, 5, 1.0), (16, 50, 0.07)]


def embeddings(batch, width, seed=0, n=2):
    generator = th.Generator().manual_seed(seed)
    return [th.randn(batch, width, dtype=th.float64, generator=generator) for _ in range(n)]


def slow_cross_entropy(logits):
    """Mean of -log softmax on the diagonal, in plain Python floats."""
    total = 0.0
    for i, row in enumerate(logits.tolist()):
        top = max(row)
        total -= row[i] - top - math.log(sum(math.exp(x - top) for x in row))
    return total / len(logits)


def slow_cosine(a, b):
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(y * y for y in b))


def test_bilinear_golden():
    query = th.tensor([[1.0, 0, 2], [0, 1, -1], [1, 1, 1]])
    key = th.tensor([[1.0, 1, 0], [0, 2, 1], [-1, 0, 1]])
    weight = th.arange(9.0).reshape(3, 3) / 10
    logits = bilinear_logits(query, key, weight)
    th.testing.assert_close(logits, th.tensor([[2.7, 4.8, 0.6], [-0.6, -0.9, 0.0], [2.1, 3.9, 0.6]]))
    assert bilinear_info_nce(query, key, weight).item() == pytest.approx(2.4278380578, rel=1e-6)
    shifted = logits - logits.max(1, keepdim=True).values
    assert diagonal_cross_entropy(shifted).item() == pytest.approx(2.4278380578, rel=1e-6)
    assert diagonal_cross_entropy(0.1 * shifted).item() == pytest.approx(1.1734369326, rel=1e-6)


@pytest.mark.parametrize("batch, width, temperature", GRID)
def test_against_loops(batch, width, temperature):
    query, key = embeddings(batch, width)
    (weight,) = embeddings(width, width, seed=1, n=1)
    q, k, w = query.tolist(), key.tolist(), weight.tolist()
    pairs = [(a, b) for a in range(width) for b in range(width)]
    bilinear = [[sum(q[i][a] * w[a][b] * k[j][b] for a, b in pairs) for j in range(batch)] for i in range(batch)]
    want = slow_cross_entropy(th.tensor(bilinear, dtype=th.float64))
    assert bilinear_info_nce(query, key, weight).item() == pytest.approx(want, rel=1e-9)
    cosine = th.tensor([[slow_cosine(a, b) / temperature for b in k] for a in q], dtype=th.float64)
    assert info_nce(query, key, temperature).item() == pytest.approx(slow_cross_entropy(cosine), rel=1e-9)
    both = q + k
    total = 0.0
    for i in range(2 * batch):
        scores = {j: slow_cosine(both[i], both[j]) / temperature for j in range(2 * batch) if j != i}
        top = max(scores.values())
        total += top + math.log(sum(math.exp(s - top) for s in scores.values())) - scores[(i + batch) % (2 * batch)]
    assert nt_xent(query, key, temperature).item() == pytest.approx(total / (2 * batch), rel=1e-9)


@pytest.mark.parametrize("batch, width, temperature", GRID)
def test_nt_xent_against_another_library(batch, width, temperature):
    z1, z2 = (z.float() for z in embeddings(batch, width))
    labels = th.arange(batch).repeat(2)
    theirs = NTXentLoss(temperature=temperature)(th.cat([z1, z2]), labels)
    th.testing.assert_close(nt_xent(z1, z2, temperature), theirs, rtol=1e-4, atol=1e-5)


def test_gradients():
    query, key = (z.requires_grad_() for z in embeddings(4, 3))
    weight = embeddings(3, 3, seed=1, n=1)[0].requires_grad_()
    assert th.autograd.gradcheck(bilinear_info_nce, (query, key, weight))
    assert th.autograd.gradcheck(lambda a, b: info_nce(a, b, 0.3), (query, key))
    assert th.autograd.gradcheck(lambda a, b: nt_xent(a, b, 0.3), (query, key))


@pytest.mark.parametrize("loss", [info_nce, nt_xent])
def test_scale_and_permutation_do_not_matter(loss):
    z1, z2 = embeddings(6, 4)
    value = loss(z1, z2, 0.2)
    order = th.tensor([3, 1, 5, 0, 2, 4])
    th.testing.assert_close(loss(7.0 * z1, 0.3 * z2, 0.2), value)
    th.testing.assert_close(loss(z1[order], z2[order], 0.2), value)


def test_nt_xent_is_symmetric():
    z1, z2 = embeddings(5, 4)
    th.testing.assert_close(nt_xent(z1, z2, 0.5), nt_xent(z2, z1, 0.5))


def test_identical_embeddings_stand_at_chance():
    ones = th.ones(8, 4)
    assert info_nce(ones, ones, 0.1).item() == pytest.approx(math.log(8), rel=1e-5)
    assert nt_xent(ones, ones, 0.5).item() == pytest.approx(math.log(15), rel=1e-5)


@pytest.mark.parametrize("loss", [info_nce, nt_xent])
def test_small_temperatures_do_not_overflow(loss):
    z1, z2 = (z.float().requires_grad_() for z in embeddings(8, 4))
    value = loss(z1, z2, 0.001)
    value.backward()
    assert value.isfinite() and z1.grad.isfinite().all()


@pytest.mark.parametrize("loss", [info_nce, nt_xent])
def test_zero_rows_get_no_gradient_and_leave_the_others_theirs(loss):
    z1, z2 = embeddings(4, 3)
    z1[1], z2[1], z2[2] = 0, 0, 0
    z1.requires_grad_()
    value = loss(z1, z2, 0.1)
    value.backward()
    assert value.isfinite()
    assert (z1.grad[1] == 0).all()
    assert 0 < z1.grad[[0, 2, 3]].abs().max() < 100

    def others(a):
        full = th.stack([a[0], th.zeros(3, dtype=th.float64), a[1], a[2]])
        return loss(full, z2, 0.1)

    assert th.autograd.gradcheck(others, (z1.detach()[[0, 2, 3]].requires_grad_(),))


@pytest.mark.parametrize("loss", [info_nce, nt_xent])
def test_large_inputs_and_duplicates(loss):
    z1, z2 = (z.float() for z in embeddings(6, 4))
    z1[3] = z1[2]
    z1 = (1e4 * z1).requires_grad_()
    value = loss(z1, 1e4 * z2, 0.01)
    value.backward()
    assert value.isfinite() and z1.grad.isfinite().all()


def test_bilinear_logits_in_the_hundreds():
    query, key = (100 * z.float() for z in embeddings(6, 4))
    query.requires_grad_()
    value = bilinear_info_nce(query, key, th.rand(4, 4))
    value.backward()
    assert value.isfinite() and query.grad.isfinite().all()


def test_a_shift_of_a_row_does_not_matter():
    logits, shift = embeddings(5, 5)[0], th.tensor([[-700.0], [0.0], [3.0], [1e3], [50.0]], dtype=th.float64)
    th.testing.assert_close(diagonal_cross_entropy(logits + shift), diagonal_cross_entropy(logits), rtol=1e-9, atol=1e-9)


def test_bilinear_permutation_and_relation_to_cosine():
    query, key = embeddings(6, 4)
    (weight,) = embeddings(4, 4, seed=1, n=1)
    order = th.tensor([3, 1, 5, 0, 2, 4])
    value = bilinear_info_nce(query, key, weight)
    th.testing.assert_close(bilinear_info_nce(query[order], key[order], weight), value)
    unit = [F.normalize(z, dim=1) for z in (query, key)]
    scaled = th.eye(4, dtype=th.float64) / 0.3
    th.testing.assert_close(bilinear_info_nce(*unit, scaled), info_nce(query, key, 0.3))
    assert not th.isclose(bilinear_info_nce(query, key, weight), bilinear_info_nce(query, key, weight.T)), "W is not symmetric"


def test_float64_wins_in_mixed_company():
    query, key = embeddings(4, 3)
    assert info_nce(query.float(), key).dtype == th.float64
    assert bilinear_info_nce(query.float(), key.float(), th.eye(3, dtype=th.float64)).dtype == th.float64
    assert bilinear_info_nce(query.half(), key, th.eye(3)).dtype == th.float64


def test_low_precision_is_computed_in_float32():
    query, key = (z.float() for z in embeddings(32, 50))
    weight = th.rand(50, 50)
    low = bilinear_info_nce(query.bfloat16(), key.bfloat16(), weight)
    assert low.dtype == th.float32
    exact = bilinear_info_nce(query.bfloat16().float(), key.bfloat16().float(), weight)
    th.testing.assert_close(low, exact)
    with th.autocast("cpu", dtype=th.bfloat16):
        assert (query @ key.T).dtype == th.bfloat16, "autocast is on"
        under = [bilinear_info_nce(query, key, weight), info_nce(query, key, 0.1), nt_xent(query, key, 0.1)]
    outside = [bilinear_info_nce(query, key, weight), info_nce(query, key, 0.1), nt_xent(query, key, 0.1)]
    for a, b in zip(under, outside, strict=True):
        assert a.dtype == th.float32 and th.equal(a, b)


def test_rows_left_out():
    query, key = embeddings(5, 3)
    logits = cosine_logits(query, key, 0.5)
    rows = th.tensor([True, False, True, True, False])
    want = F.cross_entropy(logits[rows], th.arange(5)[rows])
    th.testing.assert_close(diagonal_cross_entropy(logits, rows), want)
    nothing = diagonal_cross_entropy(logits.requires_grad_(), th.zeros(5, dtype=th.bool))
    nothing.backward()
    assert nothing.item() == 0 and (logits.grad == 0).all()


@pytest.mark.parametrize("poison", [float("inf"), float("-inf"), float("nan")])
def test_poisoned_rows_left_out_do_no_harm(poison):
    logits = th.zeros(3, 3)
    logits[1] = poison
    logits.requires_grad_()
    loss = diagonal_cross_entropy(logits, th.tensor([True, False, True]))
    loss.backward()
    assert loss.item() == pytest.approx(math.log(3))
    assert (logits.grad[1] == 0).all() and logits.grad[[0, 2]].isfinite().all() and logits.grad[0, 0] < 0


def test_negatives_left_out():
    (logits,) = embeddings(4, 4, n=1)
    negatives = th.tensor([[0, 1, 0, 1], [1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 0]], dtype=th.bool)
    want = 0.0
    for i in range(4):
        kept = [j for j in range(4) if negatives[i, j] or i == j]
        want += (th.logsumexp(logits[i, kept], 0) - logits[i, i]) / 4
    th.testing.assert_close(diagonal_cross_entropy(logits, negatives=negatives), want)


def test_both_masks_together():
    (logits,) = embeddings(5, 5, n=1)
    logits.requires_grad_()
    negatives = ~th.eye(5, dtype=th.bool)
    negatives[2] = False  # nothing to tell row 2 from
    rows = th.tensor([True, True, True, False, True])
    want = F.cross_entropy(logits[[0, 1, 4]], th.tensor([0, 1, 4])) * 3 / 4
    loss = diagonal_cross_entropy(logits, rows, negatives)
    th.testing.assert_close(loss, want)
    loss.backward()
    assert (logits.grad[[2, 3]] == 0).all() and logits.grad.isfinite().all()


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: info_nce(th.zeros(1, 4), th.zeros(1, 4)), "batch of at least 2"),
        (lambda: nt_xent(th.zeros(3, 4), th.zeros(2, 4)), r"got \(3, 4\) and \(2, 4\)"),
        (lambda: info_nce(th.zeros(3, 4, 1), th.zeros(3, 4, 1)), r"\(batch, width\)"),
        (lambda: info_nce(th.zeros(3, 4), th.zeros(3, 4), 0.0), "temperature=0.0: must be positive"),
        (lambda: nt_xent(th.zeros(3, 4), th.zeros(3, 4), -1.0), "must be positive"),
        (lambda: bilinear_info_nce(th.zeros(3, 4), th.zeros(3, 4), th.zeros(3, 3)), r"weight must be \(4, 4\)"),
        (lambda: diagonal_cross_entropy(th.zeros(3, 4)), r"\(batch, batch\)"),
        (lambda: diagonal_cross_entropy(th.zeros(3, 3), rows=th.ones(2, dtype=th.bool)), "rows must be"),
        (lambda: diagonal_cross_entropy(th.zeros(3, 3), negatives=th.ones(2, 2, dtype=th.bool)), "negatives must be"),
        (
            lambda: diagonal_cross_entropy(th.zeros(3, 3), rows=th.ones(3)),
            r"rows must be .* torch.float32",
        ),
        (lambda: diagonal_cross_entropy(th.zeros(3, 3), negatives=th.ones(3, 3).long()), "negatives must be .* torch.int64"),
        (lambda: diagonal_cross_entropy(th.zeros(1, 1)), "batch of at least 2, got 1"),
        (lambda: info_nce(th.zeros(3, 4), th.zeros(3, 4), float("nan")), "must be positive and finite"),
        (lambda: info_nce(th.zeros(3, 4), th.zeros(3, 4), float("inf")), "must be positive and finite"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()

"""Every loss against its definition in plain floats; identities, gradients, and the inputs that break careless ones."""

import math

import pytest
import torch as th
import torch.nn.functional as F

from crl.losses import (
    adaptive_soft_contrastive,
    alignment,
    alignment_uniformity,
    barlow_twins,
    bilinear_info_nce,
    debiased_contrastive,
    decoupled_contrastive,
    hard_negative_contrastive,
    info_nce,
    moco_info_nce,
    model_aware_contrastive,
    negative_cosine,
    nt_xent,
    uniformity,
    vicreg,
    whitening_mse,
)
from crl.losses.whitening_mse import whitened
from tests.losses import slow

GRID = [(2, 1, 0.5), (3, 4, 0.1), (9, 3, 1.0), (16, 20, 0.07)]


def embeddings(batch, width, seed=0, n=2):
    generator = th.Generator().manual_seed(seed)
    return [th.randn(batch, width, dtype=th.float64, generator=generator) for _ in range(n)]


def alike(batch, width, seed=0, noise=0.3):
    """Second views are noisy copies, so that positives are closer than negatives."""
    z1, z2 = embeddings(batch, width, seed)
    return z1, z1 + noise * z2


#: losses of two views at a temperature, with further parameters, and their slow references
TWO_VIEWS = [
    (nt_xent, slow.nt_xent, {}),
    (decoupled_contrastive, slow.decoupled, {}),
    (decoupled_contrastive, slow.decoupled, dict(sigma=0.5)),
    (debiased_contrastive, slow.debiased, dict(tau_plus=0.1)),
    (debiased_contrastive, slow.debiased, dict(tau_plus=0.6)),
    (hard_negative_contrastive, slow.hard_negative, dict(tau_plus=0.1, beta=1.0)),
    (hard_negative_contrastive, slow.hard_negative, dict(tau_plus=0.0, beta=0.5)),
    (model_aware_contrastive, slow.model_aware, dict(alpha=0.5, a0=0.0)),
    (model_aware_contrastive, slow.model_aware, dict(alpha=0.3, a0=0.4, reweight=False)),
]

#: all of them as functions of two embeddings alone, for what must hold for every one
(QUEUE,) = embeddings(7, 3, seed=5, n=1)
PAIRS = {
    "info_nce": lambda a, b, **k: info_nce(a, b, k.pop("temperature", 0.3), **k),
    "nt_xent": lambda a, b, **k: nt_xent(a, b, k.pop("temperature", 0.3), **k),
    "decoupled": lambda a, b, **k: decoupled_contrastive(a, b, k.pop("temperature", 0.3), **k),
    "decoupled_w": lambda a, b, **k: decoupled_contrastive(a, b, k.pop("temperature", 0.3), sigma=0.5, **k),
    "debiased": lambda a, b, **k: debiased_contrastive(a, b, k.pop("temperature", 0.3), 0.1, **k),
    "hard_negative": lambda a, b, **k: hard_negative_contrastive(a, b, k.pop("temperature", 0.3), 0.1, 1.0, **k),
    "model_aware": lambda a, b, **k: model_aware_contrastive(a, b, k.pop("temperature", 0.3), 0.5, 0.0, **k),
    "moco": lambda a, b, **k: moco_info_nce(a, b, QUEUE.to(a.dtype), k.pop("temperature", 0.3), **k),
    "adaptive_soft": lambda a, b, **k: adaptive_soft_contrastive(a, b, QUEUE.to(a.dtype), k.pop("temperature", 0.3), **k),
    "alignment": lambda a, b, **k: alignment(a, b, 2.0, **k),
    "alignment_1": lambda a, b, **k: alignment(a, b, 1.0, **k),
    "uniformity": lambda a, b, **k: uniformity(a, 2.0, **k),
    "alignment_uniformity": alignment_uniformity,
    "vicreg": vicreg,
    "barlow_twins": barlow_twins,
    "whitening_mse": lambda a, b, **k: whitening_mse(a, b, 1e-2, **k),
    "whitening_mse_euclidean": lambda a, b, **k: whitening_mse(a, b, 1e-2, normalize=False, **k),
    "negative_cosine": negative_cosine,
}
WITH_TEMPERATURE = list(PAIRS)[:9]
COSINE = [*WITH_TEMPERATURE, "alignment", "alignment_1", "uniformity", "alignment_uniformity", "negative_cosine"]
#: the key is a target
KEY_DETACHED = ["moco", "adaptive_soft", "negative_cosine"]
#: a batch of 1 has a loss
SINGLE = [*KEY_DETACHED, "alignment", "alignment_1"]


# ---- against the definition


@pytest.mark.parametrize("batch, width, temperature", GRID)
@pytest.mark.parametrize("function, reference, parameters", TWO_VIEWS)
def test_two_views_against_loops(function, reference, parameters, batch, width, temperature):
    for z1, z2 in (embeddings(batch, width), alike(batch, width)):
        if function is model_aware_contrastive and temperature * (1 + parameters["alpha"] * -1) <= 0:
            continue
        want = reference(z1.tolist(), z2.tolist(), temperature, **parameters)
        assert function(z1, z2, temperature, **parameters).item() == pytest.approx(want, rel=1e-8, abs=1e-12)


@pytest.mark.parametrize("function, reference, parameters", TWO_VIEWS)
def test_two_views_with_masks_against_loops(function, reference, parameters):
    z1, z2 = alike(5, 3)
    rows = th.tensor([True, False, True, True, True])
    negatives = th.tensor([[0, 1, 0, 1, 0], [1, 1, 0, 0, 1], [0, 1, 0, 0, 0], [1, 1, 1, 0, 0], [0, 0, 0, 0, 0]], dtype=th.bool)
    masks = dict(rows=rows.tolist(), negatives=negatives.tolist())
    want = reference(z1.tolist(), z2.tolist(), 0.3, **parameters, **masks)
    z1.requires_grad_()
    loss = function(z1, z2, 0.3, **parameters, rows=rows, negatives=negatives)
    assert loss.item() == pytest.approx(want, rel=1e-9)
    loss.backward()
    assert z1.grad.isfinite().all() and z1.grad[0].abs().sum() > 0
    # row 4 has no negatives, and is one of row 1 alone, which is left out (the mean alignment is without gradient)
    assert (z1.grad[4] == 0).all()


@pytest.mark.parametrize("batch, width, temperature", GRID)
def test_queue_losses_against_loops(batch, width, temperature):
    query, key = alike(batch, width)
    (queue,) = embeddings(6, width, seed=3, n=1)
    lists = query.tolist(), key.tolist(), queue.tolist()
    assert moco_info_nce(query, key, queue, temperature).item() == pytest.approx(slow.moco(*lists, temperature), rel=1e-9)
    for n_neighbours in (1.0, 0.0, 30.0):
        got = adaptive_soft_contrastive(query, key, queue, temperature, 0.2, n_neighbours)
        assert got.item() == pytest.approx(slow.adaptive_soft(*lists, temperature, 0.2, n_neighbours), rel=1e-8)


def test_queue_losses_with_masks_against_loops():
    query, key = alike(4, 3)
    rows = th.tensor([True, True, False, True])
    negatives = th.rand(4, 7, generator=th.Generator().manual_seed(0)) < 0.5
    negatives[0] = False  # nothing left
    negatives[1] = False
    negatives[1, 3] = True  # a single one
    lists = query.tolist(), key.tolist(), QUEUE.tolist()
    masks = dict(rows=rows.tolist(), negatives=negatives.tolist())
    query.requires_grad_()
    loss = moco_info_nce(query, key, QUEUE, 0.3, rows=rows, negatives=negatives)
    assert loss.item() == pytest.approx(slow.moco(*lists, 0.3, **masks), rel=1e-9)
    soft = adaptive_soft_contrastive(query, key, QUEUE, 0.3, 0.1, 1.0, rows=rows, negatives=negatives)
    assert soft.item() == pytest.approx(slow.adaptive_soft(*lists, 0.3, 0.1, 1.0, **masks), rel=1e-9)
    (loss + soft).backward()
    assert (query.grad[[0, 2]] == 0).all() and query.grad[[1, 3]].abs().sum() > 0 and query.grad.isfinite().all()


@pytest.mark.parametrize("batch, width", [(3, 1), (4, 3), (9, 5), (16, 4)])
def test_statistics_against_loops(batch, width):
    z1, z2 = alike(batch, width)
    z1, z2 = 0.7 * z1 + 2.0, 0.4 * z2 - 1.0  # some variances below 1, some hinges active
    lists = z1.tolist(), z2.tolist()
    assert vicreg(z1, z2).item() == pytest.approx(slow.vicreg(*lists), rel=1e-9)
    assert vicreg(z1, z2, 1.0, 0.5, 0.1, 1e-3).item() == pytest.approx(slow.vicreg(*lists, 1.0, 0.5, 0.1, 1e-3), rel=1e-9)
    for lambd in (0.0051, 0.0, 1.0):
        assert barlow_twins(z1, z2, lambd).item() == pytest.approx(slow.barlow_twins(*lists, lambd), rel=1e-9)
    for eps in (1e-2, 0.3) if batch <= width + 1 else (0.0, 1e-2, 0.3):
        for normalize in (True, False):
            got = whitening_mse(z1, z2, eps, normalize=normalize)
            assert got.item() == pytest.approx(slow.whitening_mse(*lists, eps, normalize), rel=1e-7, abs=1e-9)
    assert negative_cosine(z1, z2).item() == pytest.approx(slow.negative_cosine(*lists), rel=1e-9)
    for alpha in (2.0, 1.0, 3.0):
        assert alignment(z1, z2, alpha).item() == pytest.approx(slow.alignment(*lists, alpha), rel=1e-9, abs=1e-12)
    for t in (2.0, 0.5):
        assert uniformity(z1, t).item() == pytest.approx(slow.uniformity(z1.tolist(), t), rel=1e-9, abs=1e-9)
    both = slow.alignment(*lists, 2.0) + 0.7 * (slow.uniformity(lists[0], 3.0) + slow.uniformity(lists[1], 3.0)) / 2
    assert alignment_uniformity(z1, z2, 2.0, 3.0, 0.7).item() == pytest.approx(both, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("name", [*SINGLE, "uniformity", "alignment_uniformity", "vicreg", "barlow_twins", "whitening_mse"])
def test_rows_left_out_are_as_if_they_were_not_there(name):
    """For losses whose rows are no negatives of others, and for statistics."""
    z1, z2 = alike(7, 3)
    rows = th.tensor([True, False, True, True, True, False, True])
    z1.requires_grad_()
    got = PAIRS[name](z1, z2, rows=rows)
    th.testing.assert_close(got, PAIRS[name](z1[rows], z2[rows]), rtol=1e-9, atol=1e-9)
    got.backward()
    assert (z1.grad[~rows] == 0).all() and z1.grad[rows].abs().sum() > 0


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("left", [0, 1])
def test_hardly_any_row_left(name, left):
    z1, z2 = alike(4, 3)
    z1.requires_grad_()
    loss = PAIRS[name](z1, z2, rows=th.arange(4) < left)
    loss.backward()
    assert loss.isfinite() and z1.grad.isfinite().all()
    if left == 0:
        assert loss.item() == 0 and (z1.grad == 0).all()


def test_uniformity_with_pairs_left_out():
    (z,) = embeddings(4, 3, n=1)
    negatives = th.ones(4, 4, dtype=th.bool)
    negatives[0, 1] = negatives[1, 0] = negatives[2, 3] = negatives[3, 2] = False
    u = F.normalize(z, dim=1)
    kept = [(0, 2), (0, 3), (1, 2), (1, 3)]
    want = math.log(sum(math.exp(-2 * (u[i] - u[j]).square().sum()) for i, j in kept) / 4)
    assert uniformity(z, 2.0, negatives=negatives).item() == pytest.approx(want, rel=1e-9)


# ---- identities


def test_one_loss_is_another_in_the_limit():
    z1, z2 = alike(6, 4)
    base = nt_xent(z1, z2, 0.2)
    th.testing.assert_close(debiased_contrastive(z1, z2, 0.2, 0.0), base)
    th.testing.assert_close(hard_negative_contrastive(z1, z2, 0.2, 0.0, 0.0), base)
    th.testing.assert_close(hard_negative_contrastive(z1, z2, 0.2, 0.1, 0.0), debiased_contrastive(z1, z2, 0.2, 0.1))
    th.testing.assert_close(model_aware_contrastive(z1, z2, 0.2, 0.0, reweight=False), base)
    byol = (2 - 2 * F.cosine_similarity(z1, z2)).mean()
    th.testing.assert_close(negative_cosine(z1, z2), byol / 2 - 1)
    th.testing.assert_close(alignment(z1, z2, 2.0), byol)
    unit = F.normalize(z1, dim=1), F.normalize(z2, dim=1)
    th.testing.assert_close(bilinear_info_nce(*unit, th.eye(4, dtype=th.float64) / 0.2), info_nce(z1, z2, 0.2))


def test_moco_and_in_batch_negatives():
    query, key = alike(5, 4)
    # without a negative there is nothing to tell apart
    nothing = th.zeros(5, 3, dtype=th.bool)
    assert moco_info_nce(query, key, th.randn(3, 4).double(), 0.2, negatives=nothing).item() == pytest.approx(0.0, abs=1e-12)
    # the batch's keys as a queue, each row's own left out
    others = ~th.eye(5, dtype=th.bool)
    th.testing.assert_close(moco_info_nce(query, key, key, 0.2, negatives=others), info_nce(query, key, 0.2))
    # its own key left in as a negative raises the loss
    assert moco_info_nce(query, key, key, 0.2) > info_nce(query, key, 0.2)


def test_adaptive_soft_with_a_flat_teacher_is_moco():
    query, key = alike(5, 3)
    flat = adaptive_soft_contrastive(query, key, QUEUE, 0.2, 1e6)
    th.testing.assert_close(flat, moco_info_nce(query, key, QUEUE, 0.2), rtol=1e-6, atol=1e-6)
    th.testing.assert_close(
        adaptive_soft_contrastive(query, key, QUEUE, 0.2, 0.05, 0.0), moco_info_nce(query, key, QUEUE, 0.2)
    )
    # a sharp teacher that finds the key itself in the queue wants as much of it as of the positive
    queue = th.cat([QUEUE, key[:1]])
    twice = adaptive_soft_contrastive(query[:1], key[:1], queue, 0.2, 1e-4)
    scores = F.cosine_similarity(query[:1], th.cat([key[:1], queue])) / 0.2
    th.testing.assert_close(twice, th.logsumexp(scores, 0) - scores[0])


def test_gradient_of_model_aware_is_that_of_decoupled():
    """The weight 1 / (1 - P) cancels the factor by which NT-Xent slows down."""
    z1, z2 = alike(6, 4)
    z1.requires_grad_()
    adapted = 0.1 * (1 + 0.5 * F.cosine_similarity(z1, z2).mean().item())
    (got,) = th.autograd.grad(model_aware_contrastive(z1, z2, 0.1, 0.5, 0.0), z1)
    (want,) = th.autograd.grad(decoupled_contrastive(z1, z2, adapted), z1)
    th.testing.assert_close(got, want)


def test_weighted_decoupling_pulls_at_pairs_that_are_far_apart():
    z1, z2 = alike(4, 3)
    z2[3] = -z2[3]  # three close pairs, one far apart
    z1.requires_grad_()
    plain, weighted = (th.autograd.grad(decoupled_contrastive(z1, z2, 0.5, sigma=s), z1)[0] for s in (None, 0.5))
    (push,) = th.autograd.grad(decoupled_contrastive(z1, z2, 0.5) + F.cosine_similarity(z1, z2).mean() / 0.5, z1)
    ratio = (weighted - push).norm(dim=1) / (plain - push).norm(dim=1)
    assert ratio[3] > 1.9 and (ratio[:3] < 1).all()
    equal = decoupled_contrastive(z1, z1.detach(), 0.5, sigma=0.5)  # all pairs equally close: all weights 1
    th.testing.assert_close(equal, decoupled_contrastive(z1, z1.detach(), 0.5))


@pytest.mark.parametrize("name", COSINE)
def test_lengths_do_not_matter(name):
    z1, z2 = alike(6, 3)
    scale = th.rand(6, 1, dtype=th.float64, generator=th.Generator().manual_seed(1)) + 0.1
    th.testing.assert_close(PAIRS[name](scale * z1, 7.0 * z2), PAIRS[name](z1, z2))


@pytest.mark.parametrize("name", PAIRS)
def test_order_does_not_matter(name):
    z1, z2 = alike(6, 3)
    order = th.tensor([3, 1, 5, 0, 2, 4])
    th.testing.assert_close(PAIRS[name](z1[order], z2[order]), PAIRS[name](z1, z2))


@pytest.mark.parametrize("name", [n for n in PAIRS if n not in ("info_nce", "moco", "adaptive_soft", "uniformity")])
def test_symmetry(name):
    z1, z2 = alike(6, 3)
    th.testing.assert_close(PAIRS[name](z2, z1), PAIRS[name](z1, z2))


@pytest.mark.parametrize("name", [n for n in COSINE if n not in ("uniformity", "alignment_uniformity")])
def test_agreeing_views_are_better(name):
    z1, z2 = embeddings(6, 3)
    assert PAIRS[name](z1, z1 + 0.01 * z2) < PAIRS[name](z1, z2)


def test_barlow_does_not_see_scale_and_shift_of_a_dimension():
    z1, z2 = (100 * z for z in alike(9, 3))  # beside which the 1e-5 under the root is nothing
    scale, shift = th.tensor([2.0, 0.5, 30.0], dtype=th.float64), th.tensor([1.0, -4.0, 0.0], dtype=th.float64)
    th.testing.assert_close(barlow_twins(z1 * scale + shift, z2), barlow_twins(z1, z2), rtol=1e-6, atol=1e-6)
    assert barlow_twins(z1, z1).item() == pytest.approx(barlow_twins(z1, 3 * z1).item(), rel=1e-6)


def test_whitening_gives_the_identity_and_sees_no_triangular_map():
    z1, z2 = alike(40, 4)
    w = whitened(z1, 0.0)
    th.testing.assert_close(th.cov(w.T), th.eye(4, dtype=th.float64))
    th.testing.assert_close(w.mean(0), th.zeros(4, dtype=th.float64))
    base = whitening_mse(z1, z2, 0.0)
    lower = th.tril(embeddings(4, 4, seed=2, n=1)[0])
    lower.diagonal().abs_().add_(0.1)
    th.testing.assert_close(whitening_mse(z1 @ lower.T + 3.0, z2, 0.0), base)
    rotation = th.linalg.qr(embeddings(4, 4, seed=4, n=1)[0]).Q
    assert not th.isclose(whitening_mse(z1 @ rotation.T, z2, 0.0), base), "Cholesky, not ZCA"


def test_vicreg_terms():
    z1, z2 = alike(9, 3)
    assert vicreg(z1, z1, 25.0, 0.0, 0.0).item() == 0
    assert vicreg(10 * z1, 10 * z2, 0.0, 25.0, 0.0).item() == 0, "spread enough"
    flat = th.zeros(9, 3, dtype=th.float64)
    assert vicreg(flat, flat).item() == pytest.approx(25 * (1 - 0.01), rel=1e-9), "halved: the mean of both views"
    assert vicreg(z1[:, :1], z2[:, :1], 0.0, 0.0, 1.0).item() == 0, "one dimension has nothing to correlate with"
    moved = vicreg(z1 + 5.0, z2 + 5.0)
    th.testing.assert_close(moved, vicreg(z1, z2))


# ---- gradients


@pytest.mark.parametrize("name", PAIRS)
def test_gradients(name):
    z1, z2 = alike(5, 3)
    # constants without gradient hide the true derivative of these from finite differences: tested by their identities
    if name in ("decoupled_w", "model_aware"):
        return
    second = z2 if name in (*KEY_DETACHED, "uniformity") else z2.requires_grad_()
    assert th.autograd.gradcheck(PAIRS[name], (z1.requires_grad_(), second))


def test_gradients_of_detached_weights():
    """Finite differences with the weights frozen by hand."""
    z1, z2 = alike(5, 3)
    shares = F.softmax(F.cosine_similarity(z1, z2) / 0.5, 0)
    weights = 2 - 5 * shares

    def frozen(a, b):
        pull = weights * F.cosine_similarity(a, b) / 0.3
        return decoupled_contrastive(a, b, 0.3) + (F.cosine_similarity(a, b) / 0.3 - pull).mean()

    inputs = (z1.requires_grad_(), z2.requires_grad_())
    want = th.autograd.grad(frozen(*inputs), inputs)
    got = th.autograd.grad(decoupled_contrastive(*inputs, 0.3, sigma=0.5), inputs)
    for a, b in zip(got, want, strict=True):
        th.testing.assert_close(a, b)


def test_gradient_flows_through_the_weights_of_hard_negatives():
    z1, z2 = alike(5, 3)
    z1.requires_grad_()
    (got,) = th.autograd.grad(hard_negative_contrastive(z1, z2, 0.3, 0.0, 1.0), z1)
    u = F.normalize(th.cat([z1, z2]), dim=1)
    x = (u @ u.T / 0.3).exp()
    negative = ~th.eye(5, dtype=th.bool).repeat(2, 2)
    positive = th.cat([x.diagonal(5), x.diagonal(-5)])
    for frozen in (False, True):
        w = x.detach() if frozen else x
        total = (w * x * negative).sum(1) / ((w * negative).sum(1) / 8)
        (want,) = th.autograd.grad((-th.log(positive / (positive + total))).mean(), z1, retain_graph=True)
        assert th.allclose(got, want) != frozen


@pytest.mark.parametrize("name", KEY_DETACHED)
def test_no_gradient_reaches_keys_and_queue(name):
    z1, z2 = (z.requires_grad_() for z in alike(5, 3))
    queue = QUEUE.clone().requires_grad_()
    loss = dict(
        moco=lambda: moco_info_nce(z1, z2, queue, 0.2),
        adaptive_soft=lambda: adaptive_soft_contrastive(z1, z2, queue),
        negative_cosine=lambda: negative_cosine(z1, z2),
    )[name]()
    loss.backward()
    assert z1.grad.abs().sum() > 0 and z2.grad is None and queue.grad is None


def test_the_floor_of_the_debiased_sum_has_no_gradient():
    """Views that coincide while all else is opposite: what is left of the negatives is the smallest it can be."""
    z = th.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=th.float64).requires_grad_()
    loss = debiased_contrastive(z, z.detach().clone(), 0.5, 0.3)
    e, floor = math.exp(2), 2 * math.exp(-2)
    assert loss.item() == pytest.approx(-math.log(e / (e + floor)), rel=1e-9)
    loss.backward()
    assert z.grad.isfinite().all()


# ---- inputs that break careless implementations


@pytest.mark.parametrize("name", WITH_TEMPERATURE)
@pytest.mark.parametrize("temperature", [0.01, 0.001])
def test_small_temperatures(name, temperature):
    for z1, z2 in (embeddings(8, 3), alike(8, 3), alike(8, 3, noise=0.0)):
        exact = PAIRS[name](z1, z2, temperature=temperature)
        z1, z2 = z1.float().requires_grad_(), z2.float()
        loss = PAIRS[name](z1, z2, temperature=temperature)
        loss.backward()
        assert loss.isfinite() and z1.grad.isfinite().all()
        # cosines in float32 are good to 1e-7, which a temperature of 0.001 makes 1e-4
        assert loss.item() == pytest.approx(exact.item(), rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("rows", ["duplicates", "identical", "zero", "one zero", "large", "small"])
def test_hard_inputs(name, rows):
    z1, z2 = (z.float() for z in alike(8, 3))
    if rows == "duplicates":
        z1[3], z2[3] = z1[2], z2[2]
    elif rows == "identical":
        z1 = z1[:1].repeat(8, 1)
        z2 = z1.clone()
    elif rows == "zero":
        z1, z2 = th.zeros(8, 3), th.zeros(8, 3)
    elif rows == "one zero":
        z1[1], z2[1], z2[2] = 0.0, 0.0, 0.0
    elif rows == "large":
        z1, z2 = 1e4 * z1, 1e4 * z2
    else:
        z1, z2 = 1e-6 * z1, 1e-6 * z2
    z1.requires_grad_()
    z2.requires_grad_()
    loss = PAIRS[name](z1, z2)
    loss.backward()
    assert loss.isfinite() and loss.dtype == th.float32
    assert z1.grad.isfinite().all() and (z2.grad is None or z2.grad.isfinite().all())
    if rows in ("one zero", "zero") and name in COSINE:
        assert (z1.grad[1] == 0).all(), "a row without direction has no gradient"
    if rows == "identical" and name != "uniformity":
        exact = PAIRS[name](z1.detach().double(), z2.detach().double())
        assert loss.item() == pytest.approx(exact.item(), rel=1e-4, abs=1e-4)


def test_identical_embeddings_stand_where_they_should():
    ones = th.ones(8, 4)
    assert nt_xent(ones, ones, 0.5).item() == pytest.approx(math.log(15), rel=1e-5)
    assert decoupled_contrastive(ones, ones, 0.5).item() == pytest.approx(math.log(14), rel=1e-5)
    assert debiased_contrastive(ones, ones, 0.5, 0.1).item() == pytest.approx(math.log(15), rel=1e-5)
    assert hard_negative_contrastive(ones, ones, 0.5, 0.1, 1.0).item() == pytest.approx(math.log(15), rel=1e-5)
    assert model_aware_contrastive(ones, ones, 0.5).item() == pytest.approx(math.log(15) * 15 / 14, rel=1e-5)
    assert moco_info_nce(ones, ones, th.ones(9, 4), 0.1).item() == pytest.approx(math.log(10), rel=1e-5)
    assert adaptive_soft_contrastive(ones, ones, th.ones(9, 4)).item() == pytest.approx(math.log(10), rel=1e-5)
    assert barlow_twins(ones, ones).item() == pytest.approx(4.0)
    assert negative_cosine(ones, ones).item() == pytest.approx(-1.0)
    assert whitening_mse(ones, ones, 1e-3).item() == pytest.approx(2.0), "no direction is left to agree on"
    assert alignment(ones, ones, 2.0).item() == 0 and uniformity(ones, 2.0).item() == pytest.approx(0.0, abs=1e-5)


def test_model_aware_temperature_stays_positive():
    z1, _ = embeddings(6, 3)
    z1.requires_grad_()
    loss = model_aware_contrastive(z1, -z1, 0.1, 1.0, 1.0)  # 1 + alpha (A - a0) = -1
    loss.backward()
    assert loss.isfinite() and z1.grad.isfinite().all() and loss > 0


def test_model_aware_keeps_its_digits_where_the_positive_is_certain():
    z1 = th.eye(4)
    loss = model_aware_contrastive(z1, z1, 0.05, 0.0)
    # -log(P) / (1 - P) goes to 1 as P does; log_softmax in float32 would give 0 / 1e-8
    assert loss.item() == pytest.approx(1.0, rel=1e-3)


@pytest.mark.parametrize("name", PAIRS)
def test_low_precision_is_computed_in_float32(name):
    z1, z2 = (z.float() for z in alike(16, 3))
    outside = PAIRS[name](z1, z2)
    with th.autocast("cpu", dtype=th.bfloat16):
        assert (z1 @ z2.T).dtype == th.bfloat16, "autocast is on"
        under = PAIRS[name](z1, z2)
    assert under.dtype == th.float32 and th.equal(under, outside)
    low = [z.bfloat16() for z in (z1, z2)]
    got = PAIRS[name](*low) if name not in ("moco", "adaptive_soft") else PAIRS[name](low[0].float(), low[1])
    assert got.dtype == th.float32
    th.testing.assert_close(got, PAIRS[name](low[0].float(), low[1].float()))


@pytest.mark.parametrize("name", PAIRS)
def test_wrong_shapes(name):
    for a, b in [(th.zeros(3, 4), th.zeros(2, 4)), (th.zeros(3, 4), th.zeros(3, 5)), (th.zeros(3, 4, 1), th.zeros(3, 4, 1))]:
        if name == "uniformity" and a.dim() == 2:
            continue
        with pytest.raises(ValueError, match=r"must both be \(batch, width\)"):
            PAIRS[name](a, b)
    if name in SINGLE:
        assert PAIRS[name](th.ones(1, 3), th.ones(1, 3)).isfinite()
    else:
        with pytest.raises(ValueError, match="batch of at least 2, got 1"):
            PAIRS[name](th.ones(1, 3), th.ones(1, 3))
    with pytest.raises(ValueError, match="empty"):
        PAIRS[name](th.ones(0, 3), th.ones(0, 3))
    with pytest.raises(ValueError, match="rows must be"):
        PAIRS[name](th.ones(3, 3), th.ones(3, 3), rows=th.ones(3))


two = th.ones(3, 3), th.ones(3, 3)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: decoupled_contrastive(*two, 0.0), "temperature=0.0: must be positive"),
        (lambda: decoupled_contrastive(*two, sigma=-1.0), "sigma=-1.0: must be positive"),
        (lambda: debiased_contrastive(*two, 0.5, 1.0), "tau_plus=1.0: then there are no negatives"),
        (lambda: debiased_contrastive(*two, 0.5, -0.1), r"tau_plus=-0.1: a finite number in \[0"),
        (lambda: hard_negative_contrastive(*two, 0.5, 0.1, -1.0), "beta=-1.0"),
        (lambda: hard_negative_contrastive(*two, 0.5, float("nan")), "tau_plus=nan"),
        (lambda: model_aware_contrastive(*two, 0.1, 1.5), r"alpha=1.5: a finite number in \[0.0, 1.0\]"),
        (lambda: model_aware_contrastive(*two, 0.1, 0.5, -0.5), "a0=-0.5"),
        (lambda: moco_info_nce(*two, th.ones(5, 4)), r"queue must be \(size, 3\).*got \(5, 4\)"),
        (lambda: moco_info_nce(*two, th.ones(0, 3)), "queue must be"),
        (lambda: moco_info_nce(*two, th.ones(5, 3), negatives=th.ones(3, 3).bool()), r"negatives must be \(3, 5\) bool"),
        (lambda: adaptive_soft_contrastive(*two, th.ones(1, 3)), "size at least 2"),
        (lambda: adaptive_soft_contrastive(*two, th.ones(5, 3), 0.1, 0.0), "teacher_temperature=0.0"),
        (lambda: adaptive_soft_contrastive(*two, th.ones(5, 3), 0.1, 0.1, -1.0), "n_neighbours=-1.0"),
        (lambda: nt_xent(*two, negatives=th.ones(2, 2).bool()), r"negatives must be \(3, 3\)"),
        (lambda: nt_xent(*two, negatives=th.ones(3, 3)), "negatives must be .* torch.float32"),
        (lambda: vicreg(*two, invariance=-1.0), "invariance=-1.0"),
        (lambda: vicreg(*two, eps=0.0), r"eps=0.0: a finite number in \(0"),
        (lambda: barlow_twins(*two, -0.1), "lambd=-0.1"),
        (lambda: whitening_mse(*two, 0.0), "needs a batch larger than the width"),
        (lambda: whitening_mse(th.ones(9, 3), th.ones(9, 3), 0.0), "singular covariance"),
        (lambda: whitening_mse(*two, 1.0), "nothing is whitened"),
        (lambda: whitening_mse(*two, -1e-3), "eps=-0.001"),
        (lambda: alignment(*two, 0.0), "alpha=0.0"),
        (lambda: uniformity(two[0], -2.0), "t=-2.0"),
        (lambda: alignment_uniformity(*two, weight=-1.0), "weight=-1.0"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()

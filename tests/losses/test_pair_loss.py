"""Losses by name: what they are given, what they own, and what is said about wrong names and values."""

import copy
import math

import pytest
import torch as th
import torch.nn.functional as F

import crl.losses
from crl.losses import PAIR_LOSSES, pair_loss

BATCH, WIDTH = 6, 3


def embeddings(seed=0, batch=BATCH):
    generator = th.Generator().manual_seed(seed)
    query = th.randn(batch, WIDTH, generator=generator)
    return query.requires_grad_(), query.detach() + 0.5 * th.randn(batch, WIDTH, generator=generator)


def made(name, **parameters):
    th.manual_seed(0)
    if PAIR_LOSSES[name].negatives == "queue":
        parameters = dict(queue_size=8) | parameters
    return pair_loss(name, **parameters).build(WIDTH)


each = pytest.mark.parametrize("name", PAIR_LOSSES)


@each
def test_is_its_function(name):
    spec, loss = PAIR_LOSSES[name], made(name)
    query, key = embeddings()
    extra = (loss.weight,) if spec.needs_weight else (loss.queue.clone(),) if spec.negatives == "queue" else ()
    want = spec.function(query, key, *extra)
    got = loss(query, key)
    assert th.equal(got, want) and got.dtype == th.float32 and got.shape == ()
    got.backward()
    assert query.grad.abs().sum() > 0
    assert pair_loss(spec.function.__name__).name == name, "its function's name will do too"
    assert getattr(crl.losses, spec.function.__name__) is spec.function


@each
def test_masks_are_passed_on(name):
    spec, loss = PAIR_LOSSES[name], made(name)
    query, key = embeddings()
    rows = th.arange(BATCH) != 2
    extra = (loss.weight,) if spec.needs_weight else (loss.queue,) if spec.negatives == "queue" else ()
    th.testing.assert_close(loss(query, key, rows), spec.function(query, key, *extra, rows=rows))
    negatives = ~th.eye(BATCH, dtype=th.bool)
    negatives[0] = False
    if spec.negatives == "batch":
        masked = loss(query, key, None, negatives)
        assert not th.equal(masked, loss(query, key))
        th.testing.assert_close(masked, spec.function(query, key, *extra, negatives=negatives))
    else:
        with pytest.raises(ValueError, match=f"negatives of '{name}' .*leave negatives= out"):
            loss(query, key, None, negatives)


@each
def test_every_parameter_matters(name):
    """Each documented parameter is passed on; a wrong value is found when the loss is made."""
    other = dict(
        temperature=0.7, sigma=0.3, tau_plus=0.4, beta=2.0, alpha=0.9, a0=0.3, reweight=False, student_temperature=0.4,
        teacher_temperature=0.2, n_neighbours=5.0, invariance=1.0, variance=1.0, covariance=9.0, eps=0.3, lambd=1.0,
        normalize=False, t=0.7, weight=0.3, queue_size=9,
    )  # fmt: skip
    query, key = embeddings()
    plain = made(name)(query, key)
    for parameter in PAIR_LOSSES[name].defaults:
        changed = other[parameter] if (name, parameter) != ("alignment_uniformity", "alpha") else 1.0
        assert not th.equal(made(name, **{parameter: changed})(query, key), plain), parameter


@each
def test_state_survives(name):
    loss, other = made(name), pair_loss(name, **({"queue_size": 8} if PAIR_LOSSES[name].negatives == "queue" else {}))
    query, key = embeddings()
    loss(query, key)
    loss.after_step()
    other.build(WIDTH).load_state_dict(loss.state_dict())
    assert th.equal(loss(query, key), other(query, key))
    assert th.equal(copy.deepcopy(loss)(query, key), loss(query, key))


def test_who_owns_what():
    query, key = embeddings()
    bilinear = made("bilinear")
    assert [n for n, _ in bilinear.named_parameters()] == ["weight"] and bilinear.weight.min() >= 0
    bilinear(query, key).backward()
    assert bilinear.weight.grad.abs().sum() > 0
    moco = made("moco")
    assert not list(moco.parameters()) and {n for n, _ in moco.named_buffers()} == {"queue", "head"}
    th.testing.assert_close(moco.queue.norm(dim=1), th.ones(8))
    assert made("negative_cosine").spec.needs_predictor and not made("negative_cosine").spec.key_gradient
    assert made("vicreg").spec.key_gradient and not list(made("vicreg").state_dict())


def test_scores_are_for_the_log():
    query, key = embeddings()
    bilinear, cosine = made("bilinear"), made("vicreg")
    th.testing.assert_close(bilinear.scores(query, key), (query @ bilinear.weight @ key.T).detach())
    want = F.normalize(query, dim=1) @ F.normalize(key, dim=1).T
    th.testing.assert_close(cosine.scores(query, key), want.detach())
    assert not bilinear.scores(query, key).requires_grad


# ---- the queue


def keys_of(n, start=0):
    """Recognisable unit rows: angles of 1, 2, 3 ... hundredths."""
    angle = th.arange(start + 1, start + n + 1) / 100
    return th.stack([angle.cos(), angle.sin(), th.zeros(n)], dim=1)


def step(loss, keys, rows=None):
    loss(keys.clone().requires_grad_(), 3 * keys, rows).backward()
    loss.after_step()


@pytest.mark.parametrize("size, batches", [(8, [3, 3, 3, 5]), (8, [8, 8]), (5, [7, 2]), (4, [3, 3, 3])])
def test_queue_against_a_list(size, batches):
    loss = made("moco", queue_size=size)
    slots, head, count = list(loss.queue.clone()), 0, 0
    for n in batches:
        keys = keys_of(n, count)
        count += n
        step(loss, keys)
        for row in list(keys)[-size:]:
            slots[head] = row
            head = (head + 1) % size
        th.testing.assert_close(loss.queue, th.stack(slots))
        assert loss.head.item() == head


def test_rows_left_out_stay_out_of_the_queue():
    loss = made("moco", queue_size=6)
    random = loss.queue.clone()
    keys = keys_of(4)
    step(loss, keys, th.tensor([False, True, False, True]))
    th.testing.assert_close(loss.queue, th.cat([keys[[1, 3]], random[2:]]))
    assert loss.head.item() == 2
    step(loss, keys_of(5, 10), th.zeros(5, dtype=th.bool))
    th.testing.assert_close(loss.queue, th.cat([keys[[1, 3]], random[2:]]))
    step(loss, keys_of(5, 10))
    th.testing.assert_close(loss.queue, th.cat([keys_of(5, 10)[4:], keys[[3]], keys_of(5, 10)[:4]]))


def test_keys_wait_for_the_step():
    loss = made("moco")
    before = loss.queue.clone()
    query, key = embeddings()
    first, second = loss(query, key), loss(query, key.flip(0))
    assert th.equal(loss.queue, before), "a positive must not meet itself as a negative, and backward needs the queue"
    (first + second).backward()
    loss.after_step()
    both = F.normalize(th.cat([key, key.flip(0)]), dim=1)
    th.testing.assert_close(loss.queue, _in_ring(both, 8))
    with th.no_grad():
        loss(query, key)
    after = loss.queue.clone()
    loss.after_step()
    assert th.equal(loss.queue, after), "what was only looked at is not learned from"


def _in_ring(rows, size):
    ring = [None] * size
    for i, row in enumerate(rows):
        ring[i % size] = row
    return th.stack(ring)


def test_queue_raises_the_loss_of_what_was_seen():
    """After a step the same keys are negatives: the loss of the same batch goes up to at least log 2."""
    loss = made("moco", temperature=0.07)
    _, key = embeddings()
    query = key.clone().requires_grad_()
    before = loss(query, key)
    loss.after_step()
    assert loss(query, key) > max(before.item(), math.log(2) - 1e-4)


# ---- wrong names and values


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: pair_loss("infonce"), "loss='infonce' is not a loss of pairs; did you mean info_nce"),
        (lambda: pair_loss("byol"), "did you mean negative_cosine"),
        (lambda: pair_loss("SimCLR"), "did you mean nt_xent"),
        (lambda: pair_loss("barlow"), "did you mean barlow_twins"),
        (lambda: pair_loss("xyzzy"), "choose bilinear, info_nce, .* or negative_cosine"),
        (lambda: pair_loss("moco", temprature=0.1), "has no parameter 'temprature'; did you mean temperature"),
        (lambda: pair_loss("bilinear", temperature=0.1), "has no parameter 'temperature'; it has none"),
        (lambda: pair_loss("vicreg", zz=1), "it has invariance, variance, covariance or eps"),
        (lambda: pair_loss("info_nce", rows=None), "has no parameter 'rows'"),
        (lambda: pair_loss("nt_xent", temperature=0.0), "temperature=0.0: must be positive"),
        (lambda: pair_loss("debiased", tau_plus=2.0), "tau_plus=2.0"),
        (lambda: pair_loss("whitening_mse", eps="small"), "whitening_mse.*eps"),
        (lambda: pair_loss("moco", queue_size=1), "queue_size=1, a whole number of at least 2"),
        (lambda: pair_loss("moco", queue_size=2.5), "queue_size=2.5"),
    ],
)
def test_wrong_names_and_values(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_must_be_built():
    with pytest.raises(RuntimeError, match="not built yet: call build"):
        pair_loss("bilinear")(*embeddings())


def test_making_one_draws_nothing():
    th.manual_seed(0)
    want = th.rand(3)
    th.manual_seed(0)
    for name in PAIR_LOSSES:
        pair_loss(name)
    assert th.equal(th.rand(3), want)

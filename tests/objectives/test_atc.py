"""ATC against its definition."""

import pytest
import torch as th
import torch.nn.functional as F

from crl.losses import PAIR_LOSSES, nt_xent
from crl.objectives import ATC, OBJECTIVES

from .small import assert_same_loss_and_gradients, build, pick, windows


def slow_loss(atc, batch, near=lambda i, j: False):
    """Row by row; negatives are the keys of windows that reach step k, and the row's own later steps."""
    encoder = atc.encoder
    reaches = [bool(batch.mask[i, atc.k - 1]) for i in range(len(batch))]
    losses = []
    for i in range(len(batch)):
        if not reaches[i]:
            continue
        c = atc.head(encoder(batch.obs[i : i + 1, 0]))
        query = atc.weight(c + atc.mlp(c))[0]

        def key(j, step):
            return atc.key_head(atc.key_encoder(batch.obs[j : j + 1, step]))[0].detach()

        scores = [query @ key(i, atc.k)]
        scores += [query @ key(j, atc.k) for j in range(len(batch)) if j != i and reaches[j] and not near(i, j)]
        own = range(atc.k + 1, atc.k + 1 + atc.hard_negatives)
        scores += [query @ key(i, step) for step in own if batch.mask[i, step - 1]]
        losses.append(pick(scores, 0))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("hard_negatives", [0, 2])
@pytest.mark.parametrize("ends", [None, {0: 1, 3: 3, 4: 2}])
def test_loss_and_gradients_against_the_definition(ends, hard_negatives):
    atc = build(ATC(k=2, latent_dim=4, hidden_dim=7, hard_negatives=hard_negatives))
    batch = windows(steps=2 + hard_negatives, ends=ends and {row: min(n, 2 + hard_negatives) for row, n in ends.items()})
    loss, metrics = atc.loss(batch)
    assert_same_loss_and_gradients(atc, loss, slow_loss(atc, batch))
    assert metrics["loss"] == loss.detach() and not any(value.requires_grad for value in metrics.values())


def test_metrics():
    atc = build(ATC(k=1, latent_dim=4))
    batch = windows(steps=1)
    metrics = atc.loss(batch)[1]
    c = atc.head(atc.encoder(batch.obs[:, 0]))
    logits = atc.weight(c + atc.mlp(c)) @ atc.key_head(atc.key_encoder(batch.obs[:, 1])).T
    assert metrics["accuracy"].item() == pytest.approx((logits.argmax(1) == th.arange(6)).double().mean().item())
    assert metrics["positive_similarity"].item() == pytest.approx(logits.diagonal().mean().item(), rel=1e-5)
    off = (logits.sum() - logits.diagonal().sum()) / 30
    assert metrics["negative_similarity"].item() == pytest.approx(off.item(), rel=1e-5)


def test_near_windows_of_an_episode_are_no_negatives():
    atc = build(ATC(k=1, latent_dim=4, negative_window=3))
    assert atc.request.origin and not ATC().request.origin
    episode, time = th.tensor([0, 0, 0, 1, 1, 2]), th.tensor([5, 7, 8, 8, 30, 5])
    batch = windows(steps=1, episode=episode, time=time)

    def near(i, j):
        return bool(episode[i] == episode[j]) and abs(int(time[i] - time[j])) < 3

    assert near(0, 1) and near(1, 2) and not near(0, 2) and not near(2, 3)
    loss = atc.loss(batch)[0]
    assert_same_loss_and_gradients(atc, loss, slow_loss(atc, batch, near))
    with pytest.raises(ValueError, match=r"no episode and time"):
        atc.loss(windows(steps=1))


def test_no_window_reaches_the_positive():
    atc = build(ATC(k=2))
    loss, _ = atc.loss(windows(steps=2, ends=dict.fromkeys(range(6), 1)))
    assert loss.item() == 0.0
    gradients = th.autograd.grad(loss, [*atc.encoder.parameters(), atc.weight.weight])
    assert all(not gradient.any() for gradient in gradients)


def test_no_gradient_reaches_the_keys():
    atc = build(ATC(k=1))
    atc.loss(windows(steps=1))[0].backward()
    assert all(p.grad is None for p in [*atc.key_encoder.parameters(), *atc.key_head.parameters()])
    assert all(p.grad is not None and p.grad.any() for p in [*atc.encoder.parameters(), *atc.head.parameters()])


def test_copies_follow_at_every_update():
    atc = build(ATC(tau=0.25))
    pairs = [(atc.key_encoder, atc.encoder), (atc.key_head, atc.head)]
    start = [[p.clone() for p in copy.parameters()] for copy, _ in pairs]
    atc.after_step()
    for before, (copy, online) in zip(start, pairs, strict=True):
        for a, b, c in zip(before, copy.parameters(), online.parameters(), strict=True):
            th.testing.assert_close(b, 0.75 * a + 0.25 * c.detach())


def test_given_features_are_used():
    atc = build(ATC(k=1))
    batch = windows(steps=1)
    features = atc.encoder(batch.obs[:, 0]).detach().requires_grad_()
    loss = atc.loss(batch, features)[0]
    th.testing.assert_close(loss, atc.loss(batch)[0])
    assert th.autograd.grad(loss, features)[0].abs().sum() > 0


def test_byol_through_time_by_hand():
    atc = build(ATC(k=2, loss="negative_cosine"))
    batch = windows(steps=2, ends={1: 1})
    rows = batch.mask[:, 1]
    later = th.where(rows[:, None, None, None], batch.obs[:, 2], batch.obs[:, 0])
    head = atc.pair_head
    prediction = head.predictor(head.projector(atc.encoder(batch.obs[:, 0])))
    target = head.key_projector(atc.key_encoder(later)).detach()
    want = -F.cosine_similarity(prediction, target)[rows].mean()
    assert_same_loss_and_gradients(atc, atc.loss(batch)[0], want)


def test_simclr_through_time_by_hand():
    """Both observations are trained, by one encoder; a window that does not reach step k counts nowhere."""
    atc = build(ATC(k=2, loss="nt_xent", loss_kwargs=dict(temperature=0.2)))
    atc.pair_head.projector = th.nn.Identity()  # BatchNorm would mix in the windows that do not count
    batch = windows(steps=2, ends={1: 1})
    rows = batch.mask[:, 1]
    want = nt_xent(atc.encoder(batch.obs[rows, 0]), atc.encoder(batch.obs[rows, 2]), 0.2)
    assert_same_loss_and_gradients(atc, atc.loss(batch)[0], want)


@pytest.mark.parametrize("name", [name for name in PAIR_LOSSES if name != "bilinear"])
def test_every_loss_trains_the_encoder(name):
    queue = dict(queue_size=8) if PAIR_LOSSES[name].negatives == "queue" else {}
    atc = build(ATC(k=1, loss=name, loss_kwargs=queue))
    for _ in range(2):
        loss, metrics = atc.loss(windows(12, steps=1))
        atc.after_step()
    assert loss.isfinite() and all(value.isfinite() for value in metrics.values())
    loss.backward()
    assert all(p.grad is not None and p.grad.any() for p in atc.encoder.parameters())
    assert all(p.grad is None for name, p in atc.named_parameters() if "key_" in name)


@pytest.mark.parametrize(
    "kwargs, message",
    [
        (dict(k=0), "k=0"),
        (dict(latent_dim=0), "latent_dim=0"),
        (dict(tau=0.0), "tau=0.0"),
        (dict(hard_negatives=-1), "hard_negatives=-1"),
        (dict(hard_negatives=1, negative_window=3), "choose one"),
        (dict(loss="byl"), "did you mean"),
        (dict(loss="info_nce", loss_kwargs=dict(temperature=0.0)), "temperature"),
        (dict(loss="vicreg", negative_window=2), "has no negatives in the batch"),
        (dict(loss="info_nce", hard_negatives=2), "loss='bilinear' alone"),
    ],
)
def test_wrong_values(kwargs, message):
    with pytest.raises(ValueError, match=message):
        ATC(**kwargs)


def test_registry():
    assert OBJECTIVES["atc"] is ATC

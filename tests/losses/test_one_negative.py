"""InfoNCE with one negative, and the divergence of policies, beside plain Python."""

import math

import pytest
import torch as th
from torch.nn import functional as F

from crl.losses.one_negative import one_negative_info_nce
from crl.losses.policy_distillation import policy_divergence

from .slow import cosine, mean


def triple(n=7, width=5, dtype=th.float64):
    generator = th.Generator().manual_seed(0)
    return [th.randn(n, width, generator=generator, dtype=dtype).requires_grad_() for _ in range(3)]


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_it_is_cross_entropy_over_two(temperature):
    anchor, positive, negative = triple()
    rows = zip(anchor.tolist(), positive.tolist(), negative.tolist(), strict=True)
    losses = []
    for a, p, n in rows:
        e = [math.exp(cosine(a, x) / temperature) for x in (p, n)]
        losses.append(-math.log(e[0] / sum(e)))
    got = one_negative_info_nce(anchor, positive, negative, temperature)
    assert got.item() == pytest.approx(mean(losses), rel=1e-12)
    logits = th.stack([F.cosine_similarity(anchor, x, dim=1) for x in (positive, negative)], 1) / temperature
    want = F.cross_entropy(logits, th.zeros(7, dtype=th.long))
    of_got, of_want = (th.autograd.grad(loss, (anchor, positive, negative)) for loss in (got, want))
    for a, b in zip(of_got, of_want, strict=True):
        th.testing.assert_close(a, b)


def test_equal_candidates_are_a_coin_toss():
    anchor, positive, _ = triple()
    assert one_negative_info_nce(anchor, positive, positive).item() == pytest.approx(math.log(2))


def test_extreme_rows_stay_finite():
    x = th.tensor([[1.0, 0.0], [0.0, 0.0]], requires_grad=True)
    loss = one_negative_info_nce(x, -x, x, 1e-3)
    loss.backward()
    assert loss.item() == pytest.approx((2000 + math.log(2)) / 2) and x.grad.isfinite().all()


@pytest.mark.parametrize(
    ("shapes", "temperature", "message"),
    [
        (((2, 3), (2, 3), (3, 3)), 0.1, "positive and negative"),
        (((3, 3), (2, 3), (2, 3)), 0.1, "anchor and positive"),
        (((2, 3), (2, 3), (2, 3)), 0.0, "temperature"),
        (((0, 3), (0, 3), (0, 3)), 0.1, "empty"),
    ],
)
def test_wrong_values(shapes, temperature, message):
    with pytest.raises(ValueError, match=message):
        one_negative_info_nce(*(th.ones(shape) for shape in shapes), temperature)


def test_divergence():
    now, old, _ = (F.log_softmax(x, dim=1) for x in triple())
    want = mean(
        sum(math.exp(a) * (a - b) for a, b in zip(p, q, strict=True)) for p, q in zip(now.tolist(), old.tolist(), strict=True)
    )
    assert policy_divergence(now, old).item() == pytest.approx(want, rel=1e-12)
    torchs = th.distributions.kl_divergence(th.distributions.Categorical(logits=now), th.distributions.Categorical(logits=old))
    th.testing.assert_close(policy_divergence(now, old), torchs.mean())
    assert policy_divergence(now, now).item() == 0.0
    with pytest.raises(ValueError, match="log_probs and old_log_probs"):
        policy_divergence(now, old[:3])

"""Cross-entropy over candidates, some of which do not count."""

import pytest
import torch as th
import torch.nn.functional as F

from crl.losses import diagonal_cross_entropy
from crl.losses.candidates import candidate_cross_entropy


def slow(logits, labels, rows, candidates):
    losses = []
    for i in range(len(logits)):
        if not rows[i]:
            continue
        kept = [logits[i, j] for j in range(logits.shape[1]) if candidates[i, j] or j == labels[i]]
        losses.append(sum(score.exp() for score in kept).log() - logits[i, labels[i]])
    return sum(losses) / len(losses)


def test_against_the_definition():
    generator = th.Generator().manual_seed(0)
    logits = th.randn(5, 7, dtype=th.float64, generator=generator, requires_grad=True)
    labels = th.tensor([3, 0, 6, 3, 2])
    rows = th.tensor([True, True, False, True, True])
    candidates = th.rand(5, 7, generator=generator) > 0.4
    candidates[3] = False  # a positive alone: loss 0, and it counts in the mean
    got, want = candidate_cross_entropy(logits, labels, rows, candidates), slow(logits, labels, rows, candidates)
    th.testing.assert_close(got, want)
    th.testing.assert_close(th.autograd.grad(got, logits)[0], th.autograd.grad(want, logits)[0])
    th.testing.assert_close(
        candidate_cross_entropy(logits, labels, rows, candidates[:1]),
        slow(logits, labels, rows, candidates[:1].expand(5, 7)),
    )
    assert th.autograd.gradcheck(lambda x: candidate_cross_entropy(x, labels, rows, candidates), logits)


def test_identities():
    logits = th.randn(6, 6)
    labels = th.arange(6)
    th.testing.assert_close(candidate_cross_entropy(logits, labels), F.cross_entropy(logits, labels))
    rows, negatives = th.rand(6) > 0.3, th.rand(6, 6) > 0.3
    th.testing.assert_close(
        candidate_cross_entropy(logits, labels, rows, negatives), diagonal_cross_entropy(logits, rows, negatives)
    )


def test_no_row_is_left():
    logits = th.full((3, 4), 100.0, requires_grad=True)
    nothing = th.zeros(3, dtype=th.bool)
    loss = candidate_cross_entropy(logits, th.zeros(3, dtype=th.long), nothing, nothing[:, None])
    assert loss.item() == 0.0 and not th.autograd.grad(loss, logits)[0].any()


def test_computes_in_float32():
    assert candidate_cross_entropy(th.randn(3, 4, dtype=th.bfloat16), th.zeros(3, dtype=th.long)).dtype == th.float32


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((th.zeros(3), th.zeros(3, dtype=th.long)), r"\(rows, candidates\)"),
        ((th.zeros(3, 4), th.zeros(4, dtype=th.long)), r"labels \(rows,\)"),
        ((th.zeros(3, 4), th.zeros(3, dtype=th.long), th.ones(3)), "rows must be"),
        ((th.zeros(3, 4), th.zeros(3, dtype=th.long), None, th.ones(3, 4)), "candidates must be bool"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        candidate_cross_entropy(*arguments)

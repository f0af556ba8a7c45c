"""C51's projection against scattered sums, atom by atom."""

import math

import pytest
import torch as th

from crl.losses.categorical import categorical_cross_entropy, project_distribution


def plain(probabilities, rewards, discounts, support):
    atoms = len(support)
    spacing = (support[-1] - support[0]) / (atoms - 1)
    out = [[0.0] * atoms for _ in probabilities]
    for i, row in enumerate(probabilities):
        for j, mass in enumerate(row):
            place = (min(max(rewards[i] + discounts[i] * support[j], support[0]), support[-1]) - support[0]) / spacing
            low, high = math.floor(place + 1e-12), math.ceil(place - 1e-12)
            if low == high:
                out[i][low] += mass
            else:
                out[i][low] += mass * (high - place)
                out[i][high] += mass * (place - low)
    return th.tensor(out, dtype=th.float64)


def test_equals_the_plain_projection():
    generator = th.Generator().manual_seed(0)
    support = th.linspace(-10, 10, 51, dtype=th.float64)
    probabilities = th.rand(40, 51, generator=generator, dtype=th.float64).softmax(1)
    rewards = 8 * th.randn(40, generator=generator, dtype=th.float64)
    rewards[:10] = th.arange(10).double() * 0.4  # whole atoms
    discounts = th.where(th.arange(40) % 3 == 0, 0.0, 0.99**20).double()
    discounts[5] = 1.0
    got = project_distribution(probabilities, rewards, discounts, support)
    th.testing.assert_close(got, plain(probabilities.tolist(), rewards.tolist(), discounts.tolist(), support.tolist()))
    th.testing.assert_close(got.sum(1), th.ones(40, dtype=th.float64))
    single = project_distribution(probabilities.float(), rewards.float(), discounts.float(), support.float())
    th.testing.assert_close(single.double(), got, atol=2e-6, rtol=1e-4)


def test_keeps_the_mean_where_nothing_is_cut_off():
    support = th.linspace(-2, 2, 9)
    probabilities = th.rand(4, 9).softmax(1)
    rewards, discounts = th.tensor([0.1, -0.3, 0.5, 0.0]), th.full((4,), 0.5)
    mean = (project_distribution(probabilities, rewards, discounts, support) * support).sum(1)
    th.testing.assert_close(mean, rewards + discounts * (probabilities * support).sum(1))


def test_cross_entropy():
    target, logits = th.rand(3, 5).softmax(1), th.randn(3, 5, requires_grad=True)
    want = th.nn.functional.cross_entropy(logits, target, reduction="none")
    th.testing.assert_close(categorical_cross_entropy(target, logits), want)
    assert categorical_cross_entropy(target, logits.bfloat16()).dtype == th.float32
    th.autograd.gradcheck(lambda x: categorical_cross_entropy(target.double(), x), logits.detach().double().requires_grad_())


@pytest.mark.parametrize("rewards, discounts, atoms", [((3,), (4,), 5), ((4, 1), (4,), 5), ((4,), (4,), 6)])
def test_shapes(rewards, discounts, atoms):
    with pytest.raises(ValueError, match="need a support"):
        project_distribution(th.rand(4, 5), th.zeros(rewards), th.zeros(discounts), th.linspace(0, 1, atoms))

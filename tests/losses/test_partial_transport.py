"""Entropic partial optimal transport beside published vectors and beside plain loops in float64."""

import math

import pytest
import torch as th

from crl.losses.partial_transport import entropic_partial_transport

COST = [[0.05, 0.29, 0.19, 0.38], [0.23, 0.10, 0.33, 0.15], [0.42, 0.58, 0.25, 0.06]]
#: what POT 0.9's ot.partial.entropic_partial_wasserstein gives for unit weights
PLANS = {
    0.05: [[0.9350, 0.0077, 0.0571, 0.0003], [0.0626, 0.8475, 0.0085, 0.0816], [0.0026, 0.0001, 0.0785, 0.9183]],
    0.1: [[0.7353, 0.0667, 0.1813, 0.0166], [0.1563, 0.5733, 0.0575, 0.2129], [0.0344, 0.0069, 0.1882, 0.7705]],
}


def slow_plan(cost, regularisation, iterations=100):
    """Dykstra's iterations entry by entry, with a full matrix of factors for each of the three constraints."""
    m, n = len(cost), len(cost[0])
    mass = min(m, n)
    cells = [(i, j) for i in range(m) for j in range(n)]
    plan = {(i, j): math.exp(-cost[i][j] / regularisation) for i, j in cells}
    total = sum(plan.values())
    plan = {cell: value * mass / total for cell, value in plan.items()}
    factors = [dict.fromkeys(cells, 1.0) for _ in range(3)]
    for _ in range(iterations):
        for k in range(3):
            x = {cell: plan[cell] * factors[k][cell] for cell in cells}
            if k == 0:
                scale = {i: min(1.0, 1.0 / sum(x[i, j] for j in range(n))) for i in range(m)}
                plan = {(i, j): x[i, j] * scale[i] for i, j in cells}
            elif k == 1:
                scale = {j: min(1.0, 1.0 / sum(x[i, j] for i in range(m))) for j in range(n)}
                plan = {(i, j): x[i, j] * scale[j] for i, j in cells}
            else:
                total = sum(x.values())
                plan = {cell: value * mass / total for cell, value in x.items()}
            factors[k] = {cell: x[cell] / plan[cell] for cell in cells}
    return [[plan[i, j] for j in range(n)] for i in range(m)]


def random_cost(m, n, seed=0):
    return 2.0 * th.rand(m, n, generator=th.Generator().manual_seed(seed), dtype=th.float64)


@pytest.mark.parametrize("regularisation", PLANS)
def test_the_published_vectors(regularisation):
    plan = entropic_partial_transport(th.tensor(COST), regularisation)
    assert plan.dtype == th.float32
    th.testing.assert_close(plan, th.tensor(PLANS[regularisation]), atol=6e-5, rtol=0)


def test_the_vectors_matches():
    assert (entropic_partial_transport(th.tensor(COST)) > 0.5).nonzero().tolist() == [[0, 0], [1, 1], [2, 3]]


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1), (3, 4), (6, 6), (8, 3)])
def test_plain_loops_give_the_same(shape):
    cost = random_cost(*shape, seed=sum(shape))
    want = th.tensor(slow_plan(cost.tolist(), 0.05), dtype=th.float64)
    th.testing.assert_close(entropic_partial_transport(cost), want, rtol=1e-9, atol=1e-12)
    th.testing.assert_close(entropic_partial_transport(cost.float()), want.float(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("shape", [(4, 7), (7, 4), (5, 5)])
def test_constraints(shape):
    plan = entropic_partial_transport(random_cost(*shape), iterations=2000)
    assert (plan >= 0).all() and plan.sum().item() == pytest.approx(min(shape))
    assert (plan.sum(0) < 1 + 1e-3).all() and (plan.sum(1) < 1 + 1e-3).all()


def test_a_permuted_set_is_recovered():
    generator = th.Generator().manual_seed(0)
    x = th.nn.functional.normalize(th.randn(9, 16, generator=generator), dim=1)
    order = th.randperm(9, generator=generator)
    plan = entropic_partial_transport(1 - x @ x[order].T)
    assert (plan > 0.5).nonzero().tolist() == [[i, order.tolist().index(i)] for i in range(9)]


def test_one_to_one_is_forced():
    assert entropic_partial_transport(th.tensor([[1.9]])).item() == 1.0


def test_padding_does_not_count():
    """Sets of different size in one call, with rubbish in the padding."""
    sizes = [(3, 4), (2, 6), (5, 1)]
    cost = th.full((3, 5, 6), -7.0, dtype=th.float64)
    rows, columns = th.zeros(3, 5, dtype=th.bool), th.zeros(3, 6, dtype=th.bool)
    for k, (m, n) in enumerate(sizes):
        cost[k, :m, :n] = random_cost(m, n, seed=k)
        rows[k, :m], columns[k, :n] = True, True
    plan = entropic_partial_transport(cost, rows=rows, columns=columns)
    for k, (m, n) in enumerate(sizes):
        th.testing.assert_close(plan[k, :m, :n], entropic_partial_transport(cost[k, :m, :n]))
        assert plan[k].sum().item() == pytest.approx(min(m, n)), "nothing lies in the padding"


def test_all_padding_moves_nothing():
    plan = entropic_partial_transport(th.ones(2, 2), rows=th.zeros(2, dtype=th.bool))
    assert th.equal(plan, th.zeros(2, 2))


@pytest.mark.parametrize("large", [50.0, 1000.0])
def test_large_costs_do_not_vanish(large):
    plan = entropic_partial_transport(th.tensor(COST) + large)
    th.testing.assert_close(plan, th.tensor(PLANS[0.05]), atol=2e-3, rtol=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(cost=th.ones(3)), "must be"),
        (dict(cost=th.ones(0, 3)), "at least one row"),
        (dict(cost=th.ones(2, 2), regularisation=0.0), "regularisation"),
        (dict(cost=th.ones(2, 2), iterations=0), "iterations"),
        (dict(cost=th.ones(2, 2), rows=th.ones(3, dtype=th.bool)), "rows must be"),
        (dict(cost=th.ones(2, 2), columns=th.ones(2)), "columns must be"),
    ],
)
def test_wrong_values(arguments, message):
    with pytest.raises(ValueError, match=message):
        entropic_partial_transport(**arguments)

"""Entropic partial optimal transport: which items of two sets belong together, when some belong to nothing."""

from __future__ import annotations

import torch as th

from crl.losses.checks import check_mask, check_number, common_float


@th.no_grad()
def entropic_partial_transport(
    cost: th.Tensor,
    regularisation: float = 0.05,
    iterations: int = 100,
    rows: th.Tensor | None = None,
    columns: th.Tensor | None = None,
) -> th.Tensor:
    """
    The plan P >= 0 of least ``sum(P * cost) - regularisation * entropy(P)`` whose rows and columns sum to at most 1 and which
    moves as much as can be moved, ``min(m, n)`` in total, by Dykstra's iterations on Kullback-Leibler projections (Benamou et
    al. 2015, arXiv:1412.5154, section 5). Every item of the smaller set goes somewhere, however much that costs: bad matches
    are told by entries that are small.

    :param cost: ``(..., m, n)`` of any float type; computed in float32 (float64 stays)
    :param regularisation: positive. Costs that lie more than about 80 times this above the smallest count as infinite.
    :param iterations: of three projections each, at least 1
    :param rows: ``(..., m)`` bool, False: this row is padding, is given nothing and does not count in ``min(m, n)``
    :param columns: ``(..., n)`` bool, likewise
    :return: ``(..., m, n)`` float32, without graph
    :raises ValueError: for shapes that do not fit, an empty set, or values out of range
    """
    if cost.dim() < 2 or 0 in cost.shape[-2:]:
        raise ValueError(f"cost must be (..., m, n) with at least one row and column, got {tuple(cost.shape)}")
    check_number("regularisation", regularisation, 0.0, strict=True)
    check_number("iterations", iterations, 1)
    here = th.ones_like(cost, dtype=th.bool)
    if rows is not None:
        check_mask(rows, cost.shape[:-1], "rows")
        here = here & rows[..., :, None]
    if columns is not None:
        check_mask(columns, th.Size((*cost.shape[:-2], cost.shape[-1])), "columns")
        here = here & columns[..., None, :]
    cost = cost.to(common_float(cost)).masked_fill(~here, float("inf"))
    # the plan is scaled to its mass, so a constant does not matter; without it the exponential of large costs is all zeros
    plan = th.exp((cost.amin(dim=(-2, -1), keepdim=True) - cost) / regularisation).masked_fill(~here, 0.0)
    mass = th.minimum(here.any(-1).sum(-1), here.any(-2).sum(-1)).to(plan.dtype)[..., None, None]
    plan = plan * _ratio(mass, plan.sum((-2, -1), keepdim=True))
    # What a projection takes off is given back before it is applied again: a factor for each row, each column, and all
    of_rows = of_columns = of_all = plan.new_ones(())
    for _ in range(iterations):
        plan = plan * of_rows
        scale = (1.0 / plan.sum(-1, keepdim=True)).clamp(max=1.0)
        plan, of_rows = plan * scale, 1.0 / scale
        plan = plan * of_columns
        scale = (1.0 / plan.sum(-2, keepdim=True)).clamp(max=1.0)
        plan, of_columns = plan * scale, 1.0 / scale
        plan = plan * of_all
        scale = _ratio(mass, plan.sum((-2, -1), keepdim=True))
        plan, of_all = plan * scale, 1.0 / scale
    return plan


def _ratio(mass: th.Tensor, total: th.Tensor) -> th.Tensor:
    """By how much to scale; 1 where nothing is to be moved, since all is padding."""
    return th.where(mass > 0, mass / total, th.ones_like(total))

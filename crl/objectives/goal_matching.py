"""Which sub-goals of other episodes are the same as those of one episode."""

from __future__ import annotations

from dataclasses import dataclass

import torch as th

from crl.losses.checks import unit_rows
from crl.losses.partial_transport import entropic_partial_transport


@dataclass
class MatchedPairs:
    """
    Pairs of a source's goal and a goal of another episode.

    :param source: ``(pairs,)`` int64, goals of the source
    :param target: ``(pairs,)`` int64, rows among the goals of all targets
    :param owner: ``(pairs,)`` int64, the target episode that each is of
    """

    source: th.Tensor
    target: th.Tensor
    owner: th.Tensor

    def __len__(self) -> int:
        return len(self.source)


@th.no_grad()
def match_goals(
    source: th.Tensor,
    targets: th.Tensor,
    sizes: list[int],
    regularisation: float = 0.05,
    threshold: float = 0.5,
    iterations: int = 100,
) -> MatchedPairs:
    """
    Each target episode is matched with the source on its own, by entropic partial optimal transport over cosine distances;
    entries of the plan above the threshold are pairs. All targets take one computation, padded to the longest.

    :param source: ``(m, width)``, goals of the source
    :param targets: ``(sum(sizes), width)``, goals of all targets, one target after the other
    :param sizes: goals of each target, each at least 1
    :param regularisation: see :func:`crl.losses.partial_transport.entropic_partial_transport`
    :param threshold: of the plan's entries, which lie in 0..1
    :param iterations: of the transport
    :return: pairs, in the order of the targets
    :raises ValueError: when sizes do not fit, or a set is empty
    """
    if sum(sizes) != len(targets) or min(sizes, default=0) < 1 or not len(source):
        raise ValueError(f"{len(source)} goals to match with {sizes} of {len(targets)}: all at least 1, and sizes must add up")
    device = targets.device
    counts = th.tensor(sizes, device=device)
    columns = th.arange(max(sizes), device=device) < counts[:, None]  # (targets, longest)
    first = counts.cumsum(0) - counts
    index = (first[:, None] + th.arange(max(sizes), device=device)).clamp(max=len(targets) - 1)
    distance = 1.0 - unit_rows(source) @ unit_rows(targets).T  # (m, all)
    cost = distance[:, index].transpose(0, 1)  # (targets, m, longest)
    plan = entropic_partial_transport(cost, regularisation, iterations, columns=columns)
    owner, of_source, of_target = (plan > threshold).nonzero().unbind(1)
    return MatchedPairs(of_source, first[owner] + of_target, owner)

"""Crops of episodes of different lengths, and steps of them that are masked."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch as th


class Crops(NamedTuple):
    """
    A crop of each episode.

    :param rows: ``(batch, steps, width)``
    :param mask: ``(batch, steps)`` bool, False: behind the end of the crop
    """

    rows: th.Tensor
    mask: th.Tensor


def crop_episodes(
    rows: th.Tensor,
    lengths: th.Tensor,
    low: int,
    high: int,
    generator: th.Generator | None = None,
    max_share: float = 1.0,
) -> Crops:
    """
    One crop of each episode, all of one length where the episodes are long enough: a length of a crop's own would tell
    episodes apart. Length and place are drawn anew for each call and shared by the batch, as CLAM does; of an episode that is
    too short for the crop as much as allowed is taken, and the place is relative to what is left of each episode.

    :param rows: ``(batch, steps, width)``
    :param lengths: ``(batch,)`` int64, how many rows of each count, from the first on; at least 1
    :param low: smallest length of a crop
    :param high: largest length; never longer than the longest episode
    :param generator: of the draws, on the rows' device
    :param max_share: of an episode that a crop takes at most, but no fewer than ``low`` rows. With 1, two crops of a short
        episode are one and the same: they are told to belong together by what happened in it, whoever took part.
    """
    device = rows.device
    longest = rows.shape[1]
    low, high = min(low, longest), min(high, longest)
    # on the device, so that nothing waits: steps behind the length that is drawn are cut off only where that is free
    size = th.randint(low, high + 1, (), device=device, generator=generator)
    place = th.rand((), device=device, generator=generator)
    allowed = lengths if max_share == 1.0 else (max_share * lengths).long().clamp(min=low).minimum(lengths)
    sizes = allowed.clamp(max=size)
    starts = (place * (lengths - sizes + 1)).long().clamp(max=lengths - sizes)
    steps = int(size) if device.type == "cpu" else high
    offsets = th.arange(steps, device=device)
    index = (starts[:, None] + offsets).clamp(max=(lengths - 1)[:, None])
    return Crops(rows.gather(1, index[:, :, None].expand(-1, -1, rows.shape[2])), offsets < sizes[:, None])


def mask_steps(crops: Crops, ratio: float, generator: th.Generator | None = None) -> Crops:
    """
    Set some steps of each crop to zero. They keep their positions and still take part, as zeros: where something is missing
    can be seen.

    :param crops: from :func:`crop_episodes`
    :param ratio: of the steps that count, rounded up
    :param generator: of the draws, on the rows' device
    """
    draws = th.rand(crops.mask.shape, device=crops.mask.device, generator=generator)
    rank = draws.masked_fill(~crops.mask, math.inf).argsort(dim=1).argsort(dim=1)
    hidden = rank < th.ceil(ratio * crops.mask.sum(dim=1, keepdim=True))
    return Crops(crops.rows.masked_fill(hidden[:, :, None], 0.0), crops.mask)

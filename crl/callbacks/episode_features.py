"""Stored episodes of frames as objectives on histories take them: as vectors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch as th

from crl.contract import EpisodeBatch
from crl.objectives.windows import counted


def with_features(batch: EpisodeBatch, see: Callable[[th.Tensor], th.Tensor], n_stack: int = 1) -> EpisodeBatch:
    """
    Every frame that counts goes through the CNN once, as it is now; where nothing counts, features are zeros.

    :param batch: of whole episodes, whose observations are frames ``(batch, T + 1, channels, height, width)`` uint8
    :param see: images ``(n, n_stack * channels, height, width)`` to features ``(n, width)``
    :param n_stack: frames that are seen together, the oldest first; before the first one of an episode, that one again
    :return: the same with observations ``(batch, T + 1, width)``
    """
    there = counted(batch)
    # not all of the rectangle: CNNs cost more than waiting for how many there are
    episode, time = there.nonzero(as_tuple=True)
    frames = [batch.obs[episode, (time - back).clamp(min=0)] for back in reversed(range(n_stack))]
    features = see(th.cat(frames, dim=1))
    obs = features.new_zeros(*there.shape, features.shape[1])
    obs[there] = features
    return replace(batch, obs=obs)

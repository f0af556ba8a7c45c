"""Actions as vectors that a network can take in."""

from __future__ import annotations

import torch as th
import torch.nn.functional as F
from gymnasium import spaces
from torch import nn


class ActionVectors(nn.Module):
    """
    Discrete actions as one-hot vectors, MultiDiscrete ones as several, MultiBinary ones as zeros and ones, continuous ones
    as they are stored, in [-1, 1]. A linear layer after it is what is called a learned action embedding.

    :param space: of the actions
    :raises ValueError: for a space that SB3 does not know either
    """

    def __init__(self, space: spaces.Space) -> None:
        super().__init__()
        self.sizes: list[int] = []
        self.starts: list[int] = []
        if isinstance(space, spaces.Discrete):
            self.sizes, self.starts = [int(space.n)], [int(space.start)]
        elif isinstance(space, spaces.MultiDiscrete):
            if space.nvec.ndim != 1:
                raise ValueError(f"{space}: MultiDiscrete actions must be a vector, as SB3 wants them")
            self.sizes, self.starts = [int(n) for n in space.nvec], [int(start) for start in space.start]
        elif not isinstance(space, spaces.Box | spaces.MultiBinary):
            raise ValueError(f"actions in {space}: choose Box, Discrete, MultiDiscrete or MultiBinary")
        self.in_dim = len(self.sizes) or int(th.Size(space.shape or ()).numel())
        #: width of the vectors
        self.dim = sum(self.sizes) or self.in_dim

    def forward(self, actions: th.Tensor) -> th.Tensor:
        """
        :param actions: ``(..., action_dim)``, as in :class:`crl.contract.SequenceBatch`
        :return: ``(..., dim)`` float32
        :raises ValueError: for another ``action_dim``
        """
        if actions.shape[-1] != self.in_dim:
            raise ValueError(f"actions must be (..., {self.in_dim}), got {tuple(actions.shape)}")
        if not self.sizes:
            return actions.float()
        parts = [
            F.one_hot(actions[..., i].long() - start, size)
            for i, (size, start) in enumerate(zip(self.sizes, self.starts, strict=True))
        ]
        return th.cat(parts, dim=-1).float()

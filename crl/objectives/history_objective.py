"""What objectives on histories of whole episodes have in common: CLAM, LIAM, prediction of the partner's id."""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple

import torch as th
from torch import nn

from crl.contract import EpisodeBatch, Metrics
from crl.networks import ema_copy, ema_update
from crl.networks.history_encoder import HistoryEncoder
from crl.objectives.windows import counted


class PartnerSpaces(NamedTuple):
    """
    What an environment's others are like.

    :param n_partners: P, how many there are in the pool
    :param n_others: agents besides the ego agent
    :param n_actions: each of them can take
    :param observation_dim: width of what they see, all together
    """

    n_partners: int
    n_others: int = 0
    n_actions: int = 0
    observation_dim: int = 0


class HistoryObjective(nn.Module):
    """
    Trains a :class:`crl.networks.history_encoder.HistoryEncoder` on whole episodes. As :class:`crl.contract.Objective`, but
    for what it sees: vectors and actions of all steps of an episode, not images, and an encoder of its own, that no agent's
    loss reaches.

    The agent acts on :attr:`target`, an exponential moving average of the encoder.

    :param tau: rate of that average at each step; 1: the encoder itself
    :raises ValueError: for a rate outside of (0, 1]
    """

    #: fields of :class:`crl.contract.EpisodeBatch` that must be there, for objectives that need to be told of the others
    needs: tuple[str, ...] = ()
    encoder: HistoryEncoder
    target: HistoryEncoder

    def __init__(self, tau: float) -> None:
        super().__init__()
        if not 0.0 < tau <= 1.0:
            raise ValueError(f"{type(self).__name__}(tau={tau}): the EMA rate of the acting encoder lies in (0, 1]")
        self.tau = tau

    @property
    def name(self) -> str:
        """How metrics name it."""
        return type(self).__name__.lower()

    @property
    def is_built(self) -> bool:
        """Whether :meth:`build` was called."""
        return "encoder" in self._modules

    def build(self, encoder: HistoryEncoder, spaces: PartnerSpaces | None = None) -> None:
        """
        Take the encoder over, make its EMA copy and the heads. Call it with torch's generator seeded.

        :param encoder: to train
        :param spaces: of the others, for objectives with :attr:`needs`
        :raises ValueError: when those are needed and missing
        """
        if self.needs and spaces is None:
            raise ValueError(f"{type(self).__name__} needs to be told of the others ({', '.join(self.needs)}) in training")
        self.encoder = encoder.requires_grad_(True)
        self.target = ema_copy(encoder)
        self.build_heads(encoder, spaces)
        self.to(encoder.output.weight.device)

    @abstractmethod
    def build_heads(self, encoder: HistoryEncoder, spaces: PartnerSpaces | None) -> None:
        """
        :param encoder: to be trained
        :param spaces: of the others
        """

    @abstractmethod
    def loss(self, batch: EpisodeBatch) -> tuple[th.Tensor, Metrics]:
        """
        :param batch: of whole episodes
        :return: scalar float32 loss with a graph, and detached scalars for the log
        """

    def after_step(self) -> None:
        """EMA step of the acting encoder."""
        ema_update(self.target, self.encoder, self.tau)

    def rows_of(self, batch: EpisodeBatch) -> tuple[th.Tensor, th.Tensor]:
        """
        :param batch: of whole episodes
        :return: rows ``(batch, T + 1, width)`` and how many of each count, ``(batch,)`` int64
        """
        return self.encoder.rows(batch.obs, batch.actions), counted(batch).sum(dim=1)

    def told(self, batch: EpisodeBatch, name: str) -> th.Tensor:
        """
        :param batch: of whole episodes
        :param name: field that :attr:`needs` names
        :raises ValueError: when the batch lacks it
        """
        value: th.Tensor | None = getattr(batch, name)
        if value is None:
            raise ValueError(
                f"{type(self).__name__} needs {name} and the batch has none: the environment must give info[{name!r}] at "
                "reset and at each step, as lbf/<id> and mpe/<id> do"
            )
        return value

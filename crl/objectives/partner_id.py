"""CBAM: classification-based agent modelling, the supervised control of Papoudakis et al. 2021 (arXiv:2006.09447)."""

from __future__ import annotations

import torch as th
import torch.nn.functional as F
from torch import nn

from crl.contract import EpisodeBatch, Metrics
from crl.networks.history_encoder import HistoryEncoder
from crl.objectives.history_objective import HistoryObjective, PartnerSpaces
from crl.objectives.liam import draw_moments


class PartnerId(HistoryObjective):
    """
    The embedding of what the ego agent has seen up to some step should tell, linearly, which of the pool the partner is:
    cross-entropy at ``moments`` steps of each episode. The ceiling of what an encoder of this kind can find out; it must be
    told who they are in training.

    :param moments: steps of each episode in a batch
    :param tau: rate of the acting encoder's EMA at each step
    :raises ValueError: for values out of range
    """

    needs = ("partner_id",)

    def __init__(self, moments: int = 2, tau: float = 1.0) -> None:
        super().__init__(tau)
        if moments < 1:
            raise ValueError(f"PartnerId(moments={moments}): at least 1")
        self.moments = moments
        self.head: nn.Linear

    @property
    def name(self) -> str:
        """How metrics name it."""
        return "cbam"

    def build_heads(self, encoder: HistoryEncoder, spaces: PartnerSpaces | None) -> None:
        """See :class:`HistoryObjective`."""
        assert spaces is not None
        self.head = nn.Linear(encoder.features_dim, spaces.n_partners)

    def loss(self, batch: EpisodeBatch) -> tuple[th.Tensor, Metrics]:
        """See :meth:`HistoryObjective.loss`."""
        partner = self.told(batch, "partner_id")
        rows, lengths = self.rows_of(batch)
        loss = right = th.zeros((), device=rows.device)
        for moment in draw_moments(lengths, self.moments, batch.generator):
            # not of length 1: the head's logits would be too alike to say that one is sure
            logits = self.head(self.encoder.prefixes(rows, moment + 1))
            loss = loss + F.cross_entropy(logits, partner) / self.moments
            right = right + (logits.argmax(dim=1) == partner).float().mean() / self.moments
        return loss, {"loss": loss.detach(), "accuracy": right.detach()}

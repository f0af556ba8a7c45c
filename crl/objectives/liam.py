"""LIAM: local information agent modelling (Papoudakis et al. 2021, arXiv:2006.09447)."""

from __future__ import annotations

import torch as th
import torch.nn.functional as F
from torch import nn

from crl.contract import EpisodeBatch, Metrics
from crl.networks.history_encoder import HistoryEncoder
from crl.objectives.history_objective import HistoryObjective, PartnerSpaces


class LIAM(HistoryObjective):
    """
    The embedding of what the ego agent has seen so far should tell what the others see and do just now: from e at step t, a
    decoder predicts their observations (half the summed squared error) and their actions (cross-entropy, summed over the
    others); both count alike. In training it must be told both; acting takes the encoder alone.

    The authors' encoder is an LSTM, trained on each step of an episode; here it is that of :class:`AgentModel`, so that the
    two differ in the loss alone, and ``moments`` steps of each episode are drawn, since a transformer that looks both ways is
    run once for each. As the agent acts on the latest encoder, the EMA rate is 1.

    :param hidden_dim: of both decoders' two layers
    :param moments: steps of each episode in a batch
    :param tau: rate of the acting encoder's EMA at each step
    :raises ValueError: for values out of range
    """

    needs = ("partner_actions", "partner_observations")

    def __init__(self, hidden_dim: int = 128, moments: int = 2, tau: float = 1.0) -> None:
        super().__init__(tau)
        if hidden_dim < 1 or moments < 1:
            raise ValueError(f"LIAM(hidden_dim={hidden_dim}, moments={moments}): both at least 1")
        self.hidden_dim = hidden_dim
        self.moments = moments
        self.n_actions = 0
        self.observation_decoder: nn.Sequential
        self.action_decoder: nn.Sequential

    def build_heads(self, encoder: HistoryEncoder, spaces: PartnerSpaces | None) -> None:
        """See :class:`HistoryObjective`."""
        assert spaces is not None
        self.n_actions = spaces.n_actions
        self.observation_decoder = self._decoder(encoder.features_dim, spaces.observation_dim)
        self.action_decoder = self._decoder(encoder.features_dim, spaces.n_others * spaces.n_actions)

    def _decoder(self, inputs: int, outputs: int) -> nn.Sequential:
        hidden = self.hidden_dim
        layers = [nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, outputs)]
        return nn.Sequential(*layers)

    def loss(self, batch: EpisodeBatch) -> tuple[th.Tensor, Metrics]:
        """See :meth:`HistoryObjective.loss`."""
        actions, observations = self.told(batch, "partner_actions"), self.told(batch, "partner_observations")
        rows, lengths = self.rows_of(batch)
        # the last observation is followed by no action: at least one row, and not that one
        moments = draw_moments(lengths - 1, self.moments, batch.generator)
        reconstruction = imitation = right = th.zeros((), device=rows.device)
        for moment in moments:
            z = self.encoder.encode_prefixes(rows, moment + 1)
            every = th.arange(len(rows), device=rows.device)
            error = self.observation_decoder(z) - observations[every, moment]
            reconstruction = reconstruction + 0.5 * error.square().sum(dim=1).mean()
            logits = self.action_decoder(z).view(-1, self.n_actions)
            did = actions[every, moment]
            imitation = imitation + F.cross_entropy(logits, did.flatten()) * did.shape[1]
            right = right + (logits.argmax(dim=1) == did.flatten()).float().mean()
        loss = (reconstruction + imitation) / self.moments
        metrics = {"loss": loss, "reconstruction": reconstruction / self.moments, "action_loss": imitation / self.moments}
        metrics["action_accuracy"] = right / self.moments
        return loss, {key: value.detach() for key, value in metrics.items()}


def draw_moments(lengths: th.Tensor, n: int, generator: th.Generator | None) -> th.Tensor:
    """
    :param lengths: ``(batch,)`` int64, at least 1
    :param n: draws for each
    :param generator: of the draws, on the lengths' device
    :return: ``(n, batch)`` int64, uniform from 0 to each length - 1
    """
    draws = th.rand((n, len(lengths)), device=lengths.device, generator=generator)
    return (draws * lengths).long().clamp(max=lengths - 1)

"""CURL: contrastive unsupervised representations for RL (Laskin et al. 2020, arXiv:2004.04136)."""

from __future__ import annotations

from typing import Literal

import torch as th
from torch import nn

from crl.contract import Augmentation, DataRequest, Encoder, Metrics, Objective, SequenceBatch, Spaces, ViewBatch
from crl.losses import bilinear_logits, diagonal_cross_entropy
from crl.metrics import negative_similarity, positive_similarity, top1_accuracy
from crl.networks import ema_copy, ema_update


class CURL(Objective):
    """
    Two random views of the same observation should be recognised among all others of the batch:
    ``logits[i, j] = q_i^T W k_j`` and cross-entropy with ``labels = arange(batch)``. Queries come from the agent's encoder,
    keys from a slowly moving copy of it, without gradient. No temperature, no normalisation: W learns the scale.

    As published, W starts uniform in [0, 1) and the key encoder follows with 0.05 at every second update.

    :param keys: ``"own"``: an EMA copy kept by the objective. ``"target"``: the agent's target encoder (that of SAC's target
        critic, as in the authors' code), which the agent itself moves, at its own rate; ``tau`` is then not used.
        ``"online"``: keys from the encoder itself, without gradient (the paper's ablation).
    :param tau: rate of the own EMA copy, in (0, 1]
    :param target_update_interval: updates between two EMA steps of the own copy
    :param augment: makes the views; None takes the replay buffer's
    """

    request = DataRequest("views", views=2)

    def __init__(
        self,
        keys: Literal["own", "target", "online"] = "own",
        tau: float = 0.05,
        target_update_interval: int = 2,
        augment: Augmentation | None = None,
    ) -> None:
        super().__init__(augment)
        if keys not in ("own", "target", "online"):
            raise ValueError(f"CURL(keys={keys!r}): choose 'own', 'target' or 'online'")
        if not 0.0 < tau <= 1.0:
            raise ValueError(f"CURL(tau={tau}): the EMA rate of the key encoder lies in (0, 1]")
        if target_update_interval < 1:
            raise ValueError(f"CURL(target_update_interval={target_update_interval}): at least 1 update")
        self.keys = keys
        self.tau = tau
        self.target_update_interval = target_update_interval
        self.n_updates = 0
        self.weight: nn.Parameter
        self.key_encoder: nn.Module

    def build(self, encoder: Encoder, spaces: Spaces) -> None:
        """See :meth:`crl.contract.Objective.build`."""
        if self.keys == "target" and encoder.target is None:
            raise ValueError(
                "CURL(keys='target'): this agent has no target encoder (on-policy agents have none); use keys='own'"
            )
        self.encoder = encoder
        device = next(iter(encoder.parameters())).device
        self.weight = nn.Parameter(th.rand(encoder.features_dim, encoder.features_dim, device=device))
        if self.keys == "own":
            self.key_encoder = ema_copy(encoder)  # type: ignore[assignment]

    def _encode_keys(self, views: th.Tensor) -> th.Tensor:
        if self.keys == "own":
            return self.key_encoder(views)
        if self.keys == "online":
            return self.encoder(views)
        target = self.encoder.target
        assert target is not None  # checked in build
        return target(views)

    def loss(self, batch: ViewBatch | SequenceBatch, features: th.Tensor | None = None) -> tuple[th.Tensor, Metrics]:
        """See :meth:`crl.contract.Objective.loss`."""
        assert isinstance(batch, ViewBatch)
        query = self.encoder(batch.views[0]) if features is None else features
        with th.no_grad():
            key = self._encode_keys(batch.views[1])
        logits = bilinear_logits(query, key, self.weight)
        loss = diagonal_cross_entropy(logits)
        scores = logits.detach()
        metrics = {
            "loss": loss.detach(),
            "accuracy": top1_accuracy(scores),
            "positive_similarity": positive_similarity(scores),
            "negative_similarity": negative_similarity(scores),
        }
        return loss, metrics

    def after_step(self) -> None:
        """EMA step of the own key encoder, at every ``target_update_interval``-th update."""
        self.n_updates += 1
        if self.keys == "own" and self.n_updates % self.target_update_interval == 0:
            online = self.encoder
            assert isinstance(online, nn.Module)
            ema_update(self.key_encoder, online, self.tau)

    def get_extra_state(self) -> dict[str, int]:
        """The update counter is part of the state: a resumed run must keep the rhythm of its EMA steps."""
        return {"n_updates": self.n_updates}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """See :meth:`get_extra_state`."""
        self.n_updates = state["n_updates"]

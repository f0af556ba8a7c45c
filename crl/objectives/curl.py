"""CURL: contrastive unsupervised representations for RL (Laskin et al. 2020, arXiv:2004.04136)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch as th
from torch import nn

from crl.contract import Augmentation, DataRequest, Encoder, Metrics, Objective, SequenceBatch, Spaces, ViewBatch
from crl.losses import bilinear_logits, diagonal_cross_entropy
from crl.metrics import contrast_metrics
from crl.networks import ema_copy, ema_update
from crl.objectives.pair_head import Keys, PairHead
from crl.objectives.windows import device_of


class CURL(Objective):
    """
    Two random views of the same observation should be recognised among all others of the batch:
    ``logits[i, j] = q_i^T W k_j`` and cross-entropy with ``labels = arange(batch)``. Queries come from the agent's encoder,
    keys from a slowly moving copy of it, without gradient. No temperature, no normalisation: W learns the scale.

    As published, W starts uniform in [0, 1) and the key encoder follows with 0.05 at every second update.

    Two views can be told to agree by other losses too, each with the networks and gradients of its paper around it:

    - ``CURL(loss="negative_cosine")``: BYOL, a predictor and an EMA target, no negatives; with ``keys="online"`` SimSiam.
    - ``CURL(loss="vicreg")``, ``"barlow_twins"``, ``"whitening_mse"``: no negatives, a projector, both views trained.
    - ``CURL(loss="nt_xent")`` (SimCLR), ``"decoupled"``, ``"debiased"``, ``"hard_negative"``, ``"model_aware"``: a projector,
      both views trained. ``"alignment_uniformity"``: the same without projector.
    - ``CURL(loss="info_nce")``: as CURL, but cosines and a temperature. ``"moco"``, ``"adaptive_soft"``: negatives from a
      queue of earlier keys.

    :param keys: ``"own"``: an EMA copy kept by the objective. ``"target"``: the agent's target encoder (that of SAC's target
        critic, as in the authors' code), which the agent itself moves, at its own rate; ``tau`` then moves the projector's
        copy alone. ``"online"``: keys from the encoder itself, without gradient (the paper's ablation; SimSiam).
        ``"trained"``: from the encoder itself, with gradient. None: as published for the loss, ``"own"`` for CURL's
    :param tau: rate of the own EMA copy, in (0, 1]; BYOL begins with 0.004 at every update
    :param target_update_interval: updates between two EMA steps of the own copy
    :param augment: makes the views; None takes the replay buffer's
    :param loss: name of a loss of pairs, see :func:`crl.losses.pair_loss`
    :param loss_kwargs: its parameters, such as ``dict(temperature=0.1)``
    :param projector: widths of the layers between features and loss, ``()`` for none; None: as published for the loss, scaled
        to an agent's features (see ``crl/objectives/pair_head.py``)
    :param predictor: widths of the layers that the query alone goes through; likewise
    :param symmetric: both views are queries in turn, at twice the cost of the encoder, and the loss is the mean of both. None:
        as published for the loss: BYOL and SimSiam are
    :raises ValueError: for names and values that do not exist, and for combinations that are known to collapse
    """

    request = DataRequest("views", views=2)

    def __init__(
        self,
        keys: Keys | None = None,
        tau: float = 0.05,
        target_update_interval: int = 2,
        augment: Augmentation | None = None,
        loss: str = "bilinear",
        loss_kwargs: dict[str, Any] | None = None,
        projector: Sequence[int] | None = None,
        predictor: Sequence[int] | None = None,
        symmetric: bool | None = None,
    ) -> None:
        super().__init__(augment)
        if not 0.0 < tau <= 1.0:
            raise ValueError(f"CURL(tau={tau}): the EMA rate of the key encoder lies in (0, 1]")
        if target_update_interval < 1:
            raise ValueError(f"CURL(target_update_interval={target_update_interval}): at least 1 update")
        try:
            head = PairHead(loss, loss_kwargs, keys, projector, predictor, symmetric)
        except ValueError as error:
            raise ValueError(f"CURL: {error}") from error
        #: branches of the losses beside CURL's own, which compares features as they are: then None
        self.head: PairHead | None = None
        if head.pair.name != "bilinear":
            self.head = head
        elif head.projector_widths or head.predictor_widths or head.symmetric:
            raise ValueError(
                "CURL(loss='bilinear') compares features as they are: no projector=, predictor= or symmetric=; "
                "loss='info_nce' takes them"
            )
        self.keys: Keys = head.keys
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
        device = device_of(encoder)
        if self.head is None:
            self.weight = nn.Parameter(th.rand(encoder.features_dim, encoder.features_dim, device=device))
        else:
            self.head.build(encoder.features_dim, device)
        if self.keys == "own":
            self.key_encoder = ema_copy(encoder)  # type: ignore[assignment]

    def _encode_keys(self, views: th.Tensor) -> th.Tensor:
        if self.keys == "trained":
            return self.encoder(views)
        with th.no_grad():
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
        if self.head is None:
            key = self._encode_keys(batch.views[1])
            logits = bilinear_logits(query, key, self.weight)
            loss = diagonal_cross_entropy(logits)
            scores = logits.detach()
        elif self.head.symmetric:
            loss, scores = self._both_directions(self.head, batch, query)
        else:
            loss, scores = self.head(query, self._encode_keys(batch.views[1]))
        return loss, contrast_metrics(loss, scores)

    def _both_directions(self, head: PairHead, batch: ViewBatch, first: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        second = self.encoder(batch.views[1])
        if self.keys in ("own", "target"):
            keys = [self._encode_keys(view) for view in batch.views]
        else:
            # the head detaches the keys of "online"
            keys = [first, second]
        loss, scores = head(first, keys[1])
        return (loss + head(second, keys[0])[0]) / 2.0, scores

    def after_step(self) -> None:
        """EMA step of the own key encoder, at every ``target_update_interval``-th update; keys enter the queue."""
        self.n_updates += 1
        if self.n_updates % self.target_update_interval == 0:
            if self.keys == "own":
                online = self.encoder
                assert isinstance(online, nn.Module)
                ema_update(self.key_encoder, online, self.tau)
            if self.head is not None:
                self.head.follow(self.tau)
        if self.head is not None:
            self.head.after_step()

    def get_extra_state(self) -> dict[str, int]:
        """The update counter is part of the state: a resumed run must keep the rhythm of its EMA steps."""
        return {"n_updates": self.n_updates}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """See :meth:`get_extra_state`."""
        self.n_updates = state["n_updates"]

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Models saved before there were other losses hold a CURL without ``head``."""
        super().__setstate__(state)
        if "head" not in self._modules and "head" not in self.__dict__:
            self.head = None

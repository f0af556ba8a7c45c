"""ATC: augmented temporal contrast (Stooke et al. 2020, arXiv:2009.08319)."""

from __future__ import annotations

from typing import Any

import torch as th
from torch import nn

from crl.contract import Augmentation, DataRequest, Encoder, Metrics, Objective, SequenceBatch, Spaces, ViewBatch
from crl.metrics import contrast_metrics
from crl.networks import ema_copy, ema_update
from crl.objectives.pair_head import PairHead
from crl.objectives.windows import as_windows, candidates_of, check_negatives, device_of, far_apart, pair_contrast, views_of


class ATC(Objective):
    """
    An observation should be recognised from the one k steps before it. With latents ``c = head(encoder(view))`` of the anchor
    and ``c' = head'(encoder'(view'))`` of the later observation, without gradient from slowly moving copies::

        logits[i, j] = (W (c_i + mlp(c_i)))^T c'_j,   cross-entropy with labels = arange(batch)

    No temperature, no normalisation. Windows in which an episode ends before step k take no part, neither as anchors nor as
    negatives. As published but for that: there, keys of such windows stay among the negatives.

    Actions, discrete or continuous, do not enter: what can be told of the future without them is what is learned.

    Other losses can pull the two observations together, each with the networks and gradients of its paper in place of head,
    MLP and W: ``ATC(loss="negative_cosine")`` is BYOL through time, ``"vicreg"`` and ``"barlow_twins"`` need no negatives
    either, ``"info_nce"`` and ``"nt_xent"`` compare cosines. See :class:`crl.objectives.CURL`, which takes the same names.
    Time has a direction: what is symmetric there is one-way here.

    :param k: agent steps from anchor to positive (3 on Atari and DMLab, 1 on DeepMind Control)
    :param latent_dim: width of c (256; 128 on DeepMind Control)
    :param hidden_dim: of the anchor's residual MLP
    :param tau: rate of the copies' EMA at each update, in (0, 1]
    :param hard_negatives: so many steps after the positive, of the anchor's own episode, join its negatives: they share
        all that does not move. 0 as published.
    :param negative_window: windows of the same episode less than so many steps apart are no negatives of each other; 0: all
        are, as published. Not together with ``hard_negatives``.
    :param augment: makes the views (random shift by 4, as published); None takes the replay buffer's
    :param loss: ``"bilinear"``: ATC's own; else a loss of pairs, see :func:`crl.losses.pair_loss`
    :param loss_kwargs: its parameters, such as ``dict(temperature=0.1)``
    :raises ValueError: for values out of range, and for negatives where the loss has none
    """

    def __init__(
        self,
        k: int = 3,
        latent_dim: int = 256,
        hidden_dim: int = 512,
        tau: float = 0.01,
        hard_negatives: int = 0,
        negative_window: int = 0,
        augment: Augmentation | None = None,
        loss: str = "bilinear",
        loss_kwargs: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(augment)
        if k < 1:
            raise ValueError(f"ATC(k={k}): the positive lies at least 1 step after the anchor")
        if latent_dim < 1 or hidden_dim < 1:
            raise ValueError(f"ATC(latent_dim={latent_dim}, hidden_dim={hidden_dim}): both at least 1")
        if not 0.0 < tau <= 1.0:
            raise ValueError(f"ATC(tau={tau}): the EMA rate of the key encoder lies in (0, 1]")
        check_negatives("ATC", hard_negatives, negative_window)
        try:
            pair_head = PairHead(loss, loss_kwargs, symmetric=False)
        except ValueError as error:
            raise ValueError(f"ATC: {error}") from error
        #: branches of the losses beside ATC's own; None for that
        self.pair_head: PairHead | None = None if pair_head.pair.name == "bilinear" else pair_head
        if self.pair_head is not None and (hard_negatives or negative_window) and pair_head.pair.spec.negatives != "batch":
            raise ValueError(
                f"ATC(loss={loss!r}) has no negatives in the batch: leave hard_negatives and negative_window at 0"
            )
        if self.pair_head is not None and hard_negatives:
            raise ValueError("ATC(hard_negatives=...) goes with loss='bilinear' alone")
        self.request = DataRequest("sequence", steps=k + hard_negatives, origin=negative_window > 0)
        self.k = k
        self.latent_dim = latent_dim
        self.hidden_dim = hidden_dim
        self.tau = tau
        self.hard_negatives = hard_negatives
        self.negative_window = negative_window
        self.head: nn.Linear
        self.mlp: nn.Sequential
        self.weight: nn.Linear
        self.key_encoder: nn.Module
        self.key_head: nn.Module

    def build(self, encoder: Encoder, spaces: Spaces) -> None:
        """See :meth:`crl.contract.Objective.build`."""
        self.encoder = encoder
        device = device_of(encoder)
        if self.pair_head is not None:
            self.pair_head.build(encoder.features_dim, device)
            if self.pair_head.keys == "own":
                self.key_encoder = ema_copy(encoder)  # type: ignore[assignment]
            return
        self.head = nn.Linear(encoder.features_dim, self.latent_dim, device=device)
        self.mlp = nn.Sequential(
            nn.Linear(self.latent_dim, self.hidden_dim, device=device),
            nn.ReLU(),
            nn.Linear(self.hidden_dim, self.latent_dim, device=device),
        )
        self.weight = nn.Linear(self.latent_dim, self.latent_dim, bias=False, device=device)
        self.key_encoder = ema_copy(encoder)  # type: ignore[assignment]
        self.key_head = ema_copy(self.head)

    def loss(self, batch: ViewBatch | SequenceBatch, features: th.Tensor | None = None) -> tuple[th.Tensor, Metrics]:
        """See :meth:`crl.contract.Objective.loss`."""
        batch = as_windows(self, batch)
        if self.pair_head is not None:
            return self._loss_of_pairs(self.pair_head, batch, features)
        anchor = self.head(self.encoder(batch.view(0)) if features is None else features)
        query = self.weight(anchor + self.mlp(anchor))
        last = self.k + self.hard_negatives
        with th.no_grad():
            keys = self.key_head(self.key_encoder(views_of(batch, range(self.k, last + 1))))
        keys = keys.unflatten(0, (last + 1 - self.k, len(batch)))
        rows = batch.mask[:, self.k - 1]
        hard, hard_counts = (keys[1:], batch.mask[:, self.k : last].T) if self.hard_negatives else (None, None)
        return pair_contrast(query, keys[0], rows, far_apart(batch, self.negative_window), hard, hard_counts)

    def _loss_of_pairs(self, head: PairHead, batch: SequenceBatch, features: th.Tensor | None) -> tuple[th.Tensor, Metrics]:
        rows = batch.mask[:, self.k - 1]
        anchors, later = batch.view(0), batch.view(self.k)
        # projectors hold BatchNorms: padding must not reach the statistics of the batch
        later = th.where(rows[:, None, None, None], later, anchors)
        query = self.encoder(anchors) if features is None else features
        with th.set_grad_enabled(th.is_grad_enabled() and head.keys == "trained"):
            key = self.key_encoder(later) if head.keys == "own" else self.encoder(later)
        negatives = None
        if head.pair.spec.negatives == "batch":
            negatives = candidates_of(rows, far_apart(batch, self.negative_window))
        loss, scores = head(query, key, rows, negatives)
        return loss, contrast_metrics(loss, scores, rows)

    def after_step(self) -> None:
        """EMA step of encoder and head; keys enter the queue of losses that have one."""
        if self.pair_head is None or self.pair_head.keys == "own":
            online = self.encoder
            assert isinstance(online, nn.Module)
            ema_update(self.key_encoder, online, self.tau)
        if self.pair_head is not None:
            self.pair_head.follow(self.tau)
            self.pair_head.after_step()
            return
        ema_update(self.key_head, self.head, self.tau)

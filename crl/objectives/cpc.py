"""CPC: contrastive predictive coding (van den Oord et al. 2018, arXiv:1807.03748), and its action-conditioned form."""

from __future__ import annotations

from typing import Any

import torch as th
from torch import nn

from crl.contract import Augmentation, DataRequest, Encoder, Metrics, Objective, SequenceBatch, Spaces, ViewBatch
from crl.losses.candidates import candidate_cross_entropy, mask_candidates
from crl.losses.checks import common_float
from crl.networks import ActionVectors
from crl.objectives.windows import as_windows, contrast_by, counted, device_of, origin_of, other_loss, views_of

#: 1 GiB of float32: beyond it, a batch was not meant for this objective
_MAX_LOGITS = 2**28


class CPC(Objective):
    """
    A recurrent context of the past should tell which latents come next. With ``z_t = encoder(o_t)`` and
    ``c_t = GRU([z_t, a_{t-1}, r_{t-1}])`` over a window, one linear map for each distance k::

        logit(c_t, z_j) = (W_k c_t + b_k) . z_j,   the positive being z_{t+k}

    and cross-entropy over all latents of the batch, those of the same window included: they are the hard negatives that make
    time matter. Gradient reaches the encoder through contexts and latents; there is no target network. Observations after the
    end of an episode are neither positives nor candidates. The GRU serves the loss alone; the agent does not see it.

    Of the two published versions this is rlpyt's (Stooke et al. 2020), which weighs all predictions alike, with a GRU as in
    the original. Its batch is 16 windows of 32 steps, whatever the agent's is, unless the callback is told otherwise.

    Continuous actions enter as they are, in [-1, 1], discrete ones one-hot: the last action as input of the context; with
    ``condition_on_actions`` also those from t on. Without them, CPC predicts what the behaviour policy will do along with
    what the environment does.

    :param steps: transitions in a window
    :param offsets: K, the largest distance; None: all that fit the window, as published
    :param hidden_dim: width of the context
    :param warm_up: steps before the window in which the GRU runs and nothing is learned (16 in rlpyt), since it starts from
        zeros in the middle of an episode
    :param condition_on_actions: CPC|A (Guo et al. 2018, arXiv:1811.06407): a second GRU, which starts from c_t and is fed
        a_t ... a_{t+k-1}, takes the place of c_t, and one map W serves all distances
    :param negative_window: latents of the same episode less than so many steps from the positive are no negatives; 0: all
        are, as published
    :param augment: of every step on its own; None takes the replay buffer's. Published without any.
    :param loss: ``"bilinear"``: CPC's own; else a loss of pairs, see :func:`crl.losses.pair_loss`,
        of predictions and latents at each distance on its own: candidates are then the latents at that distance, as in Anand
        et al. 2019
    :param loss_kwargs: its parameters, such as ``dict(temperature=0.1)``
    :raises ValueError: for values out of range; in :meth:`loss` for batches that would fill the memory
    """

    needs_augmentation = False
    batch_size = 16

    def __init__(
        self,
        steps: int = 32,
        offsets: int | None = None,
        hidden_dim: int = 256,
        warm_up: int = 0,
        condition_on_actions: bool = False,
        negative_window: int = 0,
        augment: Augmentation | None = None,
        loss: str = "bilinear",
        loss_kwargs: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(augment)
        offsets = steps if offsets is None else offsets
        if not 1 <= offsets <= steps:
            raise ValueError(f"CPC(steps={steps}, offsets={offsets}): at least 1 step, and offsets from 1 to steps")
        if hidden_dim < 1 or warm_up < 0 or negative_window < 0:
            raise ValueError(
                f"CPC(hidden_dim={hidden_dim}, warm_up={warm_up}, negative_window={negative_window}): a width of at least 1, "
                "and steps of at least 0"
            )
        #: in place of dot products with all latents; None: CPC's own
        self.pair = other_loss("CPC", "bilinear", loss, loss_kwargs, negative_window)
        self.request = DataRequest("sequence", steps=warm_up + steps, origin=negative_window > 0)
        self.steps = steps
        self.offsets = offsets
        self.hidden_dim = hidden_dim
        self.warm_up = warm_up
        self.condition_on_actions = condition_on_actions
        self.negative_window = negative_window
        self.action_vectors: ActionVectors
        self.gru: nn.GRU
        self.action_gru: nn.GRU
        self.maps: nn.ModuleList

    def build(self, encoder: Encoder, spaces: Spaces) -> None:
        """See :meth:`crl.contract.Objective.build`."""
        self.encoder = encoder
        device = device_of(encoder)
        self.action_vectors = ActionVectors(spaces.action)
        self.gru = nn.GRU(encoder.features_dim + self.action_vectors.dim + 1, self.hidden_dim, batch_first=True, device=device)
        if self.condition_on_actions:
            self.action_gru = nn.GRU(self.action_vectors.dim, self.hidden_dim, batch_first=True, device=device)
        n_maps = 1 if self.condition_on_actions else self.offsets
        self.maps = nn.ModuleList(nn.Linear(self.hidden_dim, encoder.features_dim, device=device) for _ in range(n_maps))
        if self.pair is not None:
            self.pair.build(encoder.features_dim, device)

    def loss(self, batch: ViewBatch | SequenceBatch, features: th.Tensor | None = None) -> tuple[th.Tensor, Metrics]:
        """See :meth:`crl.contract.Objective.loss`."""
        batch = as_windows(self, batch)
        self._check_size(len(batch))
        latents = self._latents(batch, features)  # (batch, warm_up + steps + 1, width)
        actions = self.action_vectors(batch.actions[:, : self.warm_up + self.steps]).to(latents.dtype)
        contexts = self._contexts(batch, latents, actions)[:, self.warm_up :]
        latents, actions = latents[:, self.warm_up :], actions[:, self.warm_up :]
        counts = counted(batch)[:, self.warm_up : self.warm_up + self.steps + 1]
        near = self._near(batch)
        total = n_rows = right = positive = negative = th.zeros((), device=latents.device)
        for k, predictions in enumerate(self._predictions(contexts, actions), start=1):
            rows = counts[:, k:].flatten()
            if self.pair is not None:
                columns = th.arange(counts.numel(), device=rows.device).view(counts.shape)[:, k:].flatten()
                negatives = None if near is None else ~near[columns][:, columns]
                keys = latents[:, k:].flatten(0, 1)
                part, of_part = contrast_by(self.pair, predictions.flatten(0, 1), keys, rows, negatives)
                n = rows.sum()
                total, n_rows = total + part * n, n_rows + n
                # a distance that no window reaches has no accuracy
                sums = [of_part[name].nan_to_num() * n for name in ("accuracy", "positive_similarity", "negative_similarity")]
                right, positive, negative = right + sums[0], positive + sums[1], negative + sums[2]
                continue
            logits, labels = _logits(predictions, latents, k)
            candidates = counts.flatten()[None].expand_as(logits)
            if near is not None:
                candidates = candidates & ~near[labels]
            n = rows.sum()
            total = total + candidate_cross_entropy(logits, labels, rows, candidates) * n
            n_rows = n_rows + n
            scores = mask_candidates(logits.detach(), labels, candidates)
            right = right + ((scores.argmax(dim=1) == labels) & rows).sum()
            own = scores.gather(1, labels[:, None]).squeeze(1)
            n_others = (scores.isfinite().sum(dim=1) - 1).clamp(min=1)
            others = (scores.masked_fill(scores.isinf(), 0.0).sum(dim=1) - own) / n_others
            positive = positive + own.masked_fill(~rows, 0.0).sum()
            negative = negative + others.masked_fill(~rows, 0.0).sum()
        loss = total / n_rows.clamp(min=1)
        metrics = {
            "loss": loss.detach(),
            "accuracy": right / n_rows,
            "positive_similarity": positive / n_rows,
            "negative_similarity": negative / n_rows,
        }
        return loss, metrics

    def _check_size(self, n_windows: int) -> None:
        n_rows = n_windows * sum(self.steps + 1 - k for k in range(1, self.offsets + 1))
        n_logits = n_rows * n_windows * (self.steps + 1)
        if n_logits > _MAX_LOGITS:
            raise ValueError(
                f"CPC on {n_windows} windows of {self.steps} steps compares {n_rows} predictions with "
                f"{n_windows * (self.steps + 1)} latents, {n_logits * 4 / 2**30:.1f} GiB: pass batch_size=16 to the callback, "
                "or lower steps or offsets"
            )

    def _latents(self, batch: SequenceBatch, features: th.Tensor | None) -> th.Tensor:
        """``(batch, warm_up + steps + 1, width)``; those of the warm-up without gradient."""
        n = len(batch)
        parts = []
        if self.warm_up:
            with th.no_grad():
                parts.append(self.encoder(views_of(batch, range(self.warm_up))))
        elif features is not None:
            parts.append(features)
        start = len(parts[0]) // n if parts else 0
        parts.append(self.encoder(views_of(batch, range(start, self.warm_up + self.steps + 1))))
        return th.cat(parts).unflatten(0, (-1, n)).transpose(0, 1)

    def _contexts(self, batch: SequenceBatch, latents: th.Tensor, actions: th.Tensor) -> th.Tensor:
        """``(batch, warm_up + steps, hidden_dim)``. What was done before the window is not known: zeros, as at a reset."""
        taken = th.cat([actions, batch.rewards[:, : actions.shape[1], None].to(latents.dtype)], dim=2)
        before = th.cat([th.zeros_like(taken[:, :1]), taken[:, :-1]], dim=1)
        return self.gru(th.cat([latents[:, :-1], before], dim=2))[0]

    def _predictions(self, contexts: th.Tensor, actions: th.Tensor) -> list[th.Tensor]:
        """For each distance k, ``(batch, steps + 1 - k, width)``: what is predicted at t = 0 ... steps - k for t + k."""
        if not self.condition_on_actions:
            return [head(contexts[:, : self.steps + 1 - k]) for k, head in enumerate(self.maps, start=1)]
        n = len(contexts)
        # a window's last contexts have fewer actions before them; what the padding leads to is never used
        padding = actions.new_zeros(n, self.offsets - 1, actions.shape[2])
        following = th.cat([actions, padding], dim=1).unfold(1, self.offsets, 1)  # (batch, steps, action_dim, offsets)
        starts = contexts.flatten(0, 1)[None].contiguous()
        states = self.action_gru(following.transpose(2, 3).flatten(0, 1), starts)[0].unflatten(0, (n, -1))
        return [self.maps[0](states[:, : self.steps + 1 - k, k - 1]) for k in range(1, self.offsets + 1)]

    def _near(self, batch: SequenceBatch) -> th.Tensor | None:
        """``(batch * (steps + 1),) * 2`` bool: pairs of latents of one episode less than the negative window apart."""
        if self.negative_window == 0:
            return None
        start_episode, start_time = origin_of(batch, self.negative_window)
        time = (start_time[:, None] + th.arange(self.steps + 1, device=start_time.device)).flatten()
        episode = start_episode.repeat_interleave(self.steps + 1)
        return ((time[:, None] - time).abs() < self.negative_window) & (episode[:, None] == episode)

    def after_step(self) -> None:
        """Keys enter the queue of losses that have one."""
        if self.pair is not None:
            self.pair.after_step()


def _logits(predictions: th.Tensor, latents: th.Tensor, k: int) -> tuple[th.Tensor, th.Tensor]:
    """``(rows, candidates)``, rows and candidates window by window, and the column of each row's positive."""
    n, n_latents = latents.shape[:2]
    dtype = common_float(predictions, latents)
    with th.autocast(latents.device.type, enabled=False):
        logits = predictions.flatten(0, 1).to(dtype) @ latents.flatten(0, 1).to(dtype).T
    columns = th.arange(n * n_latents, device=latents.device).view(n, n_latents)
    return logits, columns[:, k:].flatten()

"""Self-prediction of latent states, without decoder and, unless asked for, without negatives."""

from __future__ import annotations

from typing import Any, Literal

import torch as th
import torch.nn.functional as F
from torch import nn

from crl.contract import Augmentation, DataRequest, Encoder, Metrics, Objective, SequenceBatch, Spaces, ViewBatch
from crl.losses import PairLoss, barlow_twins, cosine_logits, pair_loss
from crl.losses.two_hot import symexp_bins, two_hot_cross_entropy
from crl.metrics import contrast_metrics
from crl.networks import ActionVectors, VectorTransition, ema_copy, ema_update
from crl.objectives.windows import as_windows, contrast_steps_by, device_of, other_loss, views_of


class SelfPrediction(Objective):
    """
    The features of an observation and the action taken should tell the features of the next (Ni et al. 2024,
    arXiv:2401.08898)::

        z_0 = encoder(o_t),   z_{k+1} = g(z_k, a_{t+k}),   loss = mean over k = 1..K of  |z_k - target(o_{t+k})|^2 / width

    The target has no gradient; with gradient, everything would collapse. Steps behind the end of an episode are left out of
    the mean. What is optional makes of it, with ``k=5`` for the published ones:

    - ``reward_weight=0.1``: MR.Q's form (Fujimoto et al. 2025, arXiv:2501.16142), in which the reward has to be told as well.
    - ``info_nce_weight=0.1`` on top: DR.Q's, in which a prediction should also be closer to its own target than to others.
    - ``loss="barlow"``: R2-Dreamer's. Predictions and targets are decorrelated over the batch instead of compared one by one;
      wants batches of at least 256, and in ``mode="add_gradient"`` a ``weight`` of 0.05.

    Discrete actions enter one-hot, continuous ones as they are, in [-1, 1]. Importance weights of a prioritised replay
    multiply the terms that are sums over windows: squared, cosine and reward.

    :param k: K, steps of the rollout
    :param loss: ``"mse"``, as published; ``"cosine"``: ``2 - 2 cos``, blind to scale; ``"barlow"``; or another loss of pairs,
        see :func:`crl.losses.pair_loss`, at each step of the rollout on its own
    :param loss_kwargs: parameters of other losses, such as ``dict(temperature=0.1)``
    :param target: ``"ema"``: a slowly moving copy of the encoder; ``"online"``: the encoder itself, without gradient.
        None: as published, ``"online"`` for ``"barlow"``, else ``"ema"``
    :param tau: rate of the copy, in (0, 1]. 0.005; MR.Q copies instead: ``tau=1, target_update_interval=250``
    :param target_update_interval: updates between two moves of the copy
    :param hidden_dim: of the transition model and the reward head
    :param reward_weight: of the cross-entropy of rewards, as classes on 65 exponential bins; 0: no reward head
    :param info_nce_weight: of the contrast between the batch's predictions and targets, by cosine; 0: none
    :param temperature: of that contrast
    :param barlow_lambda: weight of the correlations off the diagonal
    :param augment: of every step on its own; None takes the replay buffer's. Published with shifts where from pixels.
    :raises ValueError: for values out of range
    """

    needs_augmentation = False

    def __init__(
        self,
        k: int = 1,
        loss: str = "mse",
        target: Literal["ema", "online"] | None = None,
        tau: float = 0.005,
        target_update_interval: int = 1,
        hidden_dim: int = 512,
        reward_weight: float = 0.0,
        info_nce_weight: float = 0.0,
        temperature: float = 0.1,
        barlow_lambda: float = 5e-4,
        augment: Augmentation | None = None,
        loss_kwargs: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(augment)
        name = "SelfPrediction"
        if k < 1:
            raise ValueError(f"{name}(k={k}): at least 1 step is predicted")
        #: other than "mse", "cosine" and "barlow"
        self.pair: PairLoss | None = None
        if loss not in ("mse", "cosine", "barlow"):
            self.pair = other_loss(f"{name}, whose losses are 'mse', 'cosine' and 'barlow'", "", loss, loss_kwargs)
        elif loss_kwargs:
            raise ValueError(f"{name}(loss={loss!r}) is of its own and takes no loss_kwargs")
        if target not in (None, "ema", "online"):
            raise ValueError(f"{name}(target={target!r}): choose 'ema' or 'online' (both without gradient), or None")
        if not 0.0 < tau <= 1.0 or target_update_interval < 1:
            raise ValueError(
                f"{name}(tau={tau}, target_update_interval={target_update_interval}): a rate in (0, 1], every 1 update or more"
            )
        if hidden_dim < 1 or not temperature > 0:
            raise ValueError(f"{name}(hidden_dim={hidden_dim}, temperature={temperature}): at least 1, and positive")
        if min(reward_weight, info_nce_weight, barlow_lambda) < 0:
            raise ValueError(
                f"{name}(reward_weight={reward_weight}, info_nce_weight={info_nce_weight}, barlow_lambda={barlow_lambda}): "
                "none below 0, and 0 is off"
            )
        if loss in ("mse", "cosine") and not info_nce_weight:
            self.callback_mode = "add_gradient"  # nothing but the agent's own loss keeps the features apart
        self.request = DataRequest("sequence", steps=k)
        self.k = k
        self.loss_kind = loss
        self.target_kind = target or ("online" if loss == "barlow" else "ema")
        self.tau = tau
        self.target_update_interval = target_update_interval
        self.hidden_dim = hidden_dim
        self.reward_weight = reward_weight
        self.info_nce_weight = info_nce_weight
        self.temperature = temperature
        self.barlow_lambda = barlow_lambda
        self.n_updates = 0
        self.action_vectors: ActionVectors
        self.transition: VectorTransition
        self.reward_head: VectorTransition
        self.bins: th.Tensor
        self.contrast: PairLoss
        self.target_encoder: nn.Module

    def build(self, encoder: Encoder, spaces: Spaces) -> None:
        """See :meth:`crl.contract.Objective.build`."""
        self.encoder = encoder
        device, width = device_of(encoder), encoder.features_dim
        self.action_vectors = ActionVectors(spaces.action)
        action_dim = self.action_vectors.dim
        self.transition = VectorTransition(width, action_dim, self.hidden_dim, device=device)
        if self.reward_weight:
            self.register_buffer("bins", symexp_bins(device=device), persistent=False)
            self.reward_head = VectorTransition(width, action_dim, self.hidden_dim, len(self.bins), device)
        if self.pair is not None:
            self.pair.build(width, device)
        if self.info_nce_weight:
            self.contrast = pair_loss("info_nce", temperature=self.temperature).build(width, device)
        if self.target_kind == "ema":
            self.target_encoder = ema_copy(encoder)  # type: ignore[assignment]

    def loss(self, batch: ViewBatch | SequenceBatch, features: th.Tensor | None = None) -> tuple[th.Tensor, Metrics]:
        """See :meth:`crl.contract.Objective.loss`."""
        batch = as_windows(self, batch)
        mask = batch.mask[:, : self.k].T  # (k, batch)
        target_encoder: Encoder = self.target_encoder if self.target_kind == "ema" else self.encoder  # type: ignore[assignment]
        with th.no_grad():
            targets = target_encoder(views_of(batch, range(1, self.k + 1))).unflatten(0, mask.shape)
        start = self.encoder(batch.view(0)) if features is None else features
        actions = self.action_vectors(batch.actions[:, : self.k]).to(start.dtype).unbind(dim=1)
        latents = [start]
        for action in actions:
            latents.append(self.transition(latents[-1], action))
        predictions = th.stack(latents[1:])  # (k, batch, width)
        metrics = {"prediction_loss": self._prediction_loss(predictions, targets, mask, batch.weights)}
        loss = metrics["prediction_loss"]
        if self.reward_weight:
            logits = self.reward_head(th.cat(latents[:-1]), th.cat(actions)).unflatten(0, mask.shape)
            losses = two_hot_cross_entropy(logits, batch.rewards[:, : self.k].T, self.bins)
            metrics["reward_loss"] = _mean(losses, mask, batch.weights)
            loss = loss + self.reward_weight * metrics["reward_loss"]
        if self.info_nce_weight:
            metrics["info_nce_loss"] = contrast_steps_by(self.contrast, predictions, targets, mask)
            loss = loss + self.info_nce_weight * metrics["info_nce_loss"]
        scores = cosine_logits(predictions[0].detach(), targets[0], 1.0)
        metrics = {name: value.detach() for name, value in metrics.items()} | contrast_metrics(loss, scores)
        return loss, metrics

    def _prediction_loss(
        self, predictions: th.Tensor, targets: th.Tensor, mask: th.Tensor, weights: th.Tensor | None
    ) -> th.Tensor:
        if self.pair is not None:
            return contrast_steps_by(self.pair, predictions, targets, mask)
        if self.loss_kind == "barlow":
            each = [
                barlow_twins(prediction, target, self.barlow_lambda, rows=rows)
                for prediction, target, rows in zip(predictions, targets, mask, strict=True)
            ]
            return th.stack(each).mean()
        if self.loss_kind == "mse":
            losses = (predictions - targets).square().mean(dim=2)
        else:
            losses = 2.0 - 2.0 * F.cosine_similarity(predictions, targets, dim=2)
        return _mean(losses, mask, weights)

    def after_step(self) -> None:
        """The target's move, at every ``target_update_interval``-th update; keys enter the queue of losses that have one."""
        self.n_updates += 1
        if self.pair is not None:
            self.pair.after_step()
        if self.target_kind == "ema" and self.n_updates % self.target_update_interval == 0:
            online = self.encoder
            assert isinstance(online, nn.Module)
            ema_update(self.target_encoder, online, self.tau)

    def get_extra_state(self) -> dict[str, int]:
        """The update counter is part of the state: a resumed run must keep the rhythm of its target."""
        return {"n_updates": self.n_updates}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """See :meth:`get_extra_state`."""
        self.n_updates = state["n_updates"]


def _mean(losses: th.Tensor, mask: th.Tensor, weights: th.Tensor | None) -> th.Tensor:
    """Of ``(k, batch)``, over those that count; the first step of a window always does."""
    losses = losses.masked_fill(~mask, 0.0)
    return (losses if weights is None else losses * weights).sum() / mask.sum()

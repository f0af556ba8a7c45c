"""SPR: self-predictive representations (Schwarzer et al. 2021, arXiv:2007.05929)."""

from __future__ import annotations

from typing import Any, Literal

import torch as th
import torch.nn.functional as F
from torch import nn

from crl.contract import Augmentation, DataRequest, Encoder, Metrics, Objective, SequenceBatch, Spaces, ViewBatch
from crl.metrics import contrast_metrics
from crl.networks import ActionVectors, ConvTransition, VectorTransition, ema_copy, ema_update, rescale
from crl.objectives.windows import as_windows, contrast_steps_by, device_of, other_loss, views_of

#: shorter projections are not normalised all the way, as in the authors' code
_NORM_EPS = 1e-3


class SPR(Objective):
    """
    Latent states are rolled forward by the actions taken, and each should point where a target encoder sees the environment
    go. No negatives::

        z_0 = f(view of o_t),   z_{k+1} = transition(z_k, a_{t+k})
        loss = mean over k = 1..K of  2 - 2 cos(q(g(z_k)), g'(f'(view' of o_{t+k})))

    Steps behind the end of an episode are left out of the mean, and where the replay is prioritised its importance weights
    multiply the windows' losses: the two carry 18 % of SPR's score on Atari 100k (Cagatan & Akgun 2025, arXiv:2410.17428).
    The authors add 5 times this mean to the agent's loss, and so does the callback unless told otherwise: a constant encoder
    satisfies it too, and with an optimiser of its own it gets there on images that hardly differ (seen with SB3's
    DQN on Pong).

    As published, z is the map after the convolutions, rescaled to [0, 1], and g the first dense layer that the agent has
    after them, trained by both: here the head of its encoder (the linear layer of SB3's NatureCNN; in the recipe ``spr`` the
    first layers of both streams of the Q network, as published). Beside SB3's agents two things differ: the agent itself sees
    its map as it is, and, by default, the mean is over the steps that count instead of all.

    Discrete actions enter as one-hot planes, continuous ones as planes of their values in [-1, 1].

    :param k: steps of the rollout, 5 as published
    :param transition: ``"conv"``, as published, on the encoder's last feature map; ``"mlp"``, on its features, for encoders
        that pool their map away or have none; g is then a linear layer of its own
    :param hidden_dim: filters of the transition's hidden layer; None: 64 for ``"conv"``, as published, and 512 for ``"mlp"``
    :param tau: rate of the target encoder's EMA at each update, in (0, 1]. 1, as published with augmentation: the online
        encoder itself, without gradient; without augmentation 0.01 (and dropout, which is not here). SR-SPR takes 0.005.
    :param augment: makes the views: random shift by 4, then intensity 0.05, as published; None takes the replay buffer's
    :param average: ``"counted"``: the mean over the steps that count; ``"all"``: over all, as published, so that windows
        which the end of an episode cuts short weigh less
    :param loss: ``"negative_cosine"``: SPR's own; else a loss of pairs, see :func:`crl.losses.pair_loss`,
        at each step of the rollout on its own, without importance weights
    :param loss_kwargs: its parameters, such as ``dict(temperature=0.1)``
    :raises ValueError: for values out of range
    """

    def __init__(
        self,
        k: int = 5,
        transition: Literal["conv", "mlp"] = "conv",
        hidden_dim: int | None = None,
        tau: float = 1.0,
        augment: Augmentation | None = None,
        average: Literal["counted", "all"] = "counted",
        loss: str = "negative_cosine",
        loss_kwargs: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(augment)
        if k < 1:
            raise ValueError(f"SPR(k={k}): at least 1 step is predicted")
        if transition not in ("conv", "mlp"):
            raise ValueError(f"SPR(transition={transition!r}): choose 'conv' or 'mlp'")
        if hidden_dim is not None and hidden_dim < 1:
            raise ValueError(f"SPR(hidden_dim={hidden_dim}): at least 1, or None")
        if average not in ("counted", "all"):
            raise ValueError(f"SPR(average={average!r}): choose 'counted' or 'all'")
        if not 0.0 < tau <= 1.0:
            raise ValueError(f"SPR(tau={tau}): the EMA rate of the target encoder lies in (0, 1]")
        #: in place of 2 - 2 cos; None: SPR's own
        self.pair = other_loss("SPR", "negative_cosine", loss, loss_kwargs)
        if self.pair is None:
            self.callback_mode, self.callback_weight = "add_gradient", 5.0
        self.request = DataRequest("sequence", steps=k)
        self.k = k
        self.transition_kind = transition
        self.hidden_dim = hidden_dim or (64 if transition == "conv" else 512)
        self.tau = tau
        self.average = average
        self.action_vectors: ActionVectors
        self.transition: ConvTransition | VectorTransition
        self.projection: nn.Linear
        self.predictor: nn.Linear
        self.target_encoder: nn.Module
        self.target_projection: nn.Linear

    def build(self, encoder: Encoder, spaces: Spaces) -> None:
        """See :meth:`crl.contract.Objective.build`."""
        self.encoder = encoder
        device, width = device_of(encoder), encoder.features_dim
        self.action_vectors = ActionVectors(spaces.action)
        action_dim = self.action_vectors.dim
        if self.transition_kind == "conv":
            with th.no_grad():
                blank = th.zeros(1, *spaces.observation.shape, dtype=th.uint8, device=device)
                filters = encoder.feature_map(blank).shape[1]
            self.transition = ConvTransition(filters, action_dim, self.hidden_dim, device)
        else:
            self.transition = VectorTransition(width, action_dim, self.hidden_dim, device=device)
            self.projection = nn.Linear(width, width, device=device)
        self.predictor = nn.Linear(width, width, device=device)
        if self.pair is not None:
            self.pair.build(width, device)
        if self.tau < 1.0:
            self.target_encoder = ema_copy(encoder)  # type: ignore[assignment]
            if self.transition_kind == "mlp":
                self.target_projection = ema_copy(self.projection)

    def loss(self, batch: ViewBatch | SequenceBatch, features: th.Tensor | None = None) -> tuple[th.Tensor, Metrics]:
        """See :meth:`crl.contract.Objective.loss`; with ``transition="conv"`` features are the map, if they are given."""
        batch = as_windows(self, batch)
        mask = batch.mask[:, : self.k].T  # (k, batch)
        predictions = self._predictions(batch, features)
        with th.no_grad():
            targets = self._targets(views_of(batch, range(1, self.k + 1))).unflatten(0, (self.k, len(batch)))
        if self.pair is not None:
            loss = contrast_steps_by(self.pair, predictions, targets, mask)
        with th.autocast(predictions.device.type, enabled=False):
            predictions, targets = _unit(predictions), _unit(targets)
            losses = (2.0 - 2.0 * (predictions * targets).sum(dim=2)).masked_fill(~mask, 0.0)
        if batch.weights is not None:
            losses = losses * batch.weights
        if self.pair is None:
            # the first step of a window always counts
            loss = losses.mean() if self.average == "all" else losses.sum() / mask.sum()
        scores = predictions[0].detach() @ targets[0].T
        return loss, contrast_metrics(loss, scores)

    def _predictions(self, batch: SequenceBatch, features: th.Tensor | None) -> th.Tensor:
        """``(k, batch, width)``: q(g(z_k)) of the rollout."""
        if self.transition_kind == "conv":
            own_map = features is None or features.dim() != 4
            latent = rescale(self.encoder.feature_map(batch.view(0)) if own_map else features)  # type: ignore[arg-type]
        else:
            latent = self.encoder(batch.view(0)) if features is None else features
        # where nothing counts no action was taken either: padding must not reach the transition's batch statistics
        actions = self.action_vectors(batch.actions[:, : self.k]).to(latent.dtype) * batch.mask[:, : self.k, None]
        latents = []
        for step in range(self.k):
            latent = self.transition(latent, actions[:, step])
            latents.append(latent)
        rollout = th.cat(latents)
        projections = self.encoder.forward_head(rollout) if self.transition_kind == "conv" else self.projection(rollout)
        return self.predictor(projections).unflatten(0, (self.k, len(batch)))

    def _targets(self, views: th.Tensor) -> th.Tensor:
        """``(k * batch, width)``: g'(f'(.))."""
        encoder: Encoder = self.encoder if self.tau == 1.0 else self.target_encoder  # type: ignore[assignment]
        if self.transition_kind == "conv":
            return encoder.forward_head(rescale(encoder.feature_map(views)))
        projection = self.projection if self.tau == 1.0 else self.target_projection
        return projection(encoder(views))

    def after_step(self) -> None:
        """EMA step of the target, where it is not the online encoder; keys enter the queue of losses that have one."""
        if self.pair is not None:
            self.pair.after_step()
        if self.tau == 1.0:
            return
        online = self.encoder
        assert isinstance(online, nn.Module)
        ema_update(self.target_encoder, online, self.tau)
        if self.transition_kind == "mlp":
            ema_update(self.target_projection, self.projection, self.tau)


def _unit(x: th.Tensor) -> th.Tensor:
    x = x if x.dtype == th.float64 else x.float()
    return F.normalize(x, dim=-1, eps=_NORM_EPS)

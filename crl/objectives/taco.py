"""TACO: temporal action-driven contrastive loss (Zheng et al. 2023, arXiv:2306.13229)."""

from __future__ import annotations

import math
from typing import Any

import torch as th
from torch import nn

from crl.contract import Augmentation, DataRequest, Encoder, Metrics, Objective, SequenceBatch, Spaces, ViewBatch
from crl.networks import ActionVectors
from crl.objectives.windows import (
    as_windows,
    check_negatives,
    contrast_by,
    device_of,
    far_apart,
    other_loss,
    pair_contrast,
    views_of,
)


class TACO(Objective):
    """
    An observation and the actions that follow should tell where they lead, k steps on. With ``z = tanh(LayerNorm(linear(
    encoder(view))))`` and tokens u of the actions, z' from the online encoder without gradient::

        logits[i, j] = proj([z_t, u_t ... u_{t+k-1}])_i^T W z'_{t+k, j},   cross-entropy with labels = arange(batch)

    plus, with equal weight as published, CURL's contrast of two views of o_t under the same W, and the squared error of the
    discounted reward of the k steps, told from the same z and u. W starts uniform in [0, 1). Windows in which the episode
    ends before step k count for CURL's part alone, and are no negatives of the others. The authors take batches of 1024; 256
    are affordable on CPUs.

    Three things differ: the authors' critic sees the tokens as well, while the agent here stays as it is; their reward target
    is the n-step return that the replay stores, with n = 3 whatever k; and their z is a layer on the flattened convolutions,
    here on the agent's features, which is the same for encoders with ``head="flatten"``.

    Continuous actions enter as they are, in [-1, 1], discrete ones one-hot, which makes the tokenizer's first layer a learned
    embedding.

    :param k: actions in a row, 3 as published by default (1 for some tasks)
    :param latent_dim: width of z, 50 as published
    :param token_dim: width of an action's token; None: ``floor(1.25 action_dim) + 1``, as published
    :param hidden_dim: of the projection and the reward head, 1024 as published
    :param curl_weight: of CURL's part, 0: off
    :param reward_weight: of the reward's part, 0: off
    :param gamma: discount of the rewards
    :param hard_negatives: so many steps after the positive, of the window's own episode, join its negatives, as in
        Premier-TACO (Zheng et al. 2024, arXiv:2402.06187), which takes one. 0 as published.
    :param negative_window: windows of the same episode less than so many steps apart are no negatives of each other; 0: all
        are, as published. Not together with ``hard_negatives``.
    :param augment: makes the views (random shift by 4, as published); None takes the replay buffer's
    :param loss: ``"bilinear"``: TACO's own; else a loss of pairs, see :func:`crl.losses.pair_loss`,
        for both contrasts, without W; ``hard_negatives`` go with TACO's own alone
    :param loss_kwargs: its parameters, such as ``dict(temperature=0.1)``
    :raises ValueError: for values out of range
    """

    def __init__(
        self,
        k: int = 3,
        latent_dim: int = 50,
        token_dim: int | None = None,
        hidden_dim: int = 1024,
        curl_weight: float = 1.0,
        reward_weight: float = 1.0,
        gamma: float = 0.99,
        hard_negatives: int = 0,
        negative_window: int = 0,
        augment: Augmentation | None = None,
        loss: str = "bilinear",
        loss_kwargs: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(augment)
        if k < 1:
            raise ValueError(f"TACO(k={k}): at least 1 action")
        if latent_dim < 1 or hidden_dim < 1 or (token_dim is not None and token_dim < 1):
            raise ValueError(f"TACO(latent_dim={latent_dim}, token_dim={token_dim}, hidden_dim={hidden_dim}): each at least 1")
        if curl_weight < 0 or reward_weight < 0:
            raise ValueError(f"TACO(curl_weight={curl_weight}, reward_weight={reward_weight}): none below 0, and 0 is off")
        if not 0.0 <= gamma <= 1.0:
            raise ValueError(f"TACO(gamma={gamma}): a discount lies in [0, 1]")
        check_negatives("TACO", hard_negatives, negative_window)
        #: in place of W; None: TACO's own
        self.pair = other_loss("TACO", "bilinear", loss, loss_kwargs, negative_window)
        if self.pair is not None and hard_negatives:
            raise ValueError("TACO(hard_negatives=...) goes with loss='bilinear' alone")
        if self.pair is not None and self.pair.spec.needs_predictor and curl_weight:
            raise ValueError(
                f"TACO(loss={loss!r}) collapses without a predictor, and CURL's part has none: pass curl_weight=0"
            )
        self.request = DataRequest("sequence", steps=k + hard_negatives, origin=negative_window > 0)
        self.k = k
        self.latent_dim = latent_dim
        self.token_dim = token_dim
        self.hidden_dim = hidden_dim
        self.curl_weight = curl_weight
        self.reward_weight = reward_weight
        self.gamma = gamma
        self.hard_negatives = hard_negatives
        self.negative_window = negative_window
        self.state_head: nn.Sequential
        self.action_vectors: ActionVectors
        self.tokenizer: nn.Sequential
        self.sequence_head: nn.Sequential
        self.projection: nn.Sequential
        self.reward_head: nn.Sequential
        self.weight: nn.Parameter

    def build(self, encoder: Encoder, spaces: Spaces) -> None:
        """See :meth:`crl.contract.Objective.build`."""
        self.encoder = encoder
        device = device_of(encoder)
        self.action_vectors = ActionVectors(spaces.action)
        action_dim = self.action_vectors.dim
        token_dim = self.token_dim or math.floor(1.25 * action_dim) + 1
        width = self.k * token_dim
        self.state_head = nn.Sequential(
            nn.Linear(encoder.features_dim, self.latent_dim), nn.LayerNorm(self.latent_dim), nn.Tanh()
        )
        self.tokenizer = nn.Sequential(nn.Linear(action_dim, 64), nn.Tanh(), nn.Linear(64, token_dim))
        self.sequence_head = nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width), nn.Tanh())
        self.projection = self._mlp(self.latent_dim + width, self.latent_dim)
        if self.reward_weight:
            self.reward_head = self._mlp(self.latent_dim + width, 1)
        if self.pair is None:
            self.weight = nn.Parameter(th.rand(self.latent_dim, self.latent_dim))
        else:
            self.pair.build(self.latent_dim)
        self.to(device)

    def _mlp(self, width: int, out_dim: int) -> nn.Sequential:
        return nn.Sequential(nn.Linear(width, self.hidden_dim), nn.ReLU(), nn.Linear(self.hidden_dim, out_dim))

    def loss(self, batch: ViewBatch | SequenceBatch, features: th.Tensor | None = None) -> tuple[th.Tensor, Metrics]:
        """See :meth:`crl.contract.Objective.loss`."""
        batch = as_windows(self, batch)
        last = self.k + self.hard_negatives
        steps = [*range(self.k, last + 1), *([0] if self.curl_weight else [])]
        with th.no_grad():
            keys = self.state_head(self.encoder(views_of(batch, steps))).unflatten(0, (len(steps), len(batch)))
        state = self.state_head(self.encoder(batch.view(0)) if features is None else features)
        tokens = self.tokenizer(self.action_vectors(batch.actions[:, : self.k]).to(state.dtype)).flatten(1)
        state_and_actions = th.cat([state, self.sequence_head(tokens)], dim=1)
        rows = batch.mask[:, self.k - 1]
        apart = far_apart(batch, self.negative_window)
        hard, hard_counts = None, None
        if self.hard_negatives:
            hard, hard_counts = keys[1 : 1 + self.hard_negatives], batch.mask[:, self.k : last].T
        query = self.projection(state_and_actions)
        if self.pair is None:
            loss, metrics = pair_contrast(query @ self.weight, keys[0], rows, apart, hard, hard_counts)
        else:
            loss, metrics = contrast_by(self.pair, query, keys[0], rows, apart)
        metrics["action_loss"] = loss.detach()
        if self.curl_weight:
            every = th.ones_like(rows)
            if self.pair is None:
                curl, of_curl = pair_contrast(state @ self.weight, keys[-1], every, apart)
            else:
                curl, of_curl = contrast_by(self.pair, state, keys[-1], every, apart)
            loss = loss + self.curl_weight * curl
            metrics |= {"curl_loss": curl.detach(), "curl_accuracy": of_curl["accuracy"]}
        if self.reward_weight:
            reward = self._reward_loss(state_and_actions, batch, rows)
            loss = loss + self.reward_weight * reward
            metrics["reward_loss"] = reward.detach()
        return loss, metrics | {"loss": loss.detach()}

    def _reward_loss(self, state_and_actions: th.Tensor, batch: SequenceBatch, rows: th.Tensor) -> th.Tensor:
        dtype = state_and_actions.dtype
        discounts = self.gamma ** th.arange(self.k, device=rows.device, dtype=dtype)
        returns = (batch.rewards[:, : self.k].to(dtype) * discounts).sum(dim=1)
        errors = (self.reward_head(state_and_actions).squeeze(1) - returns).square()
        return errors.masked_fill(~rows, 0.0).sum() / rows.sum().clamp(min=1)

    def after_step(self) -> None:
        """Keys enter the queue of losses that have one."""
        if self.pair is not None:
            self.pair.after_step()

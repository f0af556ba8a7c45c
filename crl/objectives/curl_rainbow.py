"""CURL's contrast as its Rainbow has it (Laskin et al. 2020, arXiv:2004.04136, the authors' Atari code)."""

from __future__ import annotations

import torch as th
from torch import nn

from crl.contract import Augmentation, DataRequest, Encoder, Metrics, Objective, SequenceBatch, Spaces, ViewBatch
from crl.losses import bilinear_logits, diagonal_cross_entropy
from crl.metrics import contrast_metrics
from crl.networks import ema_copy, ema_update
from crl.objectives.windows import device_of


class CURLRainbow(Objective):
    """
    Two augmented views, neither of which the agent's own loss sees; features through a projection
    ``LN(W_c relu(LN(W_h f + b_h)) + b_c)`` whose LayerNorms have no weights; bilinear logits, of which a tenth goes into the
    cross-entropy. Keys come from an EMA copy of encoder and projection. Weights start uniform in [0, 1), biases at 0.

    :param hidden: width of the projection's hidden layer
    :param width: of its output
    :param tau: EMA rate of the copy at every update; 0.001 as published
    :param scale: factor of the logits
    :param augment: makes the views; None takes the replay buffer's. Published: ``PaddedCrop(80, 4, 84)``
    :raises ValueError: for values out of range
    """

    request = DataRequest("views", views=2)

    def __init__(
        self,
        hidden: int = 256,
        width: int = 128,
        tau: float = 0.001,
        scale: float = 0.1,
        augment: Augmentation | None = None,
    ) -> None:
        super().__init__(augment)
        if min(hidden, width) < 1 or not 0.0 < tau <= 1.0 or not scale > 0:
            raise ValueError(
                f"CURLRainbow(hidden={hidden}, width={width}, tau={tau}, scale={scale}): widths of at least 1, tau in (0, 1], "
                "a positive scale"
            )
        self.hidden = hidden
        self.width = width
        self.tau = tau
        self.scale = scale
        self.projection: nn.Module
        self.key_projection: nn.Module
        self.key_encoder: nn.Module
        self.weight: nn.Parameter

    def build(self, encoder: Encoder, spaces: Spaces) -> None:
        """See :meth:`crl.contract.Objective.build`."""
        self.encoder = encoder
        device = device_of(encoder)
        layers: list[nn.Module] = []
        before = encoder.features_dim
        for after in (self.hidden, self.width):
            linear = nn.Linear(before, after)
            nn.init.uniform_(linear.weight)
            nn.init.zeros_(linear.bias)
            layers += [linear, nn.LayerNorm(after, elementwise_affine=False), nn.ReLU()]
            before = after
        self.projection = nn.Sequential(*layers[:-1]).to(device)
        self.weight = nn.Parameter(th.rand(self.width, self.width, device=device))
        self.key_projection = ema_copy(self.projection)
        self.key_encoder = ema_copy(encoder)  # type: ignore[assignment]

    def loss(self, batch: ViewBatch | SequenceBatch, features: th.Tensor | None = None) -> tuple[th.Tensor, Metrics]:
        """See :meth:`crl.contract.Objective.loss`."""
        assert isinstance(batch, ViewBatch)
        query = self.projection(self.encoder(batch.views[0]) if features is None else features)
        with th.no_grad():
            key = self.key_projection(self.key_encoder(batch.views[1]))
        logits = self.scale * bilinear_logits(query, key, self.weight)
        loss = diagonal_cross_entropy(logits)
        scores = logits.detach()
        return loss, contrast_metrics(loss, scores)

    def after_step(self) -> None:
        """EMA step of encoder and projection."""
        online = self.encoder
        assert isinstance(online, nn.Module)
        ema_update(self.key_encoder, online, self.tau)
        ema_update(self.key_projection, self.projection, self.tau)

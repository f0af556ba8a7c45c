"""What stands between two embeddings and their loss: projector, predictor, and who gets a gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch as th
from torch import nn

from crl.losses import pair_loss
from crl.networks import check_widths, ema_copy, ema_update, projection

#: Where the embeddings of the other branch come from: an own EMA copy of the encoder, the agent's target encoder, the encoder
#: itself without gradient, the encoder itself with gradient.
Keys = Literal["own", "target", "online", "trained"]


class Style(NamedTuple):
    """
    What surrounds a loss in its paper.

    :param keys: see :data:`Keys`
    :param projector: widths of its layers
    :param predictor: widths of its layers
    :param symmetric: both views are queries in turn
    :param final_norm: the projector ends in a BatchNorm
    """

    keys: Keys
    projector: tuple[int, ...] = ()
    predictor: tuple[int, ...] = ()
    symmetric: bool = False
    final_norm: bool = False


_SIMCLR = Style("trained", projector=(512, 128))  # published: 2048, 128
_EXPANDER = Style("trained", projector=(512, 512, 512))  # published: 8192 three times
_BYOL = Style("own", projector=(512, 128), predictor=(512, 128), symmetric=True)  # published: 4096, 256 both
#: published: 2048 three times, a predictor of 512 and 2048
_SIMSIAM = Style("online", projector=(512, 512, 512), predictor=(128, 512), symmetric=True, final_norm=True)
#: Structure as published, widths scaled from the 2048 features of a ResNet on 4096 images to the 50 to 512 of an agent's
#: encoder on a batch of 128.
_STYLES = {
    "bilinear": Style("own"),
    "info_nce": Style("own"),
    "moco": Style("own"),
    "adaptive_soft": Style("own"),
    "nt_xent": _SIMCLR,
    "decoupled": _SIMCLR,
    "debiased": _SIMCLR,
    "hard_negative": _SIMCLR,
    "model_aware": _SIMCLR,
    "alignment_uniformity": Style("trained"),
    "vicreg": _EXPANDER,
    "barlow_twins": _EXPANDER,
    "whitening_mse": Style("trained", projector=(512, 64)),  # published: 1024, 64
    "negative_cosine": _BYOL,
}


class PairHead(nn.Module):
    """
    A loss of pairs with the branches it is published with: ``query -> projector -> predictor`` and ``key -> projector``, the
    projector of the keys being an EMA copy, the same without gradient, or the same, as ``keys`` says.

    :param loss: name, see :func:`crl.losses.pair_loss`
    :param loss_kwargs: its parameters
    :param keys: where the caller takes the key embeddings from; None: as published for this loss
    :param projector: widths of its layers, ``()`` for none; None: as published, scaled to an agent's features
    :param predictor: likewise
    :param symmetric: whether the caller should swap the views and take the mean; None: as published
    :raises ValueError: for unknown names and values, and for what is known to collapse
    """

    def __init__(
        self,
        loss: str,
        loss_kwargs: dict[str, Any] | None = None,
        keys: Keys | None = None,
        projector: Sequence[int] | None = None,
        predictor: Sequence[int] | None = None,
        symmetric: bool | None = None,
    ) -> None:
        super().__init__()
        if keys is not None and keys not in get_args(Keys):
            raise ValueError(f"keys={keys!r}: choose 'own', 'target', 'online' or 'trained'")
        self.pair = pair_loss(loss, **(loss_kwargs or {}))
        style = _STYLES[self.pair.name]
        if self.pair.name == "negative_cosine" and keys == "online":
            style = _SIMSIAM
        self.keys: Keys = style.keys if keys is None else keys
        self.projector_widths = style.projector if projector is None else check_widths("projector", projector)
        self.predictor_widths = style.predictor if predictor is None else check_widths("predictor", predictor)
        self.symmetric = style.symmetric if symmetric is None else symmetric
        self.final_norm = style.final_norm
        if self.pair.spec.needs_predictor and (not self.predictor_widths or self.keys == "trained"):
            raise ValueError(
                f"loss={self.pair.name!r} has no negatives and collapses without a predictor, and with keys that are trained: "
                "leave predictor=None, and keys='own' (BYOL), 'target' or 'online' (SimSiam)"
            )
        if self.pair.spec.negatives == "queue" and self.keys == "trained":
            raise ValueError(f"loss={self.pair.name!r} compares with earlier keys, which have no gradient: keys='own' fits")
        self.projector: nn.Sequential
        self.predictor: nn.Sequential
        self.key_projector: nn.Sequential | None = None

    def build(self, width: int, device: th.device) -> None:
        """
        :param width: of the embeddings
        :param device: of the networks
        """
        out = (self.projector_widths or (width,))[-1]
        if self.predictor_widths and self.predictor_widths[-1] != out:
            raise ValueError(
                f"predictor={self.predictor_widths}: its last width must be the {out} of the projections that it predicts"
            )
        self.projector = projection(width, self.projector_widths, self.final_norm).to(device)
        self.predictor = projection(out, self.predictor_widths).to(device)
        if self.keys in ("own", "target") and self.projector_widths:
            self.key_projector = ema_copy(self.projector)
        self.pair.build(out, device)

    def forward(
        self,
        query: th.Tensor,
        key: th.Tensor,
        rows: th.Tensor | None = None,
        negatives: th.Tensor | None = None,
    ) -> tuple[th.Tensor, th.Tensor]:
        """
        :param query: ``(batch, width)``, embeddings of the online encoder
        :param key: ``(batch, width)``, embeddings that ``keys`` names
        :param rows: see :class:`crl.losses.PairLoss`. The BatchNorms of projector and predictor see all rows: give those that
            do not count embeddings of real observations
        :param negatives: see :class:`crl.losses.PairLoss`
        :return: scalar float32; and ``(batch, batch)`` similarities without gradient, the pairs on the diagonal
        """
        query = self.predictor(self.projector(query))
        if self.keys == "trained":
            key = self.projector(key)
        else:
            with th.no_grad():
                key = (self.projector if self.key_projector is None else self.key_projector)(key)
        return self.pair(query, key, rows, negatives), self.pair.scores(query, key)

    def follow(self, tau: float) -> None:
        """EMA step of the key projector. Call it whenever the key encoder makes one."""
        if self.key_projector is not None:
            ema_update(self.key_projector, self.projector, tau)

    def after_step(self) -> None:
        """After each optimiser step: keys enter the queue, if there is one."""
        self.pair.after_step()

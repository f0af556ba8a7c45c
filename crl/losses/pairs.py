"""Losses of pairs of embeddings by name: what each needs, and one way to call them all."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch as th
import torch.nn.functional as F
from torch import nn

from crl.losses.adaptive_soft import adaptive_soft_contrastive
from crl.losses.barlow_twins import barlow_twins
from crl.losses.checks import unit_rows
from crl.losses.debiased import debiased_contrastive
from crl.losses.decoupled import decoupled_contrastive
from crl.losses.hard_negative import hard_negative_contrastive
from crl.losses.hypersphere import alignment_uniformity
from crl.losses.info_nce import bilinear_info_nce, bilinear_logits, info_nce
from crl.losses.moco import moco_info_nce
from crl.losses.model_aware import model_aware_contrastive
from crl.losses.negative_cosine import negative_cosine
from crl.losses.nt_xent import nt_xent
from crl.losses.vicreg import vicreg
from crl.losses.whitening_mse import whitening_mse


@dataclass(frozen=True)
class LossSpec:
    """
    What there is to know of a loss before it is called.

    :param function: ``(query, key, ...)``
    :param negatives: where its negatives come from: the other rows of the batch, a queue of earlier keys, or nowhere
    :param key_gradient: as published, both branches carry gradient; False: the key branch is a target
    :param needs_weight: a learned ``(width, width)`` matrix
    :param needs_predictor: collapses unless the query went through a predictor and the key has no gradient
    :param known_as: methods that use it, for messages
    """

    function: Callable[..., th.Tensor]
    negatives: Literal["batch", "queue"] | None
    key_gradient: bool = True
    needs_weight: bool = False
    needs_predictor: bool = False
    known_as: tuple[str, ...] = ()

    @property
    def defaults(self) -> dict[str, Any]:
        """Parameters and their defaults."""
        parameters = inspect.signature(self.function).parameters.values()
        found = {p.name: p.default for p in parameters if p.default is not p.empty and p.name not in ("rows", "negatives")}
        return found | ({"queue_size": 4096} if self.negatives == "queue" else {})


#: by name
PAIR_LOSSES: dict[str, LossSpec] = {
    "bilinear": LossSpec(bilinear_info_nce, "batch", key_gradient=False, needs_weight=True, known_as=("curl",)),
    "info_nce": LossSpec(info_nce, "batch", key_gradient=False, known_as=("cpc",)),
    "nt_xent": LossSpec(nt_xent, "batch", known_as=("simclr",)),
    "moco": LossSpec(moco_info_nce, "queue", key_gradient=False),
    "decoupled": LossSpec(decoupled_contrastive, "batch", known_as=("dcl", "dclw")),
    "debiased": LossSpec(debiased_contrastive, "batch"),
    "hard_negative": LossSpec(hard_negative_contrastive, "batch", known_as=("hcl",)),
    "model_aware": LossSpec(model_aware_contrastive, "batch", known_as=("macl",)),
    "adaptive_soft": LossSpec(adaptive_soft_contrastive, "queue", key_gradient=False, known_as=("ascl",)),
    "alignment_uniformity": LossSpec(alignment_uniformity, "batch", known_as=("alignment", "uniformity", "hypersphere")),
    "vicreg": LossSpec(vicreg, None),
    "barlow_twins": LossSpec(barlow_twins, None, known_as=("barlow",)),
    "whitening_mse": LossSpec(whitening_mse, None, known_as=("w_mse", "wmse")),
    "negative_cosine": LossSpec(
        negative_cosine, None, key_gradient=False, needs_predictor=True, known_as=("byol", "simsiam", "cosine")
    ),
}


class PairLoss(nn.Module):
    """
    A loss of ``PAIR_LOSSES`` with its parameters and its state. Made by :func:`pair_loss`; before the first call
    :meth:`build` gives it the width.

    :ivar spec: what it needs: ``spec.key_gradient``, ``spec.needs_predictor``, ``spec.negatives``
    """

    queue: th.Tensor
    head: th.Tensor

    def __init__(self, name: str, parameters: dict[str, Any]) -> None:
        super().__init__()
        self.name = name
        self.spec = PAIR_LOSSES[name]
        self.parameters_of_loss = dict(parameters)
        self.queue_size = self.parameters_of_loss.pop("queue_size", 0)
        self.width = 0
        self.weight: nn.Parameter | None = None
        self._waiting: list[tuple[th.Tensor, th.Tensor | None]] = []

    def build(self, width: int, device: th.device | str | None = None) -> PairLoss:
        """
        Make the state: CURL's matrix, uniform in [0, 1); a queue of random unit rows, as in MoCo. Draws from torch's global
        generator.

        :param width: of the embeddings
        :param device: of the state
        :return: itself
        """
        self.width = width
        if self.spec.needs_weight:
            self.weight = nn.Parameter(th.rand(width, width, device=device))
        if self.spec.negatives == "queue":
            self.register_buffer("queue", F.normalize(th.randn(self.queue_size, width, device=device), dim=1))
            self.register_buffer("head", th.zeros((), dtype=th.long, device=device))
        return self

    def forward(
        self,
        query: th.Tensor,
        key: th.Tensor,
        rows: th.Tensor | None = None,
        negatives: th.Tensor | None = None,
    ) -> th.Tensor:
        """
        :param query: ``(batch, width)``; with ``spec.needs_predictor`` what the predictor made of it
        :param key: ``(batch, width)``; with gradient if ``spec.key_gradient``, to be as published
        :param rows: ``(batch,)`` bool, False leaves row i out of the mean (its step lies behind the end of the episode)
        :param negatives: ``(batch, batch)`` bool, False takes column j out of row i's negatives
        :return: scalar float32
        :raises ValueError: when shapes do not fit, or for a negatives mask where the batch has no negatives
        """
        if self.width == 0:
            raise RuntimeError(f"pair_loss({self.name!r}) is not built yet: call build(width) with the embeddings' width")
        masks = {} if rows is None else {"rows": rows}
        if negatives is not None:
            if self.spec.negatives != "batch":
                source = "come from its queue" if self.spec.negatives == "queue" else "do not exist"
                raise ValueError(
                    f"the negatives of {self.name!r} {source}: leave negatives= out, or choose {_named(_in_batch())}"
                )
            masks["negatives"] = negatives
        if self.spec.needs_weight:
            return self.spec.function(query, key, self.weight, **masks, **self.parameters_of_loss)
        if self.spec.negatives != "queue":
            return self.spec.function(query, key, **masks, **self.parameters_of_loss)
        # the graph keeps the queue for its backward pass: it may not move before after_step
        loss = self.spec.function(query, key, self.queue, **masks, **self.parameters_of_loss)
        if th.is_grad_enabled():
            self._waiting.append((unit_rows(key.detach().to(self.queue.dtype)), rows))
        return loss

    @th.no_grad()
    def scores(self, query: th.Tensor, key: th.Tensor) -> th.Tensor:
        """
        Similarities for the log, without gradient: bilinear logits, otherwise cosines.

        :param query: ``(batch, width)``
        :param key: ``(batch, width)``
        :return: ``(batch, batch)``, matching pairs on the diagonal
        """
        if self.weight is not None:
            return bilinear_logits(query, key, self.weight)
        with th.autocast(query.device.type, enabled=False):
            return unit_rows(query.float()) @ unit_rows(key.float()).T

    @th.no_grad()
    def after_step(self) -> None:
        """Call it after each optimiser step: the keys of the losses since the last one enter the queue, oldest leave it."""
        for keys, rows in self._waiting:
            self._enqueue(keys[-self.queue_size :], None if rows is None else rows[-self.queue_size :])
        self._waiting.clear()

    def _enqueue(self, keys: th.Tensor, rows: th.Tensor | None) -> None:
        places = (self.head + th.arange(len(keys), device=keys.device)) % self.queue_size
        count: int | th.Tensor = len(keys)
        if rows is not None:
            # rows that count first; behind them the queue keeps what it has. Nothing here waits for the device
            order = th.argsort(~rows, stable=True)
            keys = th.where(rows[order][:, None], keys[order], self.queue[places])
            count = rows.sum()
        self.queue[places] = keys
        self.head.add_(count).remainder_(self.queue_size)

    def extra_repr(self) -> str:
        """Name and parameters."""
        return ", ".join([repr(self.name), *(f"{k}={v}" for k, v in self.parameters_of_loss.items())])


def pair_loss(name: str, **parameters: Any) -> PairLoss:
    """
    A loss by name: ``pair_loss("info_nce", temperature=0.1).build(width=50)`` is a module that takes ``(query, key)``, and
    optionally ``rows`` and ``negatives``. It owns what the loss needs beside the two (CURL's matrix, a queue): register it as
    a submodule, so that it is trained, moved and saved, and call its ``after_step`` in yours. A predictor it cannot own:
    losses that say ``spec.needs_predictor`` want predictions as their query.

    :param name: of ``PAIR_LOSSES``, or the name of the function
    :param parameters: keyword parameters of the function, and ``queue_size`` (4096) for those with a queue
    :raises ValueError: for an unknown name or parameter, with the nearest right ones, and for values out of range
    """
    name = _resolve(name)
    spec = PAIR_LOSSES[name]
    allowed = spec.defaults
    for key in parameters:
        if key not in allowed:
            near = difflib.get_close_matches(key, allowed, n=2)
            hint = f"did you mean {_named(near)}?" if near else f"it has {_named(list(allowed)) if allowed else 'none'}"
            raise ValueError(f"loss={name!r} has no parameter {key!r}; {hint}")
    loss = PairLoss(name, parameters)
    if spec.negatives == "queue":
        loss.queue_size = parameters.get("queue_size", allowed["queue_size"])
        if not isinstance(loss.queue_size, int) or loss.queue_size < 2:
            raise ValueError(f"loss={name!r}: queue_size={loss.queue_size!r}, a whole number of at least 2")
    _try_out(loss)
    return loss


def _try_out(loss: PairLoss) -> None:
    """One tiny call, so that values out of range are found when they are written, not at the first update."""
    rows = th.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [-1.0, 1.0]])
    extra = (th.eye(2),) if loss.spec.needs_weight else (rows,) if loss.spec.negatives == "queue" else ()
    try:
        loss.spec.function(rows, rows.flip(0), *extra, **loss.parameters_of_loss)
    except TypeError as error:
        raise ValueError(f"loss={loss.name!r} with {loss.parameters_of_loss}: {error}") from error


def _resolve(name: str) -> str:
    if name in PAIR_LOSSES:
        return name
    aliases = {alias: known for known, spec in PAIR_LOSSES.items() for alias in (spec.function.__name__, *spec.known_as)}
    if name in {spec.function.__name__ for spec in PAIR_LOSSES.values()}:
        return aliases[name]
    near = difflib.get_close_matches(str(name).lower(), [*PAIR_LOSSES, *aliases], n=3)
    near = list(dict.fromkeys(aliases.get(found, found) for found in near))
    hint = f"did you mean {_named(near)}?" if near else f"choose {_named(list(PAIR_LOSSES))}"
    raise ValueError(f"loss={name!r} is not a loss of pairs; {hint}")


def _in_batch() -> list[str]:
    return [name for name, spec in PAIR_LOSSES.items() if spec.negatives == "batch"]


def _named(names: list[str]) -> str:
    return ", ".join(names[:-1]) + (" or " if len(names) > 1 else "") + names[-1]

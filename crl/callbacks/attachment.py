"""One objective on one encoder: draws, gradients, steps and metrics."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch as th
from torch import nn

from crl.callbacks.find_encoders import FoundEncoder
from crl.contract import Metrics, Objective, SequenceBatch, ViewBatch
from crl.metrics import effective_rank, embedding_std, grad_cosine, grad_norm

#: of the spread at the first look: less is a warning
_COLLAPSED = 1e-3

Draw = Callable[[Objective], "ViewBatch | SequenceBatch | None"]


@contextmanager
def isolated_random(device: th.device, seed: int) -> Iterator[None]:
    """
    Whatever draws from torch's global generators inside leaves no trace outside.

    :param device: of the model
    :param seed: of the global generators inside
    """
    devices = [device] if device.type == "cuda" else []
    with th.random.fork_rng(devices=devices):
        th.default_generator.manual_seed(seed)
        if devices:
            th.cuda.manual_seed(seed)
        yield


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """
    Evaluation mode inside, so that running statistics (BatchNorm's, CrossQ's BatchRenorm's), which describe the agent's own
    batches, do not move. Outside each layer is in its own mode again: algorithms set them apart (CrossQ does).

    :param module: an encoder
    """
    modes = [(layer, layer.training) for layer in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for layer, mode in modes:
            layer.training = mode


class Attachment:
    """
    Holds an objective, the agent's encoder that it trains, and the optimiser for what the agent's own does not step.

    :param found: encoder, its name and its owner
    :param objective: built for this encoder
    :param optimizer: of the heads, and of encoder parameters that the agent's optimiser is not asked to step
    :param borrowed: encoder parameters whose gradient is added for the agent's optimiser (``add_gradient``)
    :param owned: encoder parameters that ``optimizer`` steps
    :param weight: factor of the added gradient
    :param balance: see :class:`crl.callbacks.AuxiliaryLossCallback`
    :param clip: norm that the encoder's gradient is clipped to, None: not
    :param log_interval: RL updates between two looks at gradients and embeddings
    """

    def __init__(
        self,
        found: FoundEncoder,
        objective: Objective,
        optimizer: th.optim.Optimizer,
        borrowed: list[nn.Parameter],
        owned: list[nn.Parameter],
        weight: float,
        balance: float | None,
        clip: float | None,
        log_interval: int,
    ) -> None:
        self.found = found
        self.objective = objective
        self.optimizer = optimizer
        self.borrowed = borrowed
        self.owned = owned
        self.weight = weight
        self.balance = balance
        self.clip = clip
        self.log_interval = log_interval
        #: RL updates seen
        self.n_rl_updates = 0
        #: RL updates that still wait for a step of the objective
        self.pending = 0
        #: steps of the objective
        self.n_updates = 0
        #: RL update of the last line in the log
        self.logged_at = 0
        #: whether the current RL update got a gradient of the objective
        self.stepped = False
        #: running means of the gradients' norms, ``[RL, objective]``, for ``balance``
        self.norms: th.Tensor | None = None
        #: spread of the encoder's embeddings at the first look
        self.first_std: float | None = None
        self._warned = False
        self._rl_gradients: list[th.Tensor] | None = None
        self._sums: dict[str, th.Tensor] = {}
        self._counts: dict[str, int] = {}

    @property
    def name(self) -> str:
        """The encoder's name."""
        return self.found.name

    @property
    def heads(self) -> list[nn.Parameter]:
        """What the objective trains besides the encoder."""
        return [parameter for parameter in self.objective.parameters() if parameter.requires_grad]

    def see_rl_update(self) -> None:
        """Count an RL update; now and then keep its gradient on the encoder, for the log."""
        self.n_rl_updates += 1
        self.pending += 1
        if self.n_rl_updates % self.log_interval:
            return
        parameters = self.borrowed + self.owned
        self._rl_gradients = [th.zeros_like(p) if p.grad is None else p.grad.detach().clone() for p in parameters]

    def step(self, draw: Draw) -> bool:
        """
        One step of the objective. Parameters that the agent's optimiser steps get their gradient added instead.

        :param draw: gives a batch, None while there is too little data
        :return: whether there was data
        """
        batch = draw(self.objective)
        if batch is None:
            return False
        with evaluation_mode(self.found.encoder.extractor):
            gradients, metrics = self._gradients(batch)
            if self._rl_gradients is not None or self.n_updates % self.log_interval == 0:
                metrics |= self._closer_look(batch, gradients)
        self._record(metrics)
        self._add_to_borrowed(gradients[: len(self.borrowed)])
        for parameter, gradient in zip(self.owned + self.heads, gradients[len(self.borrowed) :], strict=True):
            parameter.grad = gradient
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.n_updates += 1
        return True

    def _gradients(self, batch: ViewBatch | SequenceBatch) -> tuple[list[th.Tensor | None], Metrics]:
        loss, metrics = self.objective.loss(batch)
        parameters = self.borrowed + self.owned + self.heads
        gradients: list[th.Tensor | None] = list(th.autograd.grad(loss, parameters, allow_unused=True))
        n = len(self.borrowed) + len(self.owned)
        of_encoder = [gradient for gradient in gradients[:n] if gradient is not None]
        if self.clip is not None and of_encoder:
            norm = th.nn.utils.get_total_norm(of_encoder)
            scale = th.clamp(self.clip / (norm + 1e-6), max=1.0)
            th._foreach_mul_(of_encoder, scale)
        return gradients, metrics

    def _add_to_borrowed(self, gradients: list[th.Tensor | None]) -> None:
        if self.weight == 0 or not self.borrowed:
            return
        scale: float | th.Tensor = self.weight
        if self.balance is not None:
            scale = self.weight * self._balance_scale(gradients)
        for parameter, gradient in zip(self.borrowed, gradients, strict=True):
            if gradient is None:
                continue
            scaled = gradient * scale
            parameter.grad = scaled if parameter.grad is None else parameter.grad.add_(scaled)

    def _balance_scale(self, gradients: list[th.Tensor | None]) -> th.Tensor:
        """``balance * |RL| / |objective|`` of running means, so that one odd batch does not swing the ratio."""
        rl = grad_norm([p.grad for p in self.borrowed if p.grad is not None] or [th.zeros_like(self.borrowed[0])])
        now = th.stack([rl, grad_norm([g for g in gradients if g is not None])])
        self.norms = now if self.norms is None else th.lerp(self.norms, now, 0.01)
        assert self.balance is not None
        return self.balance * self.norms[0] / self.norms[1].clamp_min(1e-12)

    @th.no_grad()
    def _closer_look(self, batch: ViewBatch | SequenceBatch, gradients: list[th.Tensor | None]) -> Metrics:
        images = batch.views[0] if isinstance(batch, ViewBatch) else batch.obs[:, 0]
        embeddings = self.found.encoder(images)
        metrics = {"embedding_std": embedding_std(embeddings), "effective_rank": effective_rank(embeddings)}
        parameters = self.borrowed + self.owned
        of_encoder = [th.zeros_like(p) if g is None else g for p, g in zip(parameters, gradients, strict=False)]
        metrics["grad_norm"] = grad_norm(of_encoder)
        if self._rl_gradients is not None:
            metrics["rl_grad_norm"] = grad_norm(self._rl_gradients)
            metrics["grad_cosine"] = grad_cosine(self._rl_gradients, of_encoder)
            self._rl_gradients = None
        return metrics

    def _record(self, metrics: Metrics) -> None:
        for key, value in metrics.items():
            value = value.detach().float()
            self._sums[key] = self._sums[key] + value if key in self._sums else value
            self._counts[key] = self._counts.get(key, 0) + 1

    def flush_metrics(self) -> dict[str, float]:
        """
        :return: means since the last call
        :raises FloatingPointError: when the loss is no number any more
        """
        means = {key: (total / self._counts[key]).item() for key, total in self._sums.items()}
        self._sums, self._counts = {}, {}
        if not np.isfinite(means.get("loss", 0.0)):
            raise FloatingPointError(
                f"the {self.objective.name} loss on the {self.name} encoder is {means['loss']} (within the last "
                f"{self.log_interval} updates): lower learning_rate or weight, or set max_grad_norm"
            )
        self._watch_spread(means.get("embedding_std"))
        return means

    def _watch_spread(self, std: float | None) -> None:
        """Warn, once, when the encoder no longer tells observations apart."""
        if std is None:
            return
        self.first_std = std if self.first_std is None else self.first_std
        if self._warned or not std < _COLLAPSED * self.first_std:
            return
        self._warned = True
        warnings.warn(
            f"the {self.name} encoder is collapsing: the spread of its embeddings fell from {self.first_std:.1e} to {std:.1e} "
            f"while {self.objective.name} was trained on it. With a loss that has no negatives, use mode='add_gradient' or a "
            "smaller weight; or take one that has some, such as loss='info_nce'",
            stacklevel=2,
        )

    def state_dict(self) -> dict[str, Any]:
        """Everything but the agent's encoder."""
        return {
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "n_rl_updates": self.n_rl_updates,
            "pending": self.pending,
            "n_updates": self.n_updates,
            "norms": self.norms,
            "first_std": self.first_std,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """
        :param state: from :meth:`state_dict`
        """
        self.objective.load_state_dict(state["objective"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.n_rl_updates, self.pending, self.n_updates = state["n_rl_updates"], state["pending"], state["n_updates"]
        self.norms = state["norms"]
        self.first_std = state.get("first_std")  # not in older files

"""ST-DIM: spatio-temporal deep infomax (Anand et al. 2019, arXiv:1906.08226)."""

from __future__ import annotations

from typing import Any

import torch as th
from torch import nn

from crl.contract import Augmentation, DataRequest, Encoder, Metrics, Objective, SequenceBatch, Spaces, ViewBatch
from crl.losses import PairLoss
from crl.losses.candidates import candidate_cross_entropy, mask_candidates
from crl.losses.checks import common_float
from crl.objectives.windows import as_windows, candidates_of, contrast_by, device_of, far_apart, other_loss, views_of


class STDIM(Objective):
    """
    The same place of the picture, a step apart, should be recognised among other samples, place by place: from all that is
    seen (global-local) and from what is seen there (local-local). With features g and the last feature map m, at each
    location (y, x)::

        GL[i, j] = (W_g g(o_{t+k})_i) . m(o_t)_{j, y, x}        LL[i, j] = (W_l m(o_{t+k})_{i, y, x}) . m(o_t)_{j, y, x}

    and the loss is the mean over locations of the cross-entropies with labels = arange(batch) of both. Negatives are other
    samples at the same location. Gradient flows through both observations; no target network, no temperature. W_g and W_l are
    linear layers with bias, and the small objects that global contrasts overlook have to be told apart.

    As published but for the map, which is the last instead of the third of four convolutions, and for maps of more than
    ``locations`` places (PixelEncoder's at 84x84 has 1225), of which each update draws so many: the expected loss is the same.

    Actions, discrete or continuous, do not enter.

    :param k: steps between the two observations, 1 as published
    :param locations: places of the map in one update at most; None: all
    :param negative_window: windows of the same episode less than so many steps apart are no negatives of each other; 0: all
        are. The authors draw the pairs of a batch from different episodes for the same reason.
    :param augment: of both observations, each on its own; None takes the replay buffer's. Published without any. Shifts blur
        which place is which by as many pixels.
    :param loss: ``"bilinear"``: ST-DIM's own; else a loss of pairs, see :func:`crl.losses.pair_loss`,
        called once for each place (``locations`` says how many)
    :param loss_kwargs: its parameters, such as ``dict(temperature=0.1)``
    :raises ValueError: for values out of range; when built, for an encoder that has no feature map
    """

    needs_augmentation = False

    def __init__(
        self,
        k: int = 1,
        locations: int | None = 100,
        negative_window: int = 0,
        augment: Augmentation | None = None,
        loss: str = "bilinear",
        loss_kwargs: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(augment)
        if k < 1:
            raise ValueError(f"STDIM(k={k}): the two observations are at least 1 step apart")
        if locations is not None and locations < 1:
            raise ValueError(f"STDIM(locations={locations}): at least 1, or None for all")
        if negative_window < 0:
            raise ValueError(f"STDIM(negative_window={negative_window}): at least 0, and 0 is off")
        #: in place of dot products; None: ST-DIM's own
        self.pair = other_loss("STDIM", "bilinear", loss, loss_kwargs, negative_window)
        self.request = DataRequest("sequence", steps=k, origin=negative_window > 0)
        self.k = k
        self.locations = locations
        self.negative_window = negative_window
        self.global_map: nn.Linear
        self.local_map: nn.Linear

    def build(self, encoder: Encoder, spaces: Spaces) -> None:
        """See :meth:`crl.contract.Objective.build`."""
        self.encoder = encoder
        device = device_of(encoder)
        with th.no_grad():
            blank = th.zeros(1, *spaces.observation.shape, dtype=th.uint8, device=device)
            filters = encoder.feature_map(blank).shape[1]
        self.global_map = nn.Linear(encoder.features_dim, filters, device=device)
        self.local_map = nn.Linear(filters, filters, device=device)
        if self.pair is not None:
            self.pair.build(filters, device)

    def loss(self, batch: ViewBatch | SequenceBatch, features: th.Tensor | None = None) -> tuple[th.Tensor, Metrics]:
        """
        See :meth:`crl.contract.Objective.loss`. Features of the first observation are of no use: its map is needed, and the
        features are the other one's.
        """
        batch = as_windows(self, batch)
        maps = self.encoder.feature_map(views_of(batch, [0, self.k]))
        seen = self.encoder.forward_head(maps[len(batch) :])
        first, second = self._places(maps, batch.generator).split(len(batch), dim=1)  # (places, batch, filters)
        rows = batch.mask[:, self.k - 1]
        apart = far_apart(batch, self.negative_window)
        queries = self.global_map(seen).expand(len(first), -1, -1), self.local_map(second)
        if self.pair is None:
            candidates = candidates_of(rows, apart)
            of_global, of_local = (_contrast(query, first, rows, candidates) for query in queries)
        else:
            of_global, of_local = (_contrast_by(self.pair, query, first, rows, apart) for query in queries)
        loss = of_global["loss"] + of_local["loss"]
        metrics = {name: (of_global[name] + of_local[name]).detach() / 2.0 for name in of_global}
        metrics |= {"loss": loss.detach(), "global_accuracy": of_global["accuracy"], "local_accuracy": of_local["accuracy"]}
        return loss, metrics

    def after_step(self) -> None:
        """Keys enter the queue of losses that have one."""
        if self.pair is not None:
            self.pair.after_step()

    def _places(self, maps: th.Tensor, generator: th.Generator | None) -> th.Tensor:
        """``(places, 2 * batch, filters)``"""
        places = maps.flatten(2).permute(2, 0, 1)
        if self.locations is None or len(places) <= self.locations:
            return places
        chosen = th.randperm(len(places), generator=generator, device=maps.device)[: self.locations]
        return places[chosen]


def _contrast(query: th.Tensor, key: th.Tensor, rows: th.Tensor, candidates: th.Tensor) -> dict[str, th.Tensor]:
    """Mean over places of the cross-entropies; query and key are ``(places, batch, filters)``."""
    n_places, batch = key.shape[:2]
    dtype = common_float(query, key)
    with th.autocast(key.device.type, enabled=False):
        logits = th.bmm(query.to(dtype), key.to(dtype).transpose(1, 2))
    labels = th.arange(batch, device=key.device)
    scores = logits.detach()
    positive = scores.diagonal(dim1=1, dim2=2)
    best = mask_candidates(scores.flatten(0, 1), labels.repeat(n_places), candidates.repeat(n_places, 1)).argmax(dim=1)
    right = best.view(n_places, batch) == labels

    def mean(values: th.Tensor) -> th.Tensor:
        return values.masked_fill(~rows, 0.0).sum() / (rows.sum() * n_places)

    return {
        # rows are as many at each place: the mean over all of them is the mean over places
        "loss": candidate_cross_entropy(
            logits.flatten(0, 1), labels.repeat(n_places), rows.repeat(n_places), candidates.repeat(n_places, 1)
        ),
        "accuracy": mean(right.to(dtype)),
        "positive_similarity": mean(positive),
        "negative_similarity": mean((scores.sum(dim=2) - positive) / (batch - 1)),
    }


def _contrast_by(
    pair: PairLoss, query: th.Tensor, key: th.Tensor, rows: th.Tensor, apart: th.Tensor | None
) -> dict[str, th.Tensor]:
    """As :func:`_contrast`, by another loss."""
    parts = []
    for of_query, of_key in zip(query, key, strict=True):
        loss, metrics = contrast_by(pair, of_query, of_key, rows, apart)
        parts.append(metrics | {"loss": loss})
    return {name: th.stack([part[name] for part in parts]).mean() for name in parts[0]}

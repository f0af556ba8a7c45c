"""CLAM: contrastive learning-based agent modelling (Ma et al. 2024, arXiv:2401.00132)."""

from __future__ import annotations

from typing import Literal

import torch as th
from torch import nn

from crl.contract import EpisodeBatch, Metrics
from crl.losses import cosine_logits, nt_xent, supervised_contrast
from crl.metrics import contrast_metrics
from crl.networks import check_widths, projection
from crl.networks.history_encoder import HistoryEncoder
from crl.objectives.episode_crops import Crops, crop_episodes, mask_steps
from crl.objectives.history_objective import HistoryObjective, PartnerSpaces


class AgentModel(HistoryObjective):
    """
    Who the others are shows in what the ego agent sees of them, and stays the same within an episode: two crops of one
    episode are a positive pair, crops of different episodes negatives. With ``e = encoder(crop)`` and ``g = projector(e)``::

        view 1: a crop, 30 % of whose steps are set to zero;  view 2: another crop, whole
        loss:   NT-Xent of g_1 and g_2

    Gradient flows through both views. The agent acts on ``e`` of the history so far, from an EMA copy of the encoder. Nothing
    but the ego agent's observations and actions is needed, in training or after. Episodes against the same partner are
    negatives, too, of which about 1 / P are wrong: hence the high temperature.

    Differs from the authors' code: inputs are the ego agent's own (theirs holds the others' actions), episodes may be of any
    length, the loss lacks a factor of temperature / 0.07, and the EMA is faster since there are fewer steps.

    :param temperature: of NT-Xent
    :param min_crop: rows of the shortest crop; shorter episodes are taken whole
    :param max_crop: rows of the longest; never more than the agent keeps of a history (``HistorySpec.length``)
    :param max_share: of an episode that a crop takes at most, though no fewer than ``min_crop`` rows. With 1, both crops of an
        episode that is shorter than them are whole (the metric ``whole_pairs`` says how many were), and tell nothing but that
        they are the same. The authors' episodes all have 50 steps.
    :param mask_ratio: of the steps of a crop that are set to zero
    :param masked_views: ``"first"``: asymmetric, as published; ``"both"``; ``"none"``: crops alone
    :param positives: ``"episode"``; ``"partner"``: all episodes with the same partner are positives of each other (SupCon), an
        upper bound of what contrast can do, which must be told who they are
    :param projector: widths of the layers that follow the embedding in training
    :param tau: rate of the acting encoder's EMA at each step (0.01 in the authors' code, with 20 000 steps)
    :raises ValueError: for values out of range
    """

    def __init__(
        self,
        temperature: float = 0.5,
        min_crop: int = 8,
        max_crop: int = 48,
        mask_ratio: float = 0.3,
        masked_views: Literal["first", "both", "none"] = "first",
        positives: Literal["episode", "partner"] = "episode",
        projector: tuple[int, ...] = (128, 64),
        tau: float = 0.05,
        max_share: float = 1.0,
    ) -> None:
        super().__init__(tau)
        if not temperature > 0:
            raise ValueError(f"AgentModel(temperature={temperature}): must be positive (0.5 as published)")
        if not 1 <= min_crop <= max_crop:
            raise ValueError(f"AgentModel(min_crop={min_crop}, max_crop={max_crop}): at least 1 row, the shortest first")
        if not 0.0 <= mask_ratio < 1.0:
            raise ValueError(f"AgentModel(mask_ratio={mask_ratio}): a share of the steps, in [0, 1)")
        if masked_views not in ("first", "both", "none"):
            raise ValueError(f"AgentModel(masked_views={masked_views!r}): choose 'first', 'both' or 'none'")
        if positives not in ("episode", "partner"):
            raise ValueError(f"AgentModel(positives={positives!r}): choose 'episode' or 'partner'")
        if not 0.0 < max_share <= 1.0:
            raise ValueError(f"AgentModel(max_share={max_share}): a share of an episode, in (0, 1]")
        self.max_share = max_share
        self.temperature = temperature
        self.min_crop, self.max_crop = min_crop, max_crop
        self.mask_ratio = mask_ratio
        self.masked_views = masked_views
        self.positives = positives
        self.needs = ("partner_id",) if positives == "partner" else ()
        self.widths = check_widths("projector", projector)
        self.projector: nn.Sequential

    @property
    def name(self) -> str:
        """How metrics name it."""
        return "clam" if self.positives == "episode" else "supcon"

    def build_heads(self, encoder: HistoryEncoder, spaces: PartnerSpaces | None) -> None:
        """See :class:`HistoryObjective`."""
        self.projector = projection(encoder.features_dim, self.widths)

    def views(self, rows: th.Tensor, lengths: th.Tensor, generator: th.Generator | None) -> tuple[Crops, Crops]:
        """
        :param rows: ``(batch, steps, width)`` of whole episodes
        :param lengths: ``(batch,)`` how many count
        :param generator: of crops and masks
        :return: two crops of each
        """
        found = []
        kept = self.encoder.length
        longest = self.max_crop if kept is None else min(self.max_crop, kept)
        for masked in (self.masked_views != "none", self.masked_views == "both"):
            crops = crop_episodes(rows, lengths, self.min_crop, longest, generator, self.max_share)
            found.append(mask_steps(crops, self.mask_ratio, generator) if masked else crops)
        return found[0], found[1]

    def loss(self, batch: EpisodeBatch) -> tuple[th.Tensor, Metrics]:
        """See :meth:`HistoryObjective.loss`."""
        rows, lengths = self.rows_of(batch)
        views = self.views(rows, lengths, batch.generator)
        first, second = (self.projector(self.encoder(*view)) for view in views)
        if self.positives == "partner":
            loss = supervised_contrast(first, second, self.told(batch, "partner_id"), self.temperature)
        else:
            loss = nt_xent(first, second, self.temperature)
        with th.no_grad():
            whole = th.stack([view.mask.sum(dim=1) == lengths for view in views]).all(dim=0).float().mean()
            return loss, {**contrast_metrics(loss, cosine_logits(first, second, 1.0)), "whole_pairs": whole}

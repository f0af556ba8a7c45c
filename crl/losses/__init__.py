"""Losses of embeddings: pure functions of tensors, in log space and float32. ``pair_loss`` calls them by name."""

from crl.losses.adaptive_soft import adaptive_soft_contrastive
from crl.losses.barlow_twins import barlow_twins
from crl.losses.cross_entropy import diagonal_cross_entropy
from crl.losses.debiased import debiased_contrastive
from crl.losses.decoupled import decoupled_contrastive
from crl.losses.hard_negative import hard_negative_contrastive
from crl.losses.hypersphere import alignment, alignment_uniformity, uniformity
from crl.losses.info_nce import bilinear_info_nce, bilinear_logits, cosine_logits, info_nce
from crl.losses.moco import moco_info_nce
from crl.losses.model_aware import model_aware_contrastive
from crl.losses.negative_cosine import negative_cosine
from crl.losses.nt_xent import nt_xent
from crl.losses.pairs import PAIR_LOSSES, LossSpec, PairLoss, pair_loss
from crl.losses.supervised_contrast import supervised_contrast
from crl.losses.vicreg import vicreg
from crl.losses.whitening_mse import whitening_mse

__all__ = [
    "PAIR_LOSSES",
    "LossSpec",
    "PairLoss",
    "adaptive_soft_contrastive",
    "alignment",
    "alignment_uniformity",
    "barlow_twins",
    "bilinear_info_nce",
    "bilinear_logits",
    "cosine_logits",
    "debiased_contrastive",
    "decoupled_contrastive",
    "diagonal_cross_entropy",
    "hard_negative_contrastive",
    "info_nce",
    "moco_info_nce",
    "model_aware_contrastive",
    "negative_cosine",
    "nt_xent",
    "pair_loss",
    "supervised_contrast",
    "uniformity",
    "vicreg",
    "whitening_mse",
]

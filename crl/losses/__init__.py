"""Contrastive losses: pure functions of tensors, in log space and float32."""

from crl.losses.cross_entropy import diagonal_cross_entropy
from crl.losses.info_nce import bilinear_info_nce, bilinear_logits, cosine_logits, info_nce
from crl.losses.nt_xent import nt_xent

__all__ = [
    "bilinear_info_nce",
    "bilinear_logits",
    "cosine_logits",
    "diagonal_cross_entropy",
    "info_nce",
    "nt_xent",
]

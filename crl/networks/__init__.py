"""Conv bodies, initialisations and EMA copies: plain torch, no SB3."""

from crl.networks.bodies import impala_body, nature_body, pixel_body, rainbow_body
from crl.networks.ema import ema_copy, ema_update
from crl.networks.init import delta_orthogonal_, initialize

__all__ = [
    "delta_orthogonal_",
    "ema_copy",
    "ema_update",
    "impala_body",
    "initialize",
    "nature_body",
    "pixel_body",
    "rainbow_body",
]

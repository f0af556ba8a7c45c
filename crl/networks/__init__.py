"""Conv bodies, initialisations and EMA copies: plain torch, no SB3."""

from crl.networks.actions import ActionVectors
from crl.networks.adam import FusedAdam, faster
from crl.networks.bodies import impala_body, nature_body, pixel_body, rainbow_body
from crl.networks.conv_stack import ConvStack, run_conv_layers
from crl.networks.ema import ema_copy, ema_update
from crl.networks.flops import ConvolutionCounter
from crl.networks.head_stack import HeadStack
from crl.networks.init import delta_orthogonal_, initialize
from crl.networks.linear import FastLinear, speed_up_linear
from crl.networks.pre_norm import conv_relu, pre_norm_conv, pre_norm_dense, scale_rows_
from crl.networks.pre_norm_impala import pre_norm_impala_body
from crl.networks.projector import check_widths, projection
from crl.networks.transition import ConvTransition, VectorTransition, rescale
from crl.networks.value_normalizer import ValueNormalizer

__all__ = [
    "ActionVectors",
    "ConvStack",
    "ConvTransition",
    "ConvolutionCounter",
    "FastLinear",
    "FusedAdam",
    "HeadStack",
    "ValueNormalizer",
    "VectorTransition",
    "check_widths",
    "conv_relu",
    "delta_orthogonal_",
    "ema_copy",
    "ema_update",
    "faster",
    "impala_body",
    "initialize",
    "nature_body",
    "pixel_body",
    "pre_norm_conv",
    "pre_norm_dense",
    "pre_norm_impala_body",
    "projection",
    "rainbow_body",
    "rescale",
    "run_conv_layers",
    "scale_rows_",
    "speed_up_linear",
]

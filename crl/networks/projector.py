"""Projectors and predictors: the small networks between an encoder and a loss of pairs."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn


def check_widths(name: str, widths: Sequence[int]) -> tuple[int, ...]:
    """
    :param name: of the argument
    :param widths: of the layers, the last one that of the output; empty: no network
    :raises ValueError: for anything but a sequence of positive whole numbers
    """
    if isinstance(widths, str) or not isinstance(widths, Sequence) or not all(isinstance(w, int) and w > 0 for w in widths):
        raise ValueError(f"{name}={widths!r}: widths of the layers such as (512, 128), or () for none")
    return tuple(widths)


def projection(inputs: int, widths: Sequence[int], final_norm: bool = False) -> nn.Sequential:
    """
    Linear, BatchNorm, ReLU, and so on, linear at the end: the projectors and predictors of SimCLR, BYOL, SimSiam, VICReg and
    Barlow Twins. BatchNorm takes the statistics of each batch in every mode and keeps no running ones: these heads never act,
    and an EMA copy should see its batch as the original does.

    :param inputs: width of the input ``(batch, inputs)``, batch at least 2
    :param widths: of the layers, the last one that of the output ``(batch, widths[-1])``; empty: the identity
    :param final_norm: a last BatchNorm, without scale and shift (SimSiam's projector)
    """
    layers: list[nn.Module] = []
    for width in widths[:-1]:
        # BatchNorm takes the bias off again
        layers += [
            nn.Linear(inputs, width, bias=False),
            nn.BatchNorm1d(width, track_running_stats=False),
            nn.ReLU(inplace=True),
        ]
        inputs = width
    if widths:
        layers.append(nn.Linear(inputs, widths[-1], bias=not final_norm))
        if final_norm:
            layers.append(nn.BatchNorm1d(widths[-1], affine=False, track_running_stats=False))
    return nn.Sequential(*layers)

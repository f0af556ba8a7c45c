"""InfoNCE with one chosen negative for each row."""

from __future__ import annotations

import torch as th
import torch.nn.functional as F

from crl.losses.checks import check_pair, check_temperature, unit_rows


def one_negative_info_nce(anchor: th.Tensor, positive: th.Tensor, negative: th.Tensor, temperature: float = 0.1) -> th.Tensor:
    """
    Cross-entropy over two cosines, as in achievement distillation (Moon et al. 2023, arXiv:2307.03486): mean over the rows of
    ``log(1 + exp((cos(anchor, negative) - cos(anchor, positive)) / temperature))``; ln 2 where both are alike.

    :param anchor: ``(batch, width)``
    :param positive: ``(batch, width)``
    :param negative: ``(batch, width)``
    :param temperature: positive; 0.1 as published
    :return: scalar float32
    :raises ValueError: when shapes do not fit, for an empty batch, or when the temperature is not positive
    """
    check_temperature(temperature)
    positive, negative = check_pair(positive, negative, ("positive", "negative"), single=None)
    anchor, positive = check_pair(anchor, positive, ("anchor", "positive"), single=None)
    with th.autocast(anchor.device.type, enabled=False):
        anchor, positive, negative = unit_rows(anchor), unit_rows(positive), unit_rows(negative.to(anchor.dtype))
        difference = (anchor * (negative - positive)).sum(1)
        return F.softplus(difference / temperature).mean()

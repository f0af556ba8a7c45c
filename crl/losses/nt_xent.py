"""NT-Xent, the loss of SimCLR."""

from __future__ import annotations

import torch as th

from crl.losses.checks import check_pair, check_temperature, unit_rows


def nt_xent(z1: th.Tensor, z2: th.Tensor, temperature: float = 0.5) -> th.Tensor:
    """
    Normalised temperature-scaled cross-entropy (Chen et al. 2020, arXiv:2002.05709): each of the 2 * batch embeddings
    should pick its other view among the remaining ``2 * batch - 1``, the negatives of its own view included. Symmetric.

    :param z1: ``(batch, width)``, first views
    :param z2: ``(batch, width)``, second views
    :param temperature: positive; 0.5 in SimCLR
    :return: scalar float32
    :raises ValueError: when shapes do not fit, for a batch of 1, or when the temperature is not positive
    """
    check_temperature(temperature)
    z1, z2 = check_pair(z1, z2, ("z1", "z2"))
    batch = z1.shape[0]
    with th.autocast(z1.device.type, enabled=False):
        u = unit_rows(th.cat([z1, z2]))  # (2 batch, width)
        logits = u @ u.T / temperature
    itself = th.eye(2 * batch, dtype=th.bool, device=logits.device)
    logits = logits.masked_fill(itself, float("-inf"))
    # the partner of row i is row i + batch, and the other way round
    positive = th.cat([logits.diagonal(batch), logits.diagonal(-batch)])
    return (th.logsumexp(logits, dim=1) - positive).mean()

"""SupCon: a contrast whose positives are told by labels."""

from __future__ import annotations

import torch as th

from crl.losses.checks import check_temperature
from crl.losses.two_views import two_views


def supervised_contrast(z1: th.Tensor, z2: th.Tensor, labels: th.Tensor, temperature: float = 0.5) -> th.Tensor:
    """
    NT-Xent with all embeddings of the anchor's label as its positives, each on its own (Khosla et al. 2020,
    arXiv:2004.11362, their L_out)::

        mean over i of  mean over p with label_p = label_i, p != i of  [ -s_ip + log sum over k != i of exp s_ik ]

    With a label of its own for each sample it is :func:`crl.losses.nt_xent`.

    :param z1: ``(batch, width)``, first views
    :param z2: ``(batch, width)``, second views
    :param labels: ``(batch,)`` int64
    :param temperature: positive
    :return: scalar float32
    :raises ValueError: when shapes do not fit, for a batch of 1, or when the temperature is not positive
    """
    check_temperature(temperature)
    pairs = two_views(z1, z2, None, None)
    if labels.shape != (len(z1),):
        raise ValueError(f"labels must be ({len(z1)},), one for each row of z1, got {tuple(labels.shape)}")
    itself = th.eye(2 * len(z1), dtype=th.bool, device=z1.device)
    both = labels.repeat(2)
    positive = (both[:, None] == both) & ~itself
    scores = pairs.cosine / temperature
    log_probability = scores - scores.masked_fill(itself, float("-inf")).logsumexp(dim=1, keepdim=True)
    return -(log_probability.masked_fill(~positive, 0.0).sum(dim=1) / positive.sum(dim=1)).mean()

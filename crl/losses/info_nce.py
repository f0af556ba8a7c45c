"""InfoNCE with in-batch negatives: bilinear (CURL) and cosine (MoCo, CVRL)."""

from __future__ import annotations

import torch as th

from crl.losses.checks import check_pair, check_temperature, common_float, unit_rows
from crl.losses.cross_entropy import diagonal_cross_entropy


def bilinear_logits(query: th.Tensor, key: th.Tensor, weight: th.Tensor) -> th.Tensor:
    """
    ``logits[i, j] = query[i]^T weight key[j]``.

    :param query: ``(batch, width)``
    :param key: ``(batch, width)``
    :param weight: ``(width, width)``
    :return: ``(batch, batch)`` float32
    :raises ValueError: when shapes do not fit, or for a batch of 1
    """
    query, key = check_pair(query, key, ("query", "key"))
    if weight.shape != (query.shape[1], query.shape[1]):
        raise ValueError(
            f"weight must be ({query.shape[1]}, {query.shape[1]}) for embeddings of that width, got {tuple(weight.shape)}"
        )
    dtype = common_float(query, weight)
    with th.autocast(query.device.type, enabled=False):
        return query.to(dtype) @ weight.to(dtype) @ key.to(dtype).T


def bilinear_info_nce(
    query: th.Tensor,
    key: th.Tensor,
    weight: th.Tensor,
    *,
    rows: th.Tensor | None = None,
    negatives: th.Tensor | None = None,
) -> th.Tensor:
    """
    CURL's loss (Laskin et al. 2020, arXiv:2004.04136): cross-entropy of :func:`bilinear_logits` with
    ``labels = arange(batch)``. No temperature and no normalisation: ``weight`` learns the scale.

    :param query: ``(batch, width)``, from the online encoder
    :param key: ``(batch, width)``, from the key encoder, usually without gradient
    :param weight: ``(width, width)``, learned
    :param rows: ``(batch,)`` bool, see :func:`diagonal_cross_entropy`
    :param negatives: ``(batch, batch)`` bool, see :func:`diagonal_cross_entropy`
    :return: scalar float32
    :raises ValueError: when shapes do not fit, or for a batch of 1
    """
    return diagonal_cross_entropy(bilinear_logits(query, key, weight), rows, negatives)


def cosine_logits(query: th.Tensor, key: th.Tensor, temperature: float) -> th.Tensor:
    """
    ``logits[i, j] = cos(query[i], key[j]) / temperature``.

    :param query: ``(batch, width)``
    :param key: ``(batch, width)``
    :param temperature: positive
    :return: ``(batch, batch)`` float32
    :raises ValueError: when shapes do not fit, for a batch of 1, or when the temperature is not positive
    """
    check_temperature(temperature)
    query, key = check_pair(query, key, ("query", "key"))
    with th.autocast(query.device.type, enabled=False):
        return unit_rows(query) @ unit_rows(key).T / temperature


def info_nce(
    query: th.Tensor,
    key: th.Tensor,
    temperature: float = 0.1,
    *,
    rows: th.Tensor | None = None,
    negatives: th.Tensor | None = None,
) -> th.Tensor:
    """
    One-way InfoNCE on cosine similarities (van den Oord et al. 2018, arXiv:1807.03748, as used by MoCo): the other rows' keys
    are the negatives. An untrained encoder stands near ``ln(batch)``.

    :param query: ``(batch, width)``
    :param key: ``(batch, width)``
    :param temperature: positive; 0.07 in MoCo, 0.1 in CVRL
    :param rows: ``(batch,)`` bool, see :func:`diagonal_cross_entropy`
    :param negatives: ``(batch, batch)`` bool, see :func:`diagonal_cross_entropy`
    :return: scalar float32
    :raises ValueError: when shapes do not fit, for a batch of 1, or when the temperature is not positive
    """
    return diagonal_cross_entropy(cosine_logits(query, key, temperature), rows, negatives)

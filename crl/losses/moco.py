"""InfoNCE against a queue of earlier keys: MoCo."""

from __future__ import annotations

import torch as th

from crl.losses.checks import check_mask, check_pair, check_queue, check_temperature, common_float, row_mean, unit_rows


def queue_logits(query: th.Tensor, key: th.Tensor, queue: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """
    Cosines of unit rows; key and queue are detached.

    :param query: ``(batch, width)``
    :param key: ``(batch, width)``
    :param queue: ``(size, width)``
    :return: ``(batch,)`` of query and key, ``(batch, size)`` of query and queue
    """
    dtype = common_float(query, queue)
    with th.autocast(query.device.type, enabled=False):
        query, key, queue = unit_rows(query.to(dtype)), unit_rows(key.detach().to(dtype)), unit_rows(queue.detach().to(dtype))
        return (query * key).sum(dim=1), query @ queue.T


def moco_info_nce(
    query: th.Tensor,
    key: th.Tensor,
    queue: th.Tensor,
    temperature: float = 0.07,
    *,
    rows: th.Tensor | None = None,
    negatives: th.Tensor | None = None,
) -> th.Tensor:
    """
    Momentum contrast (He et al. 2020, arXiv:1911.05722): the positive is the row's own key, the negatives are the keys of
    earlier batches: with ``p = cos(query[i], key[i])`` and ``n_j = cos(query[i], queue[j])``, the mean over i of
    ``-log(exp(p / T) / (exp(p / T) + sum_j exp(n_j / T)))``. As in the authors' code: one-way, no in-batch negatives, no
    gradient to keys and queue. Enqueue the keys after the loss; before, each positive would be a negative too.

    :param query: ``(batch, width)``, from the online encoder; a batch of 1 is fine
    :param key: ``(batch, width)``, from the momentum encoder; detached here
    :param queue: ``(size, width)``, earlier keys; detached here. 65536 in MoCo; 1k to 8k in RL, where old keys go stale
    :param temperature: positive; 0.07 in MoCo, 0.2 in MoCo v2
    :param rows: ``(batch,)`` bool, False leaves row i out of the mean
    :param negatives: ``(batch, size)`` bool, False takes ``queue[j]`` out of row i's negatives; with none left its loss is 0
    :return: scalar float32
    :raises ValueError: when shapes do not fit, for masks that are not bool, or when the temperature is not positive
    """
    check_temperature(temperature)
    query, key = check_pair(query, key, ("query", "key"), single=None)
    check_queue(queue, query.shape[1])
    positive, negative = queue_logits(query, key, queue)
    if negatives is not None:
        check_mask(negatives, negative.shape, "negatives")
        negative = negative.masked_fill(~negatives, float("-inf"))
    logits = th.cat([positive[:, None], negative], dim=1) / temperature
    return row_mean(th.logsumexp(logits, dim=1) - logits[:, 0], rows)

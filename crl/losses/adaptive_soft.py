"""Adaptive soft contrast: neighbours in the queue become partial positives."""

from __future__ import annotations

import torch as th

from crl.losses.checks import check_mask, check_number, check_pair, check_queue, check_temperature, row_mean
from crl.losses.moco import queue_logits


def adaptive_soft_contrastive(
    query: th.Tensor,
    key: th.Tensor,
    queue: th.Tensor,
    student_temperature: float = 0.1,
    teacher_temperature: float = 0.05,
    n_neighbours: float = 1.0,
    *,
    rows: th.Tensor | None = None,
    negatives: th.Tensor | None = None,
) -> th.Tensor:
    """
    Adaptive soft contrastive learning (ASCL, Feng and Patras 2022, arXiv:2207.11163), in its MoCo form. The teacher looks for
    the key's neighbours in the queue, ``t_i = softmax_j(cos(key[i], queue[j]) / T_teacher)``, and trusts what it finds by
    ``c_i = 1 - entropy(t_i) / log(size)``. Targets are ``[1, min(1, n_neighbours c_i t_i)]``, normalised to sum to 1, without
    gradient; the loss is the mean over i of their cross-entropy with
    ``softmax([cos(query[i], key[i]), cos(query[i], queue)] / T_student)``. A flat teacher makes it :func:`moco_info_nce`.

    :param query: ``(batch, width)``, from the online encoder
    :param key: ``(batch, width)``, from the momentum encoder, in the paper of a weakly augmented view; detached here
    :param queue: ``(size, width)``, size at least 2, earlier keys; detached here. 4096 in the paper
    :param student_temperature: positive; 0.1 in the paper
    :param teacher_temperature: positive; 0.05 in the paper, sharper than the student's
    :param n_neighbours: scale of the soft targets, >= 0; 1 in the paper
    :param rows: ``(batch,)`` bool, False leaves row i out of the mean
    :param negatives: ``(batch, size)`` bool, False takes ``queue[j]`` out of row i, as a neighbour too
    :return: scalar float32
    :raises ValueError: when shapes do not fit, for masks that are not bool, or for parameters out of range
    """
    check_temperature(student_temperature, "student_temperature")
    check_temperature(teacher_temperature, "teacher_temperature")
    check_number("n_neighbours", n_neighbours, 0.0)
    query, key = check_pair(query, key, ("query", "key"), single=None)
    check_queue(queue, query.shape[1], least=2)
    positive, negative = queue_logits(query, key, queue)
    if negatives is None:
        negatives = th.ones_like(negative, dtype=th.bool)
    check_mask(negatives, negative.shape, "negatives")
    with th.no_grad():
        _, similarity = queue_logits(key, key, queue)
        target = _soft_targets(similarity / teacher_temperature, negatives, n_neighbours)
    negative = negative.masked_fill(~negatives, float("-inf"))
    logits = th.cat([positive[:, None], negative], dim=1) / student_temperature
    left_out = th.cat([th.zeros_like(negatives[:, :1]), ~negatives], dim=1)
    log_share = th.log_softmax(logits, dim=1).masked_fill(left_out, 0.0)  # -inf times a target of 0 would be nan
    return row_mean(-(target * log_share).sum(dim=1), rows)


def _soft_targets(logits: th.Tensor, mask: th.Tensor, n_neighbours: float) -> th.Tensor:
    """``(batch, 1 + size)``: the own key first."""
    count = mask.sum(dim=1, keepdim=True)
    share = th.softmax(logits.masked_fill(~mask & (count > 0), float("-inf")), dim=1).masked_fill(~mask, 0.0)
    entropy = th.special.entr(share).sum(dim=1, keepdim=True)
    # one candidate alone says nothing of how sharp the teacher sees
    trust = (1.0 - entropy / count.clamp(min=2).to(share.dtype).log()).clamp(0.0, 1.0).masked_fill(count < 2, 0.0)
    soft = (n_neighbours * trust * share).clamp(max=1.0)
    target = th.cat([th.ones_like(soft[:, :1]), soft], dim=1)
    return target / target.sum(dim=1, keepdim=True)

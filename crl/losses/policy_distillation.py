"""How far a policy over discrete actions has moved from an earlier one."""

from __future__ import annotations

import torch as th

from crl.losses.checks import check_pair


def policy_divergence(log_probs: th.Tensor, old_log_probs: th.Tensor) -> th.Tensor:
    """
    Mean over the rows of the Kullback-Leibler divergence KL(now || old), as the code of achievement distillation has it (its
    paper writes the other direction).

    :param log_probs: ``(batch, n_actions)``, normalised logarithms of the policy's probabilities, with graph
    :param old_log_probs: ``(batch, n_actions)``, those of the earlier policy
    :return: scalar float32, at least 0 up to rounding
    :raises ValueError: when shapes do not fit, or for an empty batch
    """
    log_probs, old_log_probs = check_pair(log_probs, old_log_probs, ("log_probs", "old_log_probs"), single=None)
    return (log_probs.exp() * (log_probs - old_log_probs)).sum(1).mean()

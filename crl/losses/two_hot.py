"""Scalars as classes: two-hot targets on symmetric exponential bins."""

from __future__ import annotations

import torch as th


def symexp_bins(n_bins: int = 65, limit: float = 10.0, device: th.device | str | None = None) -> th.Tensor:
    """
    ``sign(x) (exp(|x|) - 1)`` of evenly spaced x: narrow around 0 and wide far off, so that rewards of any scale are told
    apart (Hafner et al. 2023, arXiv:2301.04104).

    :param n_bins: odd, so that 0 is one of them
    :param limit: of x; 10 reaches to 22025
    :param device: of the bins
    :return: ``(n_bins,)`` float32, increasing
    :raises ValueError: for an even number, fewer than 3, or a limit that is not positive
    """
    if n_bins < 3 or n_bins % 2 == 0 or not limit > 0:
        raise ValueError(f"symexp_bins(n_bins={n_bins}, limit={limit}): an odd number of at least 3, and a positive limit")
    x = th.linspace(-limit, limit, n_bins, dtype=th.float64, device=device)
    x[n_bins // 2] = 0.0  # linspace may miss it by a rounding
    return (x.sign() * x.abs().expm1()).float()


def two_hot(values: th.Tensor, bins: th.Tensor) -> th.Tensor:
    """
    Each value shared out among its two neighbouring bins, so that the mean of the bins under the shares is the value.

    :param values: ``(...)``; beyond the outer bins they count as these
    :param bins: ``(n_bins,)``, increasing
    :return: ``(..., n_bins)``, rows sum to 1
    """
    values = values.to(bins.dtype).clamp(bins[0], bins[-1])
    upper = th.searchsorted(bins, values.contiguous()).clamp(1, len(bins) - 1)
    low, high = bins[upper - 1], bins[upper]
    share = ((values - low) / (high - low)).unsqueeze(-1)
    out = values.new_zeros(*values.shape, len(bins))
    out.scatter_(-1, (upper - 1).unsqueeze(-1), 1.0 - share)
    return out.scatter_(-1, upper.unsqueeze(-1), share)


def two_hot_cross_entropy(logits: th.Tensor, values: th.Tensor, bins: th.Tensor) -> th.Tensor:
    """
    Cross-entropy of predicted classes with :func:`two_hot` targets, one for each value.

    :param logits: ``(..., n_bins)``
    :param values: ``(...)``
    :param bins: ``(n_bins,)``
    :return: ``(...)`` float32, or float64 where logits are
    """
    logits = logits if logits.dtype == th.float64 else logits.float()
    return -(two_hot(values, bins) * logits.log_softmax(dim=-1)).sum(dim=-1)

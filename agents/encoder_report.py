"""What the log says now and then of an agent's encoder and networks."""

from __future__ import annotations

from collections.abc import Sequence

import torch as th
from torch import nn

from crl.metrics import dormant_fraction, effective_rank, embedding_std, grad_cosine, grad_norm


def encoder_gradients(loss: th.Tensor, parameters: Sequence[nn.Parameter]) -> list[th.Tensor]:
    """
    Gradients of one loss alone, the graph kept for the update itself; zeros where the loss does not reach.

    :param loss: scalar
    :param parameters: of the encoder
    """
    if not loss.requires_grad:
        return [th.zeros_like(p) for p in parameters]
    gradients = th.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    return [th.zeros_like(p) if g is None else g for p, g in zip(parameters, gradients, strict=True)]


def gradient_report(rl: Sequence[th.Tensor], objective: Sequence[th.Tensor] | None) -> dict[str, th.Tensor]:
    """
    :param rl: gradients of the agent's loss on the encoder
    :param objective: of the objective's loss, not weighted; None without objective
    :return: norms, their ratio (objective to agent), and the cosine between the two
    """
    report = {"repr/rl_grad_norm": grad_norm(rl)}
    if objective is not None:
        report["repr/objective_grad_norm"] = grad_norm(objective)
        report["repr/grad_ratio"] = report["repr/objective_grad_norm"] / report["repr/rl_grad_norm"].clamp_min(1e-12)
        report["repr/grad_cosine"] = grad_cosine(rl, objective)
    return report


@th.no_grad()
def activity_report(
    features: th.Tensor, feature_map: th.Tensor, q_network: nn.Module, q_input: th.Tensor
) -> dict[str, th.Tensor]:
    """
    :param features: ``(batch, features_dim)`` of the critic's encoder
    :param feature_map: the conv body's output, ``(batch, filters, height, width)``
    :param q_network: the first one, a ``Sequential`` of linear layers and activations
    :param q_input: what it sees, ``(batch, features_dim + action_dim)``
    :return: spread and rank of the embedding, share of dormant filters and dormant Q units
    """
    dormant, hidden = [], q_input
    for layer in q_network.children():
        hidden = layer(hidden)
        if not isinstance(layer, nn.Linear):
            dormant.append(dormant_fraction(hidden))
    report = {
        "repr/embedding_std": embedding_std(features),
        "repr/effective_rank": effective_rank(features),
        "repr/dormant_filters": dormant_fraction(feature_map),
    }
    if dormant:
        report["train/dormant_q_units"] = th.stack(dormant).mean()
    return report

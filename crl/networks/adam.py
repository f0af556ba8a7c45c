"""Torch's fused Adam, made safe for gradients in another memory layout than their parameters."""

from __future__ import annotations

from typing import Any

import torch as th


class FusedAdam(th.optim.Adam):
    """
    ``torch.optim.Adam(fused=True)``: one pass over the memory (measured on 2 cores, 5.3 million parameters: 1.2 ms instead of
    4.3). The CPU kernel walks through parameter, gradient and moments as they lie in memory, and would combine wrong elements
    where a gradient is channels-last and its parameter is not: what does not agree is brought into the parameter's layout.

    :param params: see ``torch.optim.Adam``
    :param kwargs: see there
    """

    def __init__(self, params: Any, **kwargs: Any) -> None:
        super().__init__(params, **{**kwargs, "fused": True})

    def _init_group(self, group: dict[str, Any], *lists: Any) -> Any:
        # called within step(), after its hooks, which may have touched gradients; step() itself must not be overridden, as
        # torch would run hooks once for each class that has one
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            if parameter.grad.stride() != parameter.stride():
                parameter.grad = th.empty_like(parameter).copy_(parameter.grad)
            state = self.state.get(parameter, {})
            for name, value in state.items():
                if value.shape == parameter.shape and value.stride() != parameter.stride():
                    state[name] = th.empty_like(parameter).copy_(value)
        return super()._init_group(group, *lists)


def faster(optimizer_class: type[Any], kwargs: dict[str, Any]) -> type[Any]:
    """
    :param optimizer_class: that was asked for
    :param kwargs: its arguments
    :return: :class:`FusedAdam` for torch's own Adam, unless arguments say how it is to be computed; else the class itself
    """
    told = {"fused", "foreach", "capturable", "differentiable"} & kwargs.keys()
    return FusedAdam if optimizer_class is th.optim.Adam and not told else optimizer_class

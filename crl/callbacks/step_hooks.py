"""Optimiser hooks that do not outlive the ``learn()`` they were made for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from torch.utils.hooks import RemovableHandle

# SB3 skips `_on_training_end` when an exception flies (or the user presses Ctrl-C), so a callback cannot be relied on to
# remove its hooks. Each hook is noted here with the `learn()` it belongs to; it does nothing in a later one (which may come
# without any callback), and the next attachment removes what is older.
_registered: WeakKeyDictionary[th.optim.Optimizer, list[tuple[int, RemovableHandle]]] = WeakKeyDictionary()


def add_step_hooks(
    optimizer: th.optim.Optimizer, before: Callable[[], None], after: Callable[[], None], model: BaseAlgorithm
) -> None:
    """
    Call ``before`` and ``after`` around every ``optimizer.step()`` of this ``learn()``; hooks of earlier ones are removed.

    :param optimizer: the agent's
    :param before: sees the gradients, and may change them
    :param after: sees the new weights
    :param model: whose ``learn()`` it is; every ``learn()`` has its own ``start_time``
    """
    learn_id = int(model.start_time)

    def pre(optimizer: th.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if int(model.start_time) == learn_id:
            before()

    def post(optimizer: th.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if int(model.start_time) == learn_id:
            after()

    remove_hooks(optimizer, all_but=learn_id)
    handles = [optimizer.register_step_pre_hook(pre), optimizer.register_step_post_hook(post)]
    _registered.setdefault(optimizer, []).extend((learn_id, handle) for handle in handles)


def remove_hooks(optimizer: th.optim.Optimizer, all_but: int | None = None) -> None:
    """
    :param optimizer: to be freed of crl's hooks
    :param all_but: keep those of this ``learn()``
    """
    kept = []
    for learn_id, handle in _registered.get(optimizer, []):
        if learn_id == all_but:
            kept.append((learn_id, handle))
        else:
            handle.remove()
    _registered[optimizer] = kept

"""Optimiser hooks that do not outlive the ``learn()`` they were made for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch as th
from torch.utils.hooks import RemovableHandle

# SB3 skips `_on_training_end` when an exception flies (or the user presses Ctrl-C), so a callback cannot be relied on to
# remove its hooks. Each hook is noted here with the `learn()` it belongs to; the next attachment removes what is older.
_registered: WeakKeyDictionary[th.optim.Optimizer, list[tuple[int, RemovableHandle]]] = WeakKeyDictionary()


def add_step_hooks(
    optimizer: th.optim.Optimizer, before: Callable[[], None], after: Callable[[], None], learn_id: int
) -> None:
    """
    Call ``before`` and ``after`` around every ``optimizer.step()`` of this ``learn()``; hooks of earlier ones are removed.

    :param optimizer: the agent's
    :param before: sees the gradients, and may change them
    :param after: sees the new weights
    :param learn_id: same for all callbacks of one ``learn()``, different for each ``learn()``
    """

    def pre(optimizer: th.optim.Optimizer, args: Any, kwargs: Any) -> None:
        before()

    def post(optimizer: th.optim.Optimizer, args: Any, kwargs: Any) -> None:
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

"""Callbacks with a state that a resumed run needs."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class StatefulCallback(Protocol):
    """What a checkpoint saves besides the model: any callback of an agent that has these."""

    @property
    def is_attached(self) -> bool:
        """Whether ``learn`` has begun with it: there is no state before."""

    def state_dict(self) -> dict[str, Any]:
        """All that the callback's future depends on; tensors, arrays and plain values."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """
        :param state: from :meth:`state_dict`; before ``learn`` it is kept and applied when that begins
        """

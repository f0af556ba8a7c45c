"""Callbacks with a state that a resumed run needs."""

from __future__ import annotations

import pickle
from abc import abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback, EventCallback

#: of the states that are written here
FORMAT = 1
#: what pickled arrays are made of, which is data as well: reading them executes nothing of the file's
_ARRAYS: list[Any] = [
    np.ndarray,
    np.dtype,
    np.zeros(0).__reduce__()[0],
    *{type(np.dtype(name)) for name in ("bool", "uint8", "int64", "float32", "float64")},
]


def refuse_event_callback(parent: BaseCallback | None) -> None:
    """
    :param parent: of a callback that trains
    :raises ValueError: for one that calls it now and then
    """
    if isinstance(parent, EventCallback):
        raise ValueError(
            f"{type(parent).__name__} would call an objective now and then, without telling it of rollouts: pass the callback "
            "itself, or in a list; interval= sets its rhythm"
        )


def refuse_another_model(name: str, now: Iterable[th.Tensor], left: Iterable[th.Tensor]) -> None:
    """
    :param name: of the encoder
    :param now: parameters of the encoder that is to be trained on, of another object than before
    :param left: of the one that was trained, as it was left
    :raises ValueError: when the one is no copy of the other
    """
    now, left = list(now), list(left)
    if len(now) != len(left) or not all(th.equal(a, b.to(a.device)) for a, b in zip(now, left, strict=True)):
        raise ValueError(
            f"this callback trains the {name} encoder of another model, and its heads belong to that: pass a new callback and "
            "objective (a model that was saved at the end of learn and loaded goes on with the callback that it had)"
        )


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


class SavedCallback(BaseCallback):
    """
    Base of crl's callbacks that train: their state goes into files and checkpoints, and is taken up when ``learn`` begins.
    Subclasses tell what is in it, and call :meth:`_take_up` once they are attached.

    :param verbose: see SB3
    """

    def __init__(self, verbose: int = 0) -> None:
        super().__init__(verbose)
        self._pending_state: dict[str, Any] | None = None

    @property
    @abstractmethod
    def is_attached(self) -> bool:
        """Whether ``learn`` has begun with it: there is no state before."""

    @abstractmethod
    def _must_fit(self) -> dict[str, Any]:
        """What a saved state must have in common with this callback: plain values, by name."""

    @abstractmethod
    def _parts(self) -> dict[str, Any]:
        """All that the callback's future depends on; tensors, arrays and plain values."""

    @abstractmethod
    def _restore(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`_parts` returned."""

    def _take_up(self) -> None:
        """Go on from the state that was loaded before ``learn``, if there was one."""
        if self._pending_state is not None:
            state, self._pending_state = self._pending_state, None
            self._restore(state)

    def state_dict(self) -> dict[str, Any]:
        """What SB3's ``model.save`` knows nothing of: what :meth:`save` writes."""
        return {"format": FORMAT, **self._must_fit(), **self._parts()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """
        Go on from a saved state. May be called before ``learn``: it is then applied when the callback is attached.

        :param state: from :meth:`state_dict`
        :raises ValueError: when it is of another objective, or of one that is put together otherwise
        """
        mine = {"format": FORMAT, **self._must_fit()}
        theirs = {key: state.get(key) for key in mine}
        if theirs != mine:
            raise ValueError(f"the saved callback does not fit: it has {theirs}, this one is {mine}")
        if self.is_attached:
            self._restore(state)
        else:
            self._pending_state = state

    def save(self, path: str | Path) -> Path:
        """
        Save what SB3's ``model.save`` knows nothing of: heads, EMA copies, their optimisers, generators, counters.

        :param path: ``.pt`` is added when there is no suffix
        :return: the path written
        :raises RuntimeError: before the callback was attached
        """
        if not self.is_attached:
            raise RuntimeError("nothing to save: the callback is attached when model.learn(callback=...) starts")
        path = Path(path)
        path = path if path.suffix else path.with_suffix(".pt")
        path.parent.mkdir(parents=True, exist_ok=True)
        th.save(self.state_dict(), path)
        return path

    def load(self, path: str | Path) -> None:
        """
        Go on from a saved state, see :meth:`load_state_dict`.

        :param path: written by :meth:`save`, ``.pt`` may be left out; read without executing code
        :raises FileNotFoundError: when there is none
        :raises ValueError: when it was saved from another objective, mode or model
        """
        path = Path(path)
        path = path if path.suffix or path.is_file() else path.with_suffix(".pt")
        if not path.is_file():
            raise FileNotFoundError(f"no saved callback at {path}")
        try:
            with th.serialization.safe_globals(_ARRAYS):
                state = th.load(path, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
            raise ValueError(
                f"{path} is not what callback.save wrote: {(str(error) or type(error).__name__).splitlines()[0]}"
            ) from error
        if not isinstance(state, dict):
            raise ValueError(f"{path} is not what callback.save wrote: it holds {type(state).__name__}")
        self.load_state_dict(state)

"""Whole episodes of on-policy agents that share their world with others: vectors, or frames."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch as th

from crl.contract import EpisodeBatch
from crl.replay.transfer import to_device

#: of what infos tell; ``(field of EpisodeBatch, what it is of)``
PARTNER_FIELDS = ("partner_id", "partner_actions", "partner_observations")


class EpisodeStore:
    """
    The last finished episodes, of any length, and for each environment the one that is going on, across rollouts. An episode
    enters when it ends; too short ones do not. Nothing of two episodes ever lies together.

    Observations are vectors, float32 ``(n,)``, or frames, uint8 ``(channels, height, width)``: one at each step, not stacks.

    :param size: episodes that are kept
    :param n_envs: parallel environments
    :param min_steps: shorter episodes are dropped
    :param told: fields of :class:`crl.contract.EpisodeBatch` that are taken from infos; none by default
    :raises ValueError: for numbers below 1, or a field that there is not
    """

    def __init__(self, size: int, n_envs: int, min_steps: int = 1, told: Sequence[str] = ()) -> None:
        if min(size, n_envs, min_steps) < 1:
            raise ValueError(f"EpisodeStore(size={size}, n_envs={n_envs}, min_steps={min_steps}): all at least 1")
        unknown = [name for name in told if name not in PARTNER_FIELDS]
        if unknown:
            raise ValueError(f"told={list(told)}: infos may tell {', '.join(PARTNER_FIELDS)}")
        self.size = size
        self.n_envs = n_envs
        self.min_steps = min_steps
        self.told = tuple(told)
        #: arrays ``(size, longest, ...)`` by name, made at the first episode and lengthened for longer ones
        self.arrays: dict[str, np.ndarray] = {}
        #: transitions of each stored episode
        self.lengths = np.zeros(size, dtype=np.int64)
        #: episodes that ever entered
        self.n_added = 0
        self._open: list[dict[str, list[Any]] | None] = [None] * n_envs

    def __len__(self) -> int:
        return min(self.n_added, self.size)

    def begin(self, index: int, obs: np.ndarray, info: dict[str, Any] | None = None) -> None:
        """
        A new episode; one that is not over is dropped.

        :param index: of the environment
        :param obs: ``(n,)`` or ``(channels, height, width)``, of its reset
        :param info: of its reset
        """
        open_episode: dict[str, list[Any]] = {name: [] for name in ("obs", "actions", "rewards", *self.told)}
        open_episode["obs"].append(obs)
        if "partner_observations" in self.told:
            open_episode["partner_observations"].append(_told(info, "partner_observations").ravel())
        self._open[index] = open_episode

    def is_open(self, index: int) -> bool:
        """Whether an episode is going on there, as far as the store knows."""
        return self._open[index] is not None

    def last_obs(self, index: int) -> np.ndarray:
        """The newest observation of the episode that is going on there, as it was given."""
        episode = self._open[index]
        if episode is None:
            raise RuntimeError(f"environment {index} has no episode: call begin() after each reset")
        return np.asarray(episode["obs"][-1])

    def add(
        self,
        index: int,
        action: np.ndarray,
        reward: float,
        next_obs: np.ndarray,
        terminated: bool,
        truncated: bool,
        info: dict[str, Any] | None = None,
    ) -> None:
        """
        One step of the episode that is going on.

        :param index: of the environment
        :param action: ``(action_dim,)``
        :param reward: of the step
        :param next_obs: the observation that it led to, at the end the true last one
        :param terminated: the episode ended in a terminal state
        :param truncated: the episode was cut off
        :param info: of the step
        :raises RuntimeError: when no episode was begun
        :raises ValueError: when the info lacks what is to be told
        """
        episode = self._open[index]
        if episode is None:
            raise RuntimeError(f"environment {index} has no episode: call begin() after each reset")
        episode["obs"].append(next_obs)
        episode["actions"].append(action)
        episode["rewards"].append(reward)
        if "partner_id" in self.told:
            episode["partner_id"] = [_told(info, "partner_id")]
        for name in ("partner_actions", "partner_observations"):
            if name in self.told:
                episode[name].append(_told(info, name).ravel())
        if terminated or truncated:
            self._open[index] = None
            if len(episode["actions"]) >= self.min_steps:
                self._enter(episode, terminated)

    def _enter(self, episode: dict[str, list[Any]], terminated: bool) -> None:
        place = self.n_added % self.size
        steps = len(episode["actions"])
        for name, values in episode.items():
            self._array(name, np.asarray(values[0]), len(values))[place, : len(values)] = np.stack(values)
        self._array("terminated", np.zeros((), dtype=bool), 1)[place] = terminated
        self.lengths[place] = steps
        self.n_added += 1

    def _array(self, name: str, example: np.ndarray, length: int) -> np.ndarray:
        """Room for values of this shape, ``length`` of them."""
        kinds: dict[str, np.dtype[Any]] = {"f": np.dtype(np.float32), "i": np.dtype(np.int64)}
        known = self.arrays.get(name)
        if known is None or known.shape[1] < length:
            dtype = kinds.get(example.dtype.kind, example.dtype)
            longer = np.zeros((self.size, max(length, 1), *example.shape), dtype)
            if known is not None:
                longer[:, : known.shape[1]] = known
            self.arrays[name] = longer
        return self.arrays[name]

    def draw(
        self,
        batch_size: int,
        rng: np.random.Generator,
        device: th.device | str = "cpu",
        generator: th.Generator | None = None,
    ) -> EpisodeBatch:
        """
        Episodes drawn uniformly, none of them twice.

        :param batch_size: at most as many as there are
        :param rng: of the draw
        :param device: to move them to
        :param generator: for the objective, on the device
        :raises ValueError: when there are too few
        """
        if not 1 <= batch_size <= len(self):
            raise ValueError(f"batch_size={batch_size}: from 1 to the number of stored episodes, {len(self)}")
        return self.episodes(rng.choice(len(self), batch_size, replace=False), device, generator)

    def episodes(
        self, places: np.ndarray, device: th.device | str = "cpu", generator: th.Generator | None = None
    ) -> EpisodeBatch:
        """
        :param places: ``(batch,)`` of episodes, below ``len(store)``
        :param device: to move them to
        :param generator: for the objective, on the device
        """
        lengths = self.lengths[places]
        steps = int(lengths.max())
        mask = np.arange(steps) < lengths[:, None]
        last = np.arange(steps) == lengths[:, None] - 1
        # what lies behind the end is of an earlier episode in the same place: it repeats the last step instead
        within = np.minimum(np.arange(steps), lengths[:, None] - 1)
        after = np.minimum(np.arange(steps + 1), lengths[:, None])
        terminated = last & self.arrays["terminated"][places]

        def at(name: str, index: np.ndarray) -> th.Tensor:
            return to_device(self.arrays[name][places[:, None], index], th.device(device))

        batch = EpisodeBatch(
            at("obs", after),
            at("actions", within),
            at("rewards", within),
            to_device(terminated, th.device(device)),
            to_device(last & ~terminated, th.device(device)),
            to_device(mask, th.device(device)),
            generator=generator,
        )
        if "partner_id" in self.told:
            batch.partner_id = at("partner_id", np.zeros((len(places), 1), dtype=np.int64))[:, 0]
        if "partner_actions" in self.told:
            batch.partner_actions = at("partner_actions", within)
        if "partner_observations" in self.told:
            batch.partner_observations = at("partner_observations", after)
        return batch

    def state_dict(self) -> dict[str, Any]:
        """Stored episodes and those that are going on; frames are packed."""
        return {
            "told": list(self.told),
            "arrays": {name: _packed(array[: len(self)]) for name, array in self.arrays.items()},
            "lengths": self.lengths[: len(self)].copy(),
            "n_added": self.n_added,
            "open": [None if e is None else {name: list(values) for name, values in e.items()} for e in self._open],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """
        :param state: from :meth:`state_dict` of a store of the same size
        :raises ValueError: when it is of other fields or another number of environments, or larger
        """
        n = len(state["lengths"])
        if tuple(state["told"]) != self.told or len(state["open"]) != self.n_envs or n > self.size:
            raise ValueError(
                f"the saved store holds {n} episodes of {len(state['open'])} environments with {state['told'] or 'no'} fields "
                f"of infos, this one is for {self.size} of {self.n_envs} with {list(self.told) or 'none'}"
            )
        self.arrays = {}
        for name, saved in state["arrays"].items():
            array = _unpacked(saved)
            self.arrays[name] = np.zeros((self.size, *array.shape[1:]), dtype=array.dtype)
            self.arrays[name][:n] = array
        self.lengths[:n] = state["lengths"]
        self.n_added = state["n_added"]
        self._open = [None if e is None else {name: list(values) for name, values in e.items()} for e in state["open"]]


def _packed(array: np.ndarray) -> Any:
    """Frames without what repeats itself: drawn ones take a hundredth of the place, and checkpoints are written often."""
    if array.dtype != np.uint8:
        return array.copy()
    return {"shape": list(array.shape), "zlib": zlib.compress(np.ascontiguousarray(array).data, 1)}


def _unpacked(saved: Any) -> np.ndarray:
    if not isinstance(saved, dict):
        return np.asarray(saved)
    return np.frombuffer(zlib.decompress(saved["zlib"]), dtype=np.uint8).reshape(saved["shape"])


def _told(info: dict[str, Any] | None, name: str) -> np.ndarray:
    if info is None or name not in info:
        raise ValueError(
            f"the environment does not give info[{name!r}] at each reset and step, which the objective needs: lbf/<id> and "
            "mpe/<id> do"
        )
    return np.asarray(info[name])

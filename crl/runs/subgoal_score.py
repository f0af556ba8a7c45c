"""How often each sub-goal was reached in training, and Crafter's score of that."""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor

from crl.envs.subgoals import subgoal_names_of, subgoals_of
from crl.runs.folder import Table

#: the file's columns before those of the sub-goals
_COLUMNS = ("step", "env", "length", "return")


def crafter_score(success_rates: Sequence[float] | np.ndarray) -> float:
    """
    Crafter's score (Hafner 2021, arXiv:2109.06780): a geometric mean, to which a step from 0 to 1 % adds as much as one from
    10 to 21 %.

    :param success_rates: of each sub-goal, in percent
    :return: in percent
    :raises ValueError: for none, or one that is no percentage
    """
    rates = np.asarray(success_rates, dtype=np.float64)
    if rates.size == 0 or not ((rates >= 0) & (rates <= 100)).all():
        raise ValueError(f"success rates {rates.tolist()}: at least one, each from 0 to 100 percent")
    return float(np.expm1(np.log1p(rates).mean()))


class SubgoalScore(BaseCallback):
    """
    For environments that report sub-goals (:mod:`crl.envs.subgoals`): counts in which episodes of the training each was
    reached. As Crafter's protocol wants it, all episodes count from the first step on, and no other ones.

    Logs ``subgoals/<name>`` (success rate in percent), ``subgoals/score`` (:func:`crafter_score`), ``subgoals/episodes`` and
    ``subgoals/reached`` (mean number per episode), over all episodes, and ``subgoals/recent_reached``, over the last
    ``recent`` ones.

    Writes a row for each episode: the step at which it ended, its environment, length, return, and 0 or 1 for each sub-goal,
    from which rates over any part of the training can be had (:func:`success_rates`).

    :param path: of the CSV file; None: ``subgoals.csv`` in the logger's folder, or none if it has no folder
    :param recent: number of episodes that ``recent_reached`` looks back
    :raises ValueError: for less than one
    """

    def __init__(self, path: str | Path | None = None, recent: int = 100) -> None:
        super().__init__()
        if recent < 1:
            raise ValueError(f"recent={recent}: at least 1")
        self.path = None if path is None else Path(path)
        self.names: tuple[str, ...] = ()
        self.episodes = 0
        #: number of episodes in which each was reached, ``(n_subgoals,)``
        self.successes = np.zeros(0, dtype=np.int64)
        self._recent: deque[int] = deque(maxlen=recent)
        # of the episodes that are going on, a row for each environment
        self._reached = np.zeros((0, 0), dtype=bool)
        self._lengths = np.zeros(0, dtype=np.int64)
        self._returns = np.zeros(0)

    # ---- what is counted

    @property
    def success_rates(self) -> np.ndarray:
        """Of each sub-goal over all episodes that ended, in percent, ``(n_subgoals,)``; zeros before the first."""
        return 100.0 * self.successes / max(1, self.episodes)

    @property
    def score(self) -> float:
        """Crafter's score so far, in percent."""
        return crafter_score(self.success_rates)

    def _on_training_start(self) -> None:
        names, n_envs = subgoal_names_of(self.training_env), self.training_env.num_envs
        if self.model.num_timesteps == 0 or not self.names:
            self.names = names
            self.episodes = 0
            self.successes = np.zeros(len(names), dtype=np.int64)
            self._recent.clear()
            self._forget_running(n_envs)
        elif names != self.names:
            raise ValueError(f"sub-goals {list(self.names)} were counted so far, this environment has {list(names)}")
        elif len(self._lengths) != n_envs:
            self._forget_running(n_envs)
        if all(self.training_env.env_is_wrapped(Monitor)):
            # an environment that cannot be restored in mid-episode has begun a new one
            for index, rewards in enumerate(self.training_env.get_attr("rewards")):
                if len(rewards) != self._lengths[index]:
                    self._forget_running_of(index)
        folder = self.logger.get_dir()
        if self.path is None and folder is not None:
            self.path = Path(folder) / "subgoals.csv"
        if self.path is not None:
            self._cut_file(self.model.num_timesteps)

    def _forget_running(self, n_envs: int) -> None:
        self._reached = np.zeros((n_envs, len(self.names)), dtype=bool)
        self._lengths = np.zeros(n_envs, dtype=np.int64)
        self._returns = np.zeros(n_envs)

    def _forget_running_of(self, index: int) -> None:
        self._reached[index], self._lengths[index], self._returns[index] = False, 0, 0.0

    def _on_step(self) -> bool:
        self._reached |= subgoals_of(self.locals["infos"], len(self.names))
        self._lengths += 1
        self._returns += np.asarray(self.locals["rewards"])
        for index in np.flatnonzero(self.locals["dones"]):
            self._end_episode(int(index))
        return True

    def _end_episode(self, index: int) -> None:
        reached = self._reached[index]
        self.episodes += 1
        self.successes += reached
        self._recent.append(int(reached.sum()))
        if self.path is not None:
            row = [self.num_timesteps, index, self._lengths[index], float(self._returns[index]), *reached.astype(int)]
            with self.path.open("a", newline="") as file:
                csv.writer(file).writerow(row)
        self._forget_running_of(index)

    def _on_rollout_end(self) -> None:
        if not self.episodes:
            return
        for name, rate in zip(self.names, self.success_rates, strict=True):
            self.logger.record(f"subgoals/{name}", float(rate))
        self.logger.record("subgoals/score", self.score)
        self.logger.record("subgoals/episodes", self.episodes)
        self.logger.record("subgoals/reached", float(self.successes.sum() / self.episodes))
        self.logger.record("subgoals/recent_reached", float(np.mean(self._recent)))

    # ---- resuming

    @property
    def is_attached(self) -> bool:
        """Whether ``learn`` has begun with it."""
        return bool(self.names)

    def state_dict(self) -> dict[str, Any]:
        """Everything that later rows depend on."""
        return {
            "names": list(self.names),
            "episodes": self.episodes,
            "successes": self.successes.copy(),
            "recent": list(self._recent),
            "reached": self._reached.copy(),
            "lengths": self._lengths.copy(),
            "returns": self._returns.copy(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """
        Go on counting, before ``learn`` is called with the model of the same moment.

        :param state: from :meth:`state_dict`
        """
        self.names, self.episodes = tuple(state["names"]), state["episodes"]
        self.successes = state["successes"].copy()
        self._recent.clear()
        self._recent.extend(state["recent"])
        self._reached, self._lengths = state["reached"].copy(), state["lengths"].copy()
        self._returns = state["returns"].copy()

    def _cut_file(self, step: int) -> None:
        """Take out what a run that goes on at this step will write anew."""
        assert self.path is not None
        self.path.parent.mkdir(parents=True, exist_ok=True)
        Table(self.path).cut("step", step if step else -1)
        if not Table(self.path).rows():
            with self.path.open("w", newline="") as file:
                csv.writer(file).writerow([*_COLUMNS, *self.names])


def success_rates(path: str | Path, after: int = 0) -> dict[str, float]:
    """
    :param path: of a file that :class:`SubgoalScore` wrote
    :param after: agent step; episodes that ended later count
    :return: success rate of each sub-goal, in percent
    :raises ValueError: when no episode ended after it
    """
    rows = [row for row in Table(Path(path)).rows() if int(row["step"]) > after]
    if not rows:
        raise ValueError(f"{path}: no episode ended after step {after}")
    names = [name for name in rows[0] if name not in _COLUMNS]
    return {name: 100.0 * sum(int(row[name]) for row in rows) / len(rows) for name in names}

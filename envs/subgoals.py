"""
How an environment says which of its sub-goals (achievements) were reached, and how others read it.

An environment with sub-goals

- has ``subgoal_names``, a tuple of strings, found by ``env.unwrapped.subgoal_names`` and
  ``vec_env.get_attr("subgoal_names")``;
- puts ``info["subgoals"]`` into every step's info: booleans ``(n_subgoals,)`` in the order of the names, True for those that
  were unlocked *in this very step and for the first time in this episode*.

The info of an episode's last step is still of that step. What was unlocked before in the episode is the reader's to remember,
and to forget when the episode is over. A reset unlocks nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

#: entry of every step's info
KEY = "subgoals"


@runtime_checkable
class HasSubgoals(Protocol):
    """An environment that reports sub-goals; see the module's text for what goes into its infos."""

    @property
    def subgoal_names(self) -> tuple[str, ...]:
        """In the order of ``info["subgoals"]``."""
        ...


def subgoals_of(infos: Sequence[Mapping[str, Any]], n_subgoals: int) -> np.ndarray:
    """
    :param infos: of one step, one for each parallel environment
    :param n_subgoals: number of sub-goals
    :return: ``(n_envs, n_subgoals)`` bool: which were unlocked in this step, for the first time in their episode
    :raises KeyError: when an environment reports none
    :raises ValueError: when a report is no vector of ``n_subgoals`` booleans
    """
    unlocked = np.zeros((len(infos), n_subgoals), dtype=bool)
    for index, info in enumerate(infos):
        if KEY not in info:
            raise KeyError(
                f"environment {index} puts no {KEY!r} into its infos: choose crafter/reward or toy/chain, or report them as "
                "crl.envs.subgoals says"
            )
        report = np.asarray(info[KEY])
        if report.shape != (n_subgoals,) or report.dtype != np.bool_:
            raise ValueError(
                f"environment {index}: info[{KEY!r}] is {report.dtype} of shape {report.shape}, it has to be bool of shape "
                f"({n_subgoals},)"
            )
        unlocked[index] = report
    return unlocked


def reports_subgoals(vec_env: Any) -> bool:
    """
    :param vec_env: SB3's VecEnv
    :return: whether all of its environments name sub-goals
    """
    # asked first: in processes of their own, environments would die of a name that they lack
    return bool(vec_env.has_attr("subgoal_names"))


def subgoal_names_of(vec_env: Any) -> tuple[str, ...]:
    """
    :param vec_env: SB3's VecEnv
    :return: names of its sub-goals
    :raises ValueError: when it has none, or its parallel environments differ in them
    """
    if not reports_subgoals(vec_env):
        raise ValueError(
            "the environment reports no sub-goals (it has no 'subgoal_names'): choose crafter/reward or toy/chain, or report "
            "them as crl.envs.subgoals says"
        )
    found = {tuple(names) for names in vec_env.get_attr("subgoal_names")}
    if len(found) != 1:
        raise ValueError(f"the parallel environments have different sub-goals: {sorted(found)}")
    names = found.pop()
    if not names:
        raise ValueError("the environment's 'subgoal_names' is empty: it has to name at least one")
    return names

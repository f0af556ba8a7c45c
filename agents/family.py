"""What the agents of one algorithm have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Family:
    """
    A kind of agents: which fields they have, and what makes an agent of them. Agents themselves are entries in
    :data:`crl.agents.recipes.RECIPES`. Nothing here needs torch.

    :param config: dataclass of groups of fields, with published values as defaults; has ``agent``, ``env`` and ``train``
    :param columns: field: (paper, cpu), where the published agent and the one for a few CPU cores differ
    :param env_defaults: environment id to the fields that it changes; raises ConfigError for one that the algorithm cannot
        learn on
    :param check: raises FieldValueError for fields that are right one by one and wrong together
    :param option_defaults: options of the environment (``env.kwargs``) to the fields that they change
    :param update: number of the update's form: to be raised whenever the same configuration comes to learn something else,
        beyond rounding. Runs keep it, and those of another number are stale
    :param builder: ``module:function``, imported when an agent is built; called with config, env, seed, device,
        tensorboard_log and verbose, returns the agent and its callbacks
    """

    config: type[Any]
    columns: dict[str, tuple[Any, Any]]
    env_defaults: Callable[[str], dict[str, Any]]
    check: Callable[[Any], None]
    builder: str
    option_defaults: Callable[[Mapping[str, Any]], dict[str, Any]] = lambda options: {}
    update: int = 1


def update_of(told: Mapping[str, Any]) -> int:
    """
    :param told: the part ``run`` of a run's configuration, or a row of ``measured.csv``
    :return: number of the form of its update; what is from before it was kept is of the first
    """
    return int(told.get("update") or 1)

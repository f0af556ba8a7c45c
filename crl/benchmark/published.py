"""Numbers that others have published, with their sources, and how their protocol differs from that of our runs."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from fnmatch import fnmatchcase
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from crl.runs.lengths import action_repeat, final_episodes

DATA = Path(__file__).parent / "data"


class Published(NamedTuple):
    """
    :param method: as its authors call it
    :param env_steps: at which it was evaluated; None for players and random actions
    :param mean: over seeds
    :param std: over seeds; None where it was not given. It is no interval of the mean, and is never drawn as one
    :param seeds: None where their number was not given
    :param source: where the number stands
    """

    method: str
    env_steps: int | None
    mean: float
    std: float | None
    seeds: int | None
    source: str


@cache
def _rows(benchmark: str) -> list[dict[str, str]]:
    path = DATA / f"{benchmark}_published.csv"
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@cache
def _protocols() -> list[dict[str, str]]:
    with (DATA / "protocols.csv").open(newline="") as file:
        return list(csv.DictReader(file))


_TABLES = {"dmc": "dmc", "atari": "atari100k", "crafter": "crafter"}


def published(env_id: str, env_steps: int, metric: str = "return") -> list[Published]:
    """
    :param env_id: environment
    :param env_steps: of our runs; only numbers at the same length are given
    :param metric: ``"return"``; ``"score"``: Crafter's
    :return: in the order of the tables they come from; empty where nothing is known
    """
    table = _TABLES.get(env_id.partition("/")[0])
    if table is None:
        return []
    return [
        Published(
            row["method"],
            int(row["env_steps"]) if row["env_steps"] else None,
            float(row["mean"]),
            float(row["std"]) if row["std"] else None,
            int(row["n_seeds"]) if row["n_seeds"] else None,
            row["source"],
        )
        for row in _rows(table)
        if row["env"] == env_id
        and row.get("metric", "return") == metric
        and (not row["env_steps"] or int(row["env_steps"]) == env_steps)
    ]


def published_lengths(env_id: str) -> list[int]:
    """Environment steps at which there are numbers."""
    table = _TABLES.get(env_id.partition("/")[0])
    rows = _rows(table) if table is not None else []
    return sorted({int(row["env_steps"]) for row in rows if row["env"] == env_id and int(row["env_steps"] or 0)})


def protocol_differences(method: str, config: Mapping[str, Any]) -> list[str]:
    """
    In what a published number and a run of ours are not measured alike, as far as that is known.

    :param method: name in the table
    :param config: of a run of ours
    :return: one entry a difference, ``what: theirs, ours``; then what else is to be known
    """
    env_id = config["env"]["id"]
    known = next((row for row in _protocols() if row["method"] == method and fnmatchcase(env_id, row["env"])), None)
    if known is None:
        return ["protocol not known"]
    repeat = _planet_repeat(env_id) if known["action_repeat"] == "planet" else known["action_repeat"]
    algorithm = config.get("algorithm", {})
    ours = {
        "action repeat": (repeat, config.get("run", {}).get("action_repeat") or action_repeat(config)),
        "batch": (known["batch_size"], algorithm.get("batch_size")),
        "agent steps per update": (known["agent_steps_per_update"], _agent_steps_per_update(config)),
        "evaluation episodes": (known["eval_episodes"], final_episodes(config)),
    }
    differ = [
        f"{name} {theirs}, ours {mine}"
        for name, (theirs, mine) in ours.items()
        if theirs not in ("", None) and mine is not None and Fraction(theirs) != Fraction(mine)
    ]
    return differ + ([known["note"]] if known["note"] else [])


def _planet_repeat(env_id: str) -> int:
    """Of the benchmark that PlaNet began."""
    from crl.envs.dmc import default_action_repeat, split_id

    return default_action_repeat(split_id(env_id)[0])


def _agent_steps_per_update(config: Mapping[str, Any]) -> Fraction | None:
    algorithm = config.get("algorithm", {})
    every, updates = algorithm.get("train_freq"), algorithm.get("gradient_steps")
    if not isinstance(every, int) or not isinstance(updates, int) or updates == 0:
        return None
    return Fraction(1) if updates < 0 else Fraction(every, updates)

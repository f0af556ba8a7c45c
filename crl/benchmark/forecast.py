"""What a grid will take, before it is started: hours, memory, disk."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from crl.agents.recipes import resolve
from crl.benchmark.grid import Cell
from crl.runs.lengths import action_repeat, agent_steps, image_channels, image_size

MEASURED = Path(__file__).parent / "data" / "measured.csv"
#: of a process with torch, MuJoCo and a network of the usual size, the allocator keeping its peak: what speed.py shows
PROCESS_BYTES = 1.3e9


class Forecast(NamedTuple):
    """
    :param hours: of one run at one thread, from rows of ``measured.csv``: of the same agent on the same environment, else of
        others on it, else of the same agent on others of its kind (``atari/``), as many hours for each of the agent's steps;
        None where nothing like it was measured
    :param memory: bytes of one run: of a process and its replay buffer, or what was measured on this kind of environment,
        whichever is more
    :param disk: bytes of one run's checkpoints: its frames, once, and a few copies of its weights
    :param measured_on: agent and environment that the hours are of, where it is not this agent on this environment
    """

    hours: float | None
    memory: float
    disk: float
    measured_on: str = ""


def forecast(cell: Cell, measured: Path = MEASURED) -> Forecast:
    """
    :param cell: of a grid
    :param measured: table of finished runs
    """
    config = resolve(cell.agent, cell.task.env, cell.overrides)
    frames = replay_bytes(config)
    rows = list(csv.DictReader(measured.open())) if measured.exists() else []
    hours, measured_on = _hours(config, rows)
    peaks = [1e9 * float(row.get("memory_gb") or 0) for row in _same_agent(config, rows)]
    memory = max([PROCESS_BYTES + frames, *peaks])
    return Forecast(hours, memory, frames + 2e8, measured_on)


def replay_bytes(config: Mapping[str, Any]) -> float:
    """
    Of the transitions that a run will have stored: each frame once, and some more for the ends of episodes. 0 for agents
    without such a buffer, and for one that is somebody's function, of whose memory nothing is known.
    """
    if "buffer_size" not in config.get("algorithm", {}):
        return 0.0
    stored = min(config["algorithm"]["buffer_size"], config["train"]["env_steps"] / action_repeat(config))
    size = image_size(config)
    return float(stored) * (image_channels(config) * size * size * 1.02 + 100)


def _same_agent(config: Mapping[str, Any], rows: Sequence[Mapping[str, str]]) -> list[Mapping[str, str]]:
    """On environments of the same kind."""
    kind = config["env"]["id"].partition("/")[0] + "/"
    return [row for row in rows if row["agent"] == config["agent"] and row["env"].startswith(kind)]


def _hours(config: Mapping[str, Any], rows: Sequence[Mapping[str, str]]) -> tuple[float | None, str]:
    agent, env_id = config["agent"], config["env"]["id"]
    same_env, same_agent = [row for row in rows if row["env"] == env_id], _same_agent(config, rows)
    best = [row for row in same_env if row in same_agent] or same_env or same_agent
    if not best:
        return None, ""
    ordered = sorted((_hours_a_step(row), row["agent"], row["env"]) for row in best)
    rate, *found = ordered[len(ordered) // 2]
    return rate * agent_steps(config), "" if found == [agent, env_id] else " on ".join(found)


def _hours_a_step(row: Mapping[str, str]) -> float:
    """Of the agent: it acts and learns once in so many steps of the environment."""
    own = json.loads(row.get("set") or "{}").get("env.kwargs.action_repeat")
    repeat = action_repeat({"env": {"id": row["env"], "kwargs": {} if own is None else {"action_repeat": own}}})
    return float(row["hours"]) / (float(row["env_steps"]) / repeat)


def hours_of_all(hours: Sequence[float], workers: int) -> float:
    """
    :param hours: of each run, in the order of starting
    :param workers: runs at a time
    :return: until the last one is finished, a run being started as soon as another one ends
    """
    busy_until = [0.0] * min(workers, len(hours))
    for one in hours:
        busy_until[busy_until.index(min(busy_until))] += one
    return max(busy_until, default=0.0)


def largest_memory(cells: Sequence[Cell]) -> float:
    """
    :param cells: of a grid
    :return: bytes of the run that takes most
    """
    # cells that differ in their seeds need as much
    kinds = {(cell.label, cell.task.label): cell for cell in cells}
    return max(forecast(cell).memory for cell in kinds.values())


def workers_that_fit(cells: Sequence[Cell], cores: int, threads: int, free_memory: float) -> int:
    """
    :param cells: of the grid
    :param cores: of the machine
    :param threads: of each run
    :param free_memory: bytes
    :return: runs at a time, at least 1
    """
    return max(1, min(cores // threads, int(0.9 * free_memory // largest_memory(cells))))

"""What was meant to be run in a benchmark's folder, so that a report knows what is missing: ``plan.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from crl.benchmark.grid import Cell
from crl.benchmark.suite import Suite
from crl.runs.folder import write_atomically

_FILE = "plan.json"


class PlanError(ValueError):
    """A plan that cannot be read; the message says what to do."""


class Planned(NamedTuple):
    """
    :param label: of the agent
    :param task: label of the task
    :param seed: of the run
    :param overrides: fields by dotted path
    """

    label: str
    task: str
    seed: int
    overrides: Mapping[str, Any]


class Plan(NamedTuple):
    """
    :param suite: name
    :param text: what the suite is
    :param bounds: returns of each task that count as 0 and as 1
    :param runs: by folder, relative to the benchmark's
    """

    suite: str
    text: str
    bounds: Mapping[str, tuple[float, float]]
    runs: Mapping[str, Planned]


def write_plan(out: Path, suite: Suite, cells: Sequence[Cell]) -> None:
    """
    Cells that an earlier command planned in the same folder stay in the plan.

    :param out: the benchmark's folder
    :param suite: of the cells
    :param cells: to be run
    :raises PlanError: when the plan that is there belongs to another suite, or cannot be read
    """
    old = read_plan(out)
    if old is not None and old.suite != suite.name:
        raise PlanError(f"{out} holds runs of the suite {old.suite}, not of {suite.name}: choose another --out")
    runs = {name: planned._asdict() for name, planned in (old.runs if old else {}).items()}
    for cell in cells:
        overrides = {path: list(value) if isinstance(value, tuple) else value for path, value in cell.overrides.items()}
        runs[cell.name] = Planned(cell.label, cell.task.label, cell.seed, overrides)._asdict()
    plan = {
        "suite": suite.name,
        "text": suite.text,
        "bounds": {task.label: (task.low, task.high) for task in suite.tasks},
        "runs": runs,
    }
    write_atomically(out / _FILE, (json.dumps(plan, indent=1) + "\n").encode())


def read_plan(out: Path) -> Plan | None:
    """
    :param out: folder
    :return: None where there is none
    :raises PlanError: for a file that is none
    """
    path = out / _FILE
    try:
        data = json.loads(path.read_text())
        bounds = {task: (float(low), float(high)) for task, (low, high) in data["bounds"].items()}
        runs = {name: Planned(**run) for name, run in data["runs"].items()}
        return Plan(str(data["suite"]), str(data["text"]), bounds, runs)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise PlanError(f"{path} cannot be read ({error}): move it away; what is missing is then guessed") from error

"""Benchmark suites: which tasks, how long, evaluated how. Data in YAML files; a user's own is one more file."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

_FOLDER = Path(__file__).parent / "suites"


class SuiteError(ValueError):
    """A suite that does not exist or cannot be used; the message says what would do."""


@dataclass(frozen=True)
class Task:
    """
    :param env: environment id
    :param low: return that counts as 0 when scores are normalised (a random agent's, or the lowest possible)
    :param high: return that counts as 1
    :param label: name in tables and folders; the id unless one environment occurs twice
    :param fields: of the recipe, by dotted path, on this task alone
    """

    env: str
    low: float
    high: float
    label: str
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Suite:
    """
    :param name: of the suite
    :param text: one line
    :param env_steps: budget of each run, action repeat counted
    :param eval_every: environment steps between evaluations
    :param eval_episodes: episodes of each
    :param tasks: in the order of tables
    :param fields: of the recipe, by dotted path, on all tasks
    :param agents: recipes that the suite is made for, and the seeds of each as ``--seeds`` takes them
    """

    name: str
    text: str
    env_steps: int
    eval_every: int
    eval_episodes: int
    tasks: tuple[Task, ...]
    fields: Mapping[str, Any] = field(default_factory=dict)
    agents: Mapping[str, str] = field(default_factory=dict)

    def overrides(self, task: Task) -> dict[str, Any]:
        """Fields that the suite sets on a task, budget and evaluation included."""
        protocol = {
            "train.env_steps": self.env_steps,
            "train.eval_every": self.eval_every,
            "train.eval_episodes": self.eval_episodes,
        }
        return {**protocol, **self.fields, **task.fields}


def list_suites() -> dict[str, str]:
    """Names of crl's own suites, and what they are."""
    return {path.stem: str(yaml.safe_load(path.read_text())["text"]) for path in sorted(_FOLDER.glob("*.yaml"))}


def load_suite(name: str) -> Suite:
    """
    :param name: of one of crl's own, or the path of a YAML file with the same entries::

            text: what it is
            env_steps: 100000
            eval_every: 10000
            eval_episodes: 10
            set: {algorithm.gamma: 0.95}              # optional
            agents: {sac: 5, curl-sac: 1-3}           # optional: who is run when nobody is named, and on which seeds
            tasks:
              - {env: dmc/cartpole-swingup, low: 0, high: 1000}
              - {env: toy/reach, label: toy/reach-busy, low: 5, high: 45, set: {env.kwargs.distractors: 4}}
    :raises SuiteError: when there is none, or an entry is missing, unknown or of the wrong kind
    """
    own = list_suites()
    if name in own:
        path = _FOLDER / f"{name}.yaml"
    elif name.endswith((".yaml", ".yml")):
        path = Path(name)
    else:
        near = difflib.get_close_matches(name, own, n=3, cutoff=0.3) or own
        raise SuiteError(f"no suite {name!r}. Nearest: {', '.join(near)}; or give the path of a .yaml file")
    try:
        data = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise SuiteError(f"{path} cannot be read as a suite: {error}") from error
    return _suite(path.stem, data, str(path))


_NUMBERS = ("env_steps", "eval_every", "eval_episodes")


def _suite(name: str, data: Any, where: str) -> Suite:
    entries = _entries(data, where, needed=("text", *_NUMBERS, "tasks"), optional=("set", "agents"))
    for key in _NUMBERS:
        if not isinstance(entries[key], int) or entries[key] < 1:
            raise SuiteError(f"{where}: {key} is {entries[key]!r}, and must be a whole number of at least 1")
    if not isinstance(entries["tasks"], list) or not entries["tasks"]:
        raise SuiteError(f"{where}: tasks is a list with at least one entry such as {{env: toy/reach, low: 0, high: 50}}")
    tasks = tuple(_task(task, f"{where}, task {number + 1}") for number, task in enumerate(entries["tasks"]))
    labels = [task.label for task in tasks]
    if len(set(labels)) < len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        raise SuiteError(f"{where}: two tasks are called {twice}; give one of them another label")
    numbers = {key: entries[key] for key in _NUMBERS}
    fields, agents = _fields(entries, where), _agents(entries, where)
    return Suite(name, str(entries["text"]), **numbers, tasks=tasks, fields=fields, agents=agents)


def _task(data: Any, where: str) -> Task:
    entries = _entries(data, where, needed=("env", "low", "high"), optional=("label", "set"))
    low, high = entries["low"], entries["high"]
    if not all(isinstance(value, int | float) for value in (low, high)) or not low < high:
        raise SuiteError(f"{where}: low {low!r} and high {high!r} must be numbers, low below high")
    return Task(str(entries["env"]), low, high, str(entries.get("label", entries["env"])), _fields(entries, where))


def _agents(entries: Mapping[str, Any], where: str) -> dict[str, str]:
    agents = entries.get("agents") or {}
    if not isinstance(agents, dict) or not all(isinstance(seeds, int | str) for seeds in agents.values()):
        raise SuiteError(f"{where}: agents is a mapping of agents to their seeds, such as {{sac: 5, drq-sac: 1-3}}")
    return {str(agent): str(seeds) for agent, seeds in agents.items()}


def _fields(entries: Mapping[str, Any], where: str) -> dict[str, Any]:
    fields = entries.get("set") or {}
    if not isinstance(fields, dict):
        raise SuiteError(f"{where}: set is a mapping of fields to values, such as {{algorithm.gamma: 0.95}}")
    return {str(path): value for path, value in fields.items()}


def _entries(data: Any, where: str, needed: tuple[str, ...], optional: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise SuiteError(f"{where}: needs the entries {', '.join(needed)}")
    lacking = [key for key in needed if key not in data]
    unknown = [str(key) for key in data if key not in (*needed, *optional)]
    if lacking or unknown:
        parts = [f"lacks {', '.join(lacking)}"] * bool(lacking) + [f"has the unknown {', '.join(unknown)}"] * bool(unknown)
        raise SuiteError(f"{where} {' and '.join(parts)}; entries are {', '.join((*needed, *optional))}")
    return data

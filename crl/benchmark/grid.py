"""The cells of a benchmark: agents, their variants, tasks and seeds."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crl.agents.config import ADDED_FIELDS
from crl.agents.family import update_of
from crl.agents.fields import takes_list
from crl.agents.function_family import changed_source
from crl.agents.recipes import env_options, family_of, flatten, resolve
from crl.benchmark.suite import Suite, Task
from crl.envs.make import check_env_id
from crl.runs.lengths import agent_steps, never_learns
from crl.runs.settings import is_file, read_settings

#: seeds for choosing hyperparameters; what was chosen on them must not be reported on them
TUNING_SEEDS = range(101, 201)


class GridError(ValueError):
    """A grid that makes no sense; the message says what would."""


@dataclass(frozen=True)
class Cell:
    """
    One run.

    :param agent: recipe
    :param label: of the agent in tables and folders: the recipe, and the fields of its variant
    :param task: of the suite
    :param seed: of the run
    :param overrides: fields by dotted path
    """

    agent: str
    label: str
    task: Task
    seed: int
    overrides: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Path of its folder below that of the benchmark."""
        return f"{self.label}/{self.task.label.replace('/', '-')}/seed{self.seed}"

    def folder(self, out: Path) -> Path:
        """Of the run."""
        return out / self.name


def parse_seeds(text: str, tuning: bool = False, source: str = "--seeds") -> list[int]:
    """
    :param text: ``5`` for 1 to 5, ``2-4``, ``1,7,9``, or a mixture of the latter
    :param tuning: allow tuning seeds, and only them
    :param source: who says so, for messages
    :raises GridError: for anything else
    """
    try:
        if text.isdigit():
            seeds = list(range(1, int(text) + 1))
        else:
            parts = [part.split("-") for part in text.split(",")]
            seeds = [seed for part in parts for seed in range(int(part[0]), int(part[-1]) + 1)]
            if any(len(part) > 2 for part in parts):
                raise ValueError
    except ValueError:
        raise GridError(f"{source} {text}: 5 (for 1 to 5), 2-4, or 1,7,9") from None
    if not seeds or len(set(seeds)) < len(seeds):
        raise GridError(f"{source} {text}: {'every seed once' if seeds else 'at least one'}")
    inside = [seed for seed in seeds if seed in TUNING_SEEDS]
    if inside and not tuning:
        raise GridError(
            f"{source} {text}: {TUNING_SEEDS.start} to {TUNING_SEEDS.stop - 1} are for choosing hyperparameters and are never "
            "reported; take others, or pass --tuning"
        )
    if tuning and len(inside) < len(seeds):
        raise GridError(
            f"{source} {text}: to choose hyperparameters there are {TUNING_SEEDS.start} to {TUNING_SEEDS.stop - 1}, such as "
            "101-103, or 101-101 for one of them (101 alone means 1 to 101)"
        )
    return seeds


def parse_variants(items: Sequence[str], takes_list: Callable[[str], bool] = lambda name: False) -> list[dict[str, Any]]:
    """
    :param items: ``field=value`` for all runs, ``field=a,b`` for an ablation; where values are lists, ``field=64,64`` is one
        and ``field=64,64;128,128`` an ablation; or the path of a YAML file with values for all runs, such as ``crl tune``
        writes
    :param takes_list: whether a field's values are lists
    :return: one mapping of fields a variant; the combinations of all
    :raises GridError: for an item that is none
    """
    choices: list[list[tuple[str, Any]]] = []
    for item in items:
        if is_file(item):
            choices += [[entry] for entry in read_settings(item).items()]
            continue
        name, separator, text = item.partition("=")
        if not separator or not name or not text:
            raise GridError(f"--set {item!r}: write field=value, or field=a,b for an ablation")
        values = text.split(";") if ";" in text or takes_list(name) else text.split(",")
        if len(set(values)) < len(values) or not all(values):
            told = " (values that are lists are separated by ;)" if takes_list(name) else ""
            raise GridError(f"--set {item!r}: every value once, and none empty{told}")
        choices.append([(name, value) for value in values])
    names = [choice[0][0] for choice in choices]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise GridError(f"--set: {twice} is given twice; give it once, with a,b for an ablation")
    return [dict(combination) for combination in itertools.product(*choices)]


def choose_agents(suite: Suite, agents: Sequence[str], seeds: Sequence[int] | None) -> dict[str, list[int]]:
    """
    :param suite: may name agents and their seeds
    :param agents: recipes; none takes the suite's
    :param seeds: of all of them; None takes the suite's for the agents that it names, 1 to 5 for others
    :return: seeds of each agent
    :raises GridError: when no agent is named
    """
    if not agents and not suite.agents:
        raise GridError(f"--agents: name at least one, such as rad-sac,curl-sac; the suite {suite.name} names none")
    if len(set(agents)) < len(agents):
        raise GridError(f"--agents {','.join(agents)}: every agent once")
    wanted = {agent: text for agent, text in suite.agents.items() if seeds is None and (agent in agents or not agents)}
    own = {agent: parse_seeds(text, source=f"suite {suite.name}, agents, {agent}:") for agent, text in wanted.items()}
    usual = list(range(1, 6))
    return {agent: list(seeds) if seeds is not None else own.get(agent, usual) for agent in agents or suite.agents}


def make_grid(
    suite: Suite, agents: Sequence[str] | Mapping[str, Sequence[int]], seeds: Sequence[int] = (), items: Sequence[str] = ()
) -> list[Cell]:
    """
    Every configuration is resolved, so that a wrong field is found before the first run and not during the last.

    :param suite: tasks and protocol
    :param agents: recipes; or the seeds of each, see :func:`choose_agents`
    :param seeds: of the runs, where ``agents`` does not say
    :param items: see :func:`parse_variants`
    :return: cells, seed by seed: a grid that is cut short has whole seeds
    :raises ValueError: for unknown agents, fields and values
    """
    if not agents or len(set(agents)) < len(agents):
        raise GridError(f"--agents {','.join(agents)}: {'every agent once' if agents else 'at least one'}")
    by_agent = agents if isinstance(agents, Mapping) else dict.fromkeys(agents, seeds)
    agents, seeds = list(by_agent), sorted({seed for of_agent in by_agent.values() for seed in of_agent})
    for task in suite.tasks:
        try:
            check_env_id(task.env, env_options(suite.overrides(task)))
        except ValueError as error:
            raise _in_suite(suite, task, error) from error
    variants = parse_variants(items, lambda name: any(takes_list(family_of(agent).config, name) for agent in agents))
    varied = {name for name in variants[0] if len({variant[name] for variant in variants}) > 1}
    names = {agent: agent.rpartition(":")[2] for agent in agents}
    if len(set(names.values())) < len(agents):
        raise GridError(f"--agents {','.join(agents)}: two functions of the same name; give one of them another")
    cells = []
    effective: dict[tuple[str, str], list[tuple[str, dict[str, Any]]]] = {}
    for seed, task, agent, variant in itertools.product(seeds, suite.tasks, agents, variants):
        if seed not in by_agent[agent]:
            continue
        told = ",".join(f"{name}={value}" for name, value in variant.items() if name in varied)
        overrides = {**suite.overrides(task), **variant}
        try:
            config = resolve(agent, task.env, overrides)
        except ValueError as error:
            if _resolves(agent, task.env) and not _resolves(agent, task.env, suite.overrides(task)):
                raise _in_suite(suite, task, error) from error
            raise
        if seed == seeds[0]:
            check_env_id(task.env, config["env"]["kwargs"])
            wasted = never_learns(config, agent_steps(config), "--set train.env_steps=..., or the suite's env_steps")
            if wasted:
                raise GridError(wasted)
            effective.setdefault((agent, task.label), []).append((told, _effective(config)))
        cells.append(Cell(agent, f"{names[agent]}+{told}" if told else names[agent], task, seed, overrides))
    for (agent, _), arms in effective.items():
        same = [told for told, config in arms if sum(config == other for _, other in arms) > 1]
        if same:
            raise GridError(
                f"{agent}: {' and '.join(same)} are one and the same run (fields of an objective say nothing where "
                "objective.weight=0). Give each value once, or leave the agent out of this ablation and run it by itself"
            )
    return cells


def _in_suite(suite: Suite, task: Task, error: ValueError) -> GridError:
    """What is wrong whatever the command line says, told with the place where it stands."""
    return GridError(f"suite {suite.name}, task {task.label}: {error}")


def _resolves(agent: str, env_id: str, overrides: Mapping[str, Any] | None = None) -> bool:
    try:
        resolve(agent, env_id, overrides)
    except ValueError:
        return False
    return True


def _effective(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a run is made of: the fields of an objective that has no weight are not among it."""
    flat = flatten(config)
    if flat.get("objective.weight") != 0:
        return flat
    return {path: value for path, value in flat.items() if not path.startswith("objective.")}


def same_run(cell: Cell, config: Mapping[str, Any]) -> list[str]:
    """
    :param cell: of the grid
    :param config: of the run that lies in its folder
    :return: fields in which the two differ, as ``field: there, here``
    """
    wanted = flatten(resolve(cell.agent, cell.task.env, cell.overrides))
    added = {path: value for path, value in ADDED_FIELDS.items() if path in wanted}
    there = {**added, **flatten({key: value for key, value in config.items() if key != "run"})}
    differ = [
        f"{path}: {there.get(path)} there, {wanted.get(path)} here"
        for path in sorted(wanted.keys() | there.keys())
        if there.get(path) != wanted.get(path) and path != "train.threads"
    ]
    about, update = config.get("run", {}), family_of(cell.agent).update
    there = {"seed": about.get("seed"), "update": update_of(about)}
    here = {"seed": cell.seed, "update": update}
    changed = changed_source(cell.agent, about)
    differ += [changed] if changed else []
    return differ + [f"{name}: {there[name]} there, {here[name]} here" for name in here if there[name] != here[name]]

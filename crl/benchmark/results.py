"""Reading what runs have left in their folders: state, learning curve, final return, and under what they came about."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from crl.agents.config import ADDED_FIELDS
from crl.agents.family import update_of
from crl.agents.function_family import changed_source
from crl.agents.recipes import family_of, flatten, resolve
from crl.benchmark.plan import Plan, Planned, read_plan
from crl.benchmark.subgoals import SubgoalRates, read_rates
from crl.runs.folder import RunFolder, RunFolderError, Table

#: what a probe's report has one of; the latter of agents that model others
_PROBED = ("representations", "identification")
#: folders deeper than these are not looked into
_DEPTH = 6
#: fields that say how long and on what, not which agent: they are taken as they are when a recipe is looked up again
_PROTOCOL = (
    *("train.env_steps", "train.eval_every", "train.eval_episodes", "train.threads"),
    *(path for path in ADDED_FIELDS if path.startswith("train.")),
)


class ResultsError(ValueError):
    """Folders without results; the message says what to do."""


class LearningCurve(NamedTuple):
    """
    One entry an evaluation.

    :param env_steps: action repeat counted, ``(evaluations,)``
    :param mean: return over the evaluation's episodes
    :param std: over the same
    :param seconds: of training until then, pauses not counted
    """

    env_steps: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    seconds: np.ndarray


@dataclass(frozen=True)
class Run:
    """
    One run.

    :param path: of its folder
    :param agent: recipe
    :param label: of the agent in tables: the recipe, and what its variant changes
    :param env: environment id
    :param task: label of the task; the id unless one environment occurs twice
    :param seed: of the run
    :param state: ``"finished"``, ``"running"`` or ``"failed"``. A run that was stopped or killed says that it is running
    :param error: why it failed
    :param budget: environment steps that it is to have in the end
    :param curve: its evaluations
    :param config: resolved, with the part ``run``
    :param summary: what ``summary.json`` says
    :param differences: fields in which it differs from the current recipe, ``field: run's (recipe's)``; None where the
        agent is no recipe
    :param probe: the newest ``probe.json``, if there is one
    :param subgoals: success rates of training episodes, where the environment reports sub-goals
    :param videos: files
    :param apart: its label was made longer, since other runs of that label are configured otherwise
    """

    path: Path
    agent: str
    label: str
    env: str
    task: str
    seed: int
    state: str
    error: str
    budget: int
    curve: LearningCurve
    config: Mapping[str, Any]
    summary: Mapping[str, Any]
    differences: list[str] | None = None
    probe: Mapping[str, Any] | None = None
    subgoals: SubgoalRates | None = None
    videos: list[Path] = field(default_factory=list)
    apart: bool = False

    @property
    def counts(self) -> bool:
        """Whether it enters statistics: finished, or failed for good, at its last evaluation. Running ones do not yet."""
        return self.state in ("finished", "failed") and len(self.curve.mean) > 0

    @property
    def last_return(self) -> float | None:
        """Mean return of the last evaluation, whichever was the best."""
        return float(self.curve.mean[-1]) if len(self.curve.mean) else None

    @property
    def last_steps(self) -> int:
        """Environment steps of the last evaluation."""
        return int(self.curve.env_steps[-1]) if len(self.curve.env_steps) else 0

    @property
    def stale(self) -> bool:
        """Whether the current recipe would not make this run."""
        return bool(self.differences)

    @property
    def about(self) -> Mapping[str, Any]:
        """Seed, versions, machine, revision."""
        run: Mapping[str, Any] = self.config["run"]
        return run

    def probed_for(self, part: str) -> Mapping[str, Any] | None:
        """Its probe, if that has this part: ``"representations"``, or of agents that model others ``"identification"``."""
        return self.probe if self.probe and part in self.probe else None

    @property
    def config_hash(self) -> str:
        """See :func:`config_hash`."""
        return config_hash(self.config)


def config_hash(config: Mapping[str, Any]) -> str:
    """
    Twelve hexadecimal digits of a resolved configuration; its part ``run`` is left out, and so are fields that were added
    later (:data:`crl.agents.config.ADDED_FIELDS`) as long as they change nothing.
    """
    recipe: dict[str, Any] = {key: value for key, value in config.items() if key != "run"}
    for path, before in ADDED_FIELDS.items():
        group, _, name = path.partition(".")
        if name in recipe.get(group, {}) and recipe[group][name] == before:
            recipe[group] = {key: value for key, value in recipe[group].items() if key != name}
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:12]


def read_runs(folders: Sequence[Path]) -> tuple[list[Run], list[str]]:
    """
    :param folders: of runs, or with runs below them
    :return: the runs, and a sentence for each folder that looks like a run's and could not be read
    :raises ResultsError: when a folder is not there, or holds no run
    :raises crl.benchmark.plan.PlanError: for a plan that cannot be read
    """
    runs: dict[Path, Run] = {}
    words: list[str] = []
    for folder in folders:
        if not folder.is_dir():
            raise ResultsError(f"no folder {folder}: give folders of runs, such as crl bench writes")
        plans = plans_for(folder)
        paths = find_runs(folder)
        for path in paths:
            if path.resolve() in runs:
                continue
            try:
                runs[path.resolve()] = _read(path, planned_in(plans, path))
            except RunFolderError as error:
                words.append(str(error))
        if not paths:
            raise ResultsError(f"no runs in {folder}: a run's folder holds config.yaml, eval.csv and summary.json")
    if not runs:
        raise ResultsError(f"no run could be read: {'; '.join(words)}")
    return _named_apart(list(runs.values())), words


def plan_of(folder: Path) -> tuple[Path, Plan | None]:
    """
    :param folder: of a benchmark, of a run of it, or between them
    :return: the benchmark's folder and its plan, as far as it is about runs in ``folder``; else the folder itself
    :raises crl.benchmark.plan.PlanError: for a plan that cannot be read
    """
    place = folder.resolve()
    # <benchmark>/<label>/<task>/seed<k>
    for base in (place, *place.parents[:3]):
        plan = read_plan(base)
        if plan is not None:
            below = {name: run for name, run in plan.runs.items() if (base / name).is_relative_to(place)}
            return base, plan._replace(runs=below)
    return place, None


def plans_for(folder: Path) -> dict[Path, Plan]:
    """
    :param folder: of a benchmark or a part of it, or with benchmarks below it
    :return: plans by the benchmark's folder, as far as they are about runs in ``folder``
    :raises crl.benchmark.plan.PlanError: for a plan that cannot be read
    """
    base, plan = plan_of(folder)
    if plan is not None:
        return {base: plan}
    bases = dict.fromkeys(base for path in find_runs(folder) for base in path.resolve().parents[:3])
    found = {base: read_plan(base) for base in bases}
    return {base: plan for base, plan in found.items() if plan is not None}


def planned_in(plans: Mapping[Path, Plan], path: Path) -> Planned | None:
    """
    :param plans: from :func:`plans_for`
    :param path: folder of a run
    :return: what they say of it; None where they say nothing
    """
    place = path.resolve()
    for base, plan in plans.items():
        if place.is_relative_to(base):
            return plan.runs.get(place.relative_to(base).as_posix())
    return None


def find_runs(folder: Path) -> list[Path]:
    """
    :param folder: to look in
    :return: it and folders below it that hold a ``config.yaml``, in order; nothing is sought inside of a run
    """
    found, depth = [], len(folder.parts)
    for name, below, files in os.walk(folder):
        if "config.yaml" in files:
            found.append(Path(name))
        inside = "config.yaml" in files or len(Path(name).parts) - depth >= _DEPTH
        below[:] = [] if inside else sorted(part for part in below if not part.startswith("."))
    return found


def _read(path: Path, planned: Planned | None) -> Run:
    folder = RunFolder(path)
    config, summary = folder.config(), folder.summary()
    curve = read_curve(folder.eval_file)
    sound = np.isfinite(curve.mean) & np.isfinite(curve.seconds)
    try:
        about, env_id, agent = config["run"], str(config["env"]["id"]), str(config["agent"])
        seed, budget = int(about["seed"]), int(about["steps"]) * int(about["action_repeat"])
    except (KeyError, TypeError, ValueError) as error:
        raise RunFolderError(f"{folder.config_file} is not of a run: {error} is missing or wrong") from error
    label, task = (planned.label, planned.task) if planned else _from_path(path, agent, env_id)
    overrides = planned.overrides if planned else _overrides(label, config)
    state, why = str(summary.get("state", "running")), str(summary.get("error") or "")
    if not sound.all():
        first = int(sound.argmin())
        why = f"the evaluation at environment step {curve.env_steps[first]:.0f} is no number"
        state = "running" if state == "running" else "failed"
        curve = LearningCurve(*(column[:first] for column in curve))
    return Run(
        path,
        agent,
        label,
        env_id,
        task,
        seed,
        state,
        why,
        budget,
        curve,
        config,
        summary,
        recipe_differences(config, overrides),
        newest_probe(path),
        read_rates(path, int(about["action_repeat"]), budget),
        sorted(folder.video.glob("*.mp4")),
    )


def read_curve(path: Path) -> LearningCurve:
    """
    :param path: of an ``eval.csv``; one that is not there has no evaluations
    :raises crl.runs.folder.RunFolderError: when it is not what a run writes
    """
    rows = Table(path).rows()
    try:
        columns = [
            np.array([float(row[name]) for row in rows], dtype=float) for name in ("env_steps", "mean", "std", "seconds")
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise RunFolderError(f"{path} is not a table of evaluations ({error}): move it away, or evaluate again") from error
    if not (np.diff(columns[0]) > 0).all():
        raise RunFolderError(f"{path}: env_steps do not rise")
    return LearningCurve(*columns)


def _from_path(path: Path, agent: str, env_id: str) -> tuple[str, str]:
    """Labels from ``<label>/<task>/seed<k>`` as benchmarks lay it; elsewhere the names of recipe and environment."""
    parts = path.absolute().parts[-3:]
    if len(parts) == 3 and parts[2].startswith("seed") and (parts[0] == agent or parts[0].startswith(f"{agent}+")):
        return parts[0], env_id if parts[1] == env_id.replace("/", "-") else parts[1]
    return agent, env_id


def _overrides(label: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """What a run that no plan names was asked for beside its recipe: its protocol, its environment, its label's variant."""
    flat = flatten(config)
    protocol = {path: value for path, value in flat.items() if path in _PROTOCOL or path.startswith("env.kwargs.")}
    variant = [item.partition("=") for item in label.partition("+")[2].split(",") if "=" in item]
    return {**protocol, **{path: value for path, _, value in variant}}


def recipe_differences(config: Mapping[str, Any], overrides: Mapping[str, Any]) -> list[str] | None:
    """
    :param config: of a run
    :param overrides: fields by dotted path that it was asked for beside its recipe
    :return: ``field: run's (recipe's)`` for each field that the current recipe sets otherwise; None when there is no such
        recipe any more, or it does not take these fields
    """
    try:
        current = flatten(resolve(str(config["agent"]), str(config["env"]["id"]), overrides))
        changed = changed_source(str(config["agent"]), config.get("run", {}))
    except ValueError:
        return None
    added = {path: value for path, value in ADDED_FIELDS.items() if path in current}
    there = {**added, **flatten({key: value for key, value in config.items() if key != "run"})}
    absent = "absent"
    update, now = update_of(config.get("run", {})), family_of(str(config["agent"])).update
    told = [f"update: {update} ({now})"] * (update != now) + [changed] * bool(changed)
    return told + [
        f"{path}: {there.get(path, absent)} ({current.get(path, absent)})"
        for path in sorted(there.keys() | current.keys())
        if there.get(path, absent) != current.get(path, absent) and path != "train.threads"
    ]


def newest_probe(path: Path) -> Mapping[str, Any] | None:
    """
    :param path: folder of a run
    :return: what its newest ``probe.json`` says; None where there is none
    :raises crl.runs.folder.RunFolderError: when that cannot be read
    """
    found = sorted((path / "probe").glob("*/probe.json"))
    for file in reversed(found):
        try:
            report = json.loads(file.read_text())
        except (OSError, ValueError) as error:
            raise RunFolderError(f"{file} cannot be read ({error}): probe the run again") from error
        if isinstance(report, dict) and any(isinstance(report.get(part), dict) for part in _PROBED):
            return report
    return None


def _named_apart(runs: list[Run]) -> list[Run]:
    """
    Runs of one agent whose configurations differ get labels that say in what, so that no table mixes them: the fields that are
    not the same in all of its runs on a task (or not in all as far from today's recipe), where they are not the recipe's own.
    """
    named = []
    for group in _groups(runs, lambda run: run.label).values():
        fields = {path for on_task in _groups(group, lambda run: run.task).values() for path in _varied(on_task)}
        told: list[set[str]] = [{entry.partition(":")[0] for entry in run.differences or []} for run in group]
        fields |= set().union(*told) - told[0].intersection(*told)
        named += [_renamed(run, fields) for run in group]
    order = {id(run.config): i for i, run in enumerate(runs)}
    return sorted(named, key=lambda run: order[id(run.config)])


def _varied(runs: list[Run]) -> set[str]:
    flats = [{path: str(value) for path, value in _comparable(run).items()} for run in runs]
    return {path for flat in flats for path in flat if len({other.get(path) for other in flats}) > 1}


def _renamed(run: Run, fields: set[str]) -> Run:
    try:
        plain = {**flatten(resolve(run.agent, run.env)), "update": family_of(run.agent).update}
    except ValueError:
        plain = {}
    flat = _comparable(run)
    told = [f"{path}={flat.get(path, 'absent')}" for path in sorted(fields) if flat.get(path, "absent") != plain.get(path)]
    if not told:
        return run
    return replace(run, label=f"{run.label}{',' if '+' in run.label else '+'}{','.join(told)}", apart=True)


def _comparable(run: Run) -> dict[str, Any]:
    # runs from before a field was there are no others than those that leave it as it was
    added = {path: value for path, value in ADDED_FIELDS.items() if path.partition(".")[0] in run.config}
    flat = {**added, **flatten({key: value for key, value in run.config.items() if key != "run"})}
    flat["update"] = update_of(run.about)
    return {path: value for path, value in flat.items() if path != "train.threads"}


def _groups(runs: Iterable[Run], key: Any) -> dict[Any, list[Run]]:
    groups: dict[Any, list[Run]] = {}
    for run in runs:
        groups.setdefault(key(run), []).append(run)
    return groups

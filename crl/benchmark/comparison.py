"""Runs side by side: which there are, which are missing, what enters the statistics, and what a reader must be told."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from crl.agents.recipes import RECIPES
from crl.benchmark.grid import TUNING_SEEDS
from crl.benchmark.plan import Plan
from crl.benchmark.results import ResultsError, Run, plans_for, read_runs
from crl.benchmark.statistics import MIN_RUNS, CurveEstimate, mean_curve
from crl.benchmark.suite import Suite, SuiteError, list_suites, load_suite
from crl.runs.lengths import final_episodes

T = TypeVar("T")

#: places at which curves against wall-clock are compared
_CLOCK_POINTS = 60
#: curves with more evaluations are drawn at this many
_MOST_POINTS = 200


@dataclass
class Comparison:
    """
    Runs side by side; made by :func:`compare`.

    :param runs: one each of agent, task and seed, tuning seeds left out
    :param tuning: runs on seeds that are never reported
    :param agents: labels, in the order of tables
    :param tasks: labels, in the order of tables
    :param seeds: of each agent, planned or seen
    :param missing: agent, task and seed of runs that do not exist
    :param bounds: returns of a task that count as 0 and as 1, where they are known
    :param words: what a reader must be told, a sentence each
    :param title: of a report
    """

    runs: list[Run]
    tuning: list[Run]
    agents: list[str]
    tasks: list[str]
    seeds: dict[str, list[int]]
    missing: list[tuple[str, str, int]]
    bounds: dict[str, tuple[float, float]]
    words: list[str]
    title: str

    def on(self, agent: str, task: str) -> list[Run]:
        """Runs of an agent on a task, by seed."""
        found = [run for run in self.runs if run.label == agent and run.task == task]
        return sorted(found, key=lambda run: run.seed)

    def counted(self, agent: str, task: str) -> list[Run]:
        """Those that enter statistics."""
        return [run for run in self.on(agent, task) if run.counts]

    def collected(self, task: str, what: Callable[[Run], T | None]) -> dict[str, list[T]]:
        """
        :param task: label
        :param what: of a run; None where it has no such thing
        :return: of each agent whose runs have any, by seed
        """
        found = {agent: [value for value in map(what, self.on(agent, task)) if value is not None] for agent in self.agents}
        return {agent: values for agent, values in found.items() if values}

    def usual_length(self, task: str) -> int:
        """Environment steps that most runs on a task, of which there must be some, are to have."""
        lengths = [run.budget for run in self.runs if run.task == task]
        return max(set(lengths), key=lengths.count)

    def finals(self, agent: str, task: str) -> np.ndarray:
        """Returns of the last evaluations, ``(runs,)``."""
        return np.array([run.curve.mean[-1] for run in self.counted(agent, task)])

    def returns_at(self, agent: str, task: str, env_steps: int) -> np.ndarray:
        """
        Returns after so many environment steps, ``(runs,)``: of the last evaluation where runs are not longer, else of the one
        at that very step; empty unless every run that counts has it.
        """
        found = []
        for run in self.counted(agent, task):
            at = np.flatnonzero(run.curve.env_steps == env_steps)
            if run.budget <= env_steps:
                at = np.array([-1])
            found.append(float(run.curve.mean[at[0]]) if len(at) else None)
        return np.array([] if None in found else found, dtype=float)

    @property
    def normalised_tasks(self) -> list[str]:
        """Tasks that aggregates are made of: those whose scores can be normalised."""
        return [task for task in self.tasks if task in self.bounds]

    def matrix(self) -> dict[str, np.ndarray]:
        """Final returns, ``{agent: (seeds, normalised tasks)}``; NaN where there is none."""
        matrices = {}
        for agent in self.agents:
            matrices[agent] = np.full((len(self.seeds[agent]), len(self.normalised_tasks)), np.nan)
            for column, task in enumerate(self.normalised_tasks):
                for run in self.counted(agent, task):
                    matrices[agent][self.seeds[agent].index(run.seed), column] = run.curve.mean[-1]
        return matrices

    def curve_matrix(self) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """
        Learning curves at the evaluations that all runs have in common.

        :return: environment steps, ``(steps,)``, and ``{agent: (seeds, normalised tasks, steps)}``, NaN where there is none.
            Fewer than two steps when the runs have too little in common
        """
        tasks = self.normalised_tasks
        steps = _common_steps([run for agent in self.agents for task in tasks for run in self.counted(agent, task)])
        matrices = {}
        for agent in self.agents:
            matrices[agent] = np.full((len(self.seeds[agent]), len(tasks), len(steps)), np.nan)
            for column, task in enumerate(tasks):
                for run in self.counted(agent, task):
                    row = self.seeds[agent].index(run.seed)
                    matrices[agent][row, column] = np.interp(steps, run.curve.env_steps, run.curve.mean)
        return steps, matrices

    def task_curve(self, agent: str, task: str, clock: bool = False) -> CurveEstimate | None:
        """
        Mean over the runs that count. A failed run keeps the return of its last evaluation to the end.

        :param agent: label
        :param task: label
        :param clock: against hours of training instead of environment steps
        :return: None where there is no run that counts
        """
        runs = self.counted(agent, task)
        if not runs:
            return None
        if not clock:
            x = _common_steps(runs)
            values = [np.interp(x, run.curve.env_steps, run.curve.mean) for run in runs]
            return mean_curve(np.array(values), x) if len(x) else None
        ended = [run for run in runs if run.state == "finished"] or runs
        begin, end = max(run.curve.seconds[0] for run in runs), min(run.curve.seconds[-1] for run in ended)
        if begin > end:
            return None
        x = np.linspace(begin, end, _CLOCK_POINTS)
        return mean_curve(np.array([np.interp(x, run.curve.seconds, run.curve.mean) for run in runs]), x / 3600)


def _common_steps(runs: Sequence[Run]) -> np.ndarray:
    """Evaluations within the range that all runs cover; failed ones are carried on."""
    ended = [run for run in runs if run.state == "finished"] or list(runs)
    if not runs:
        return np.zeros(0)
    begin, end = max(run.curve.env_steps[0] for run in runs), min(run.curve.env_steps[-1] for run in ended)
    steps = np.unique(np.concatenate([run.curve.env_steps for run in runs]))
    steps = steps[(steps >= begin) & (steps <= end)]
    if len(steps) > _MOST_POINTS:
        steps = steps[np.unique(np.linspace(0, len(steps) - 1, _MOST_POINTS).round().astype(int))]
    return steps


def compare(folders: Sequence[Path], suite: str | None = None) -> Comparison:
    """
    :param folders: of runs, or with runs below them
    :param suite: name or file whose tasks say how scores are normalised; None takes the folders' plan, else crl's own suites
    :raises crl.benchmark.results.ResultsError: when there are no runs, or only such on tuning seeds
    :raises crl.benchmark.suite.SuiteError: for an unknown suite
    :raises crl.benchmark.plan.PlanError: for a plan that cannot be read
    """
    chosen = None if suite is None else load_suite(suite)
    everything, words = read_runs(folders)
    plans = [plan for folder in folders for plan in plans_for(folder).values()]
    tuning = [run for run in everything if run.seed in TUNING_SEEDS]
    if len(tuning) == len(everything):
        raise ResultsError(
            f"all {len(tuning)} runs are on tuning seeds ({TUNING_SEEDS.start} to {TUNING_SEEDS.stop - 1}), which are never "
            "reported: run what was chosen on other seeds"
        )
    runs = _once([run for run in everything if run.seed not in TUNING_SEEDS], words)
    planned = {(run.label, run.task, run.seed) for plan in plans for run in plan.runs.values() if run.seed not in TUNING_SEEDS}
    agents = _ordered([label for label, _, _ in planned] + [run.label for run in runs], plans)
    bounds = _bounds(runs, plans, chosen)
    order = list(bounds)
    tasks = sorted({task for _, task, _ in planned} | {run.task for run in runs}, key=lambda t: (t not in order, t))
    tasks = [task for task in order if task in tasks] + [task for task in tasks if task not in order]
    seeds = {
        agent: sorted({s for a, _, s in planned if a == agent} | {run.seed for run in runs if run.label == agent})
        for agent in agents
    }
    there = {(run.label, run.task, run.seed) for run in runs}
    # without a plan every agent is expected on every task, but for variants that nobody asked for as such
    apart = {run.label for run in runs if run.apart}
    unplanned = {(agent, task, seed) for agent in agents if agent not in apart for task in tasks for seed in seeds[agent]}
    missing = sorted((planned if plans else unplanned) - there)
    suites = " and ".join(dict.fromkeys(plan.suite for plan in plans)) or (chosen.name if chosen else "")
    title = f"crl bench {suites}" if suites else "Runs side by side"
    comparison = Comparison(runs, tuning, agents, tasks, seeds, missing, bounds, words, title)
    words += _notes(comparison)
    return comparison


def _once(runs: list[Run], words: list[str]) -> list[Run]:
    """One run a cell: the one that has come furthest, and of those the first; outcomes have no say."""
    kept: dict[tuple[str, str, int], Run] = {}
    for run in runs:
        cell = run.label, run.task, run.seed
        if cell not in kept:
            kept[cell] = run
            continue
        used, left = (run, kept[cell]) if _got(run) > _got(kept[cell]) else (kept[cell], run)
        kept[cell] = used
        words.append(f"{run.label} on {run.task}, seed {run.seed}, was run twice: {used.path} is taken, {left.path} left out")
    return list(kept.values())


def _got(run: Run) -> tuple[bool, bool, int]:
    return run.state == "finished", run.counts, run.last_steps


def _ordered(labels: Sequence[str], plans: Sequence[Plan]) -> list[str]:
    """As planned, then as recipes are listed, then by name."""
    first = [run.label for plan in plans for run in plan.runs.values()]
    order = list(dict.fromkeys([*first, *sorted(labels, key=lambda label: (_recipe_rank(label), label))]))
    return [label for label in order if label in labels]


def _recipe_rank(label: str) -> int:
    names = list(RECIPES)
    agent = label.partition("+")[0]
    return names.index(agent) if agent in names else len(names)


def _bounds(runs: list[Run], plans: Sequence[Plan], chosen: Suite | None) -> dict[str, tuple[float, float]]:
    if chosen is not None:
        known = {task.label: (task.low, task.high) for task in chosen.tasks}
        if not known.keys() & {run.task for run in runs}:
            raise SuiteError(f"the suite {chosen.name} has none of the tasks {', '.join(sorted({r.task for r in runs}))}")
        return known
    known = {task: bounds for plan in plans for task, bounds in plan.bounds.items()}
    own = {task.label: (task.low, task.high) for name in list_suites() for task in load_suite(name).tasks}
    for task in sorted({run.task for run in runs}):
        if task not in known and task in own:
            known[task] = own[task]
    return known


def _notes(comparison: Comparison) -> list[str]:
    runs, words = comparison.runs, []
    if comparison.missing:
        shown = [f"{agent} on {task}, seed {seed}" for agent, task, seed in comparison.missing[:5]]
        more = f", and {len(comparison.missing) - 5} more" if len(comparison.missing) > 5 else ""
        words.append(f"The grid is incomplete. Not begun: {count(len(comparison.missing), 'run')} ({'; '.join(shown)}{more}).")
    words += _state_notes(runs)
    if comparison.tuning:
        words.append(f"{count(len(comparison.tuning), 'run')} on tuning seeds: listed at the end, and in no statistic.")
    few = [agent for agent in comparison.agents if len(comparison.seeds[agent]) < MIN_RUNS]
    if few:
        words.append(
            f"Fewer than {MIN_RUNS} seeds: {', '.join(few)}. Points without intervals: a bootstrap over so few runs would say "
            "little."
        )
    unknown = [task for task in comparison.tasks if task not in comparison.bounds]
    if unknown:
        words.append(
            f"No normalisation is known for {', '.join(unknown)}: in no aggregate. A suite file says it: --suite FILE.yaml."
        )
    return words + _protocol_notes(comparison)


def _state_notes(runs: list[Run]) -> list[str]:
    words = []
    failed = [run for run in runs if run.state == "failed"]
    if failed:
        reasons = [f"{run.label} on {run.task}, seed {run.seed}: {run.error or 'no reason noted'}" for run in failed[:5]]
        words.append(
            f"Failed: {count(len(failed), 'run')} ({'; '.join(reasons)}). A failed run counts with the return of its last "
            "evaluation; without one, not at all."
        )
    unfinished = [run for run in runs if run.state not in ("finished", "failed")]
    if unfinished:
        words.append(
            f"Not finished: {count(len(unfinished), 'run')}, in the table of runs at the last evaluation, and in no statistic."
        )
    short = [run for run in runs if run.state == "finished" and run.last_steps < run.budget]
    for run in short:
        words.append(
            f"{run.path} finished {run.budget} environment steps and was last evaluated at {run.last_steps}: that is its "
            "final return here."
        )
    stale = [run for run in runs if run.stale]
    if stale:
        words.append(f"Stale: {count(len(stale), 'run')}; today's recipe has other fields. The table of runs says which.")
    dirty = [run for run in runs if str(run.about.get("revision")).endswith("-dirty")]
    if dirty:
        words.append(
            f"From sources with changes that were not committed, which nobody can look up: {count(len(dirty), 'run')}."
        )
    return words


def _protocol_notes(comparison: Comparison) -> list[str]:
    words = []
    for name, of in _SHARED.items():
        found = sorted({str(of(run)) for run in comparison.runs})
        if len(found) > 1:
            words.append(f"Not all runs have the same {name}: {'; '.join(found)}.")
    for task in comparison.tasks:
        on_task = [run for run in comparison.runs if run.task == task]
        for name, of in _SHARED_ON_TASK.items():
            found = sorted({str(of(run)) for run in on_task})
            if len(found) > 1:
                words.append(f"On {task} not all runs have the same {name}: {', '.join(found)}.")
    return words


def deterministic(run: Run) -> bool:
    """Whether its evaluations choose actions without drawing them."""
    return bool(run.config["train"].get("eval_deterministic", True))


def count(number: int, what: str) -> str:
    """``1 run``, ``2 runs``."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def versions_text(versions: Mapping[str, str]) -> str:
    """``name version`` of each package."""
    return ", ".join(f"{name} {version}" for name, version in versions.items())


_SHARED = {
    "machine": lambda run: run.about.get("machine"),
    "versions": lambda run: versions_text(run.about.get("versions") or {}),
    "revision": lambda run: run.about.get("revision"),
    "precision": lambda run: run.about.get("precision"),
    "number of threads": lambda run: run.config["train"].get("threads"),
}
_SHARED_ON_TASK = {
    "length in environment steps": lambda run: run.budget,
    "number of evaluation episodes": lambda run: final_episodes(run.config),
    "action repeat": lambda run: run.about.get("action_repeat"),
    # the episodes that are played depend on it, and so does whether agents play the same ones
    "number of environments that evaluate": lambda run: run.config["train"].get("eval_envs", 1),
    "way of choosing actions in evaluations": lambda run: "deterministic" if deterministic(run) else "drawn",
}

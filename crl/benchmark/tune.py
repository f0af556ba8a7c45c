"""
``crl tune``: Optuna searches over fields of a recipe. A trial is one setting, run on a few tuning seeds, which are never
reported; its value is the mean return of their final evaluations. The study lies in the folder as an SQLite file beside the
runs, so that a search can be killed at any moment: the same command goes on, with the trial that was under way first.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from crl.agents.recipes import env_options, flatten, resolve
from crl.benchmark.grid import Cell, parse_seeds
from crl.benchmark.runner import Bench, Job
from crl.benchmark.search import Space, parse_search
from crl.benchmark.suite import Task
from crl.envs.make import check_env_id
from crl.runs.folder import RunFolder, RunFolderError, Table, write_atomically
from crl.runs.lengths import agent_steps, never_learns
from crl.runs.return_text import return_text
from crl.runs.stop import STOPPED, StopRequest

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial, Trial

_STUDY = "crl"
_STARTS = "algorithm.learning_starts"
#: trials that are run to their end before any is pruned
_STARTUP = 5


class TuneError(ValueError):
    """A search that cannot be begun or gone on with; the message says what to do."""


@dataclass(frozen=True)
class Plan:
    """
    What makes a search what it is; one folder holds one.

    :param agent: recipe
    :param env: environment
    :param seeds: tuning seeds that every trial is run on, in this order
    :param search: as on the command line
    :param fixed: fields that all trials share
    """

    agent: str
    env: str
    seeds: list[int]
    search: list[str]
    fixed: dict[str, Any]


def tune(
    agent: str,
    env: str,
    trials: int,
    search: Sequence[str],
    fixed: Mapping[str, Any] | None = None,
    seeds: str = "101-103",
    out: Path | None = None,
    workers: int = 1,
    threads: int = 1,
    checkpoint_every: int = 2500,
    prune: bool = True,
) -> int:
    """
    :param agent: recipe
    :param env: environment
    :param trials: that the folder is to hold in the end, pruned and failed ones included
    :param search: see :func:`crl.benchmark.search.parse_search`
    :param fixed: fields that all trials share
    :param seeds: tuning seeds, see :func:`crl.benchmark.grid.parse_seeds`
    :param out: folder; None takes ``runs/tune/<agent>/<env>``
    :param workers: runs of a trial at a time
    :param threads: of each run
    :param checkpoint_every: agent steps between checkpoints
    :param prune: end trials early that are below the median of earlier ones at the same place
    :return: exit code: 0 when all trials are there, 1 when none of them has a value, 130 when it was stopped
    :raises ValueError: for anything wrong, before the first trial
    """
    if find_spec("optuna") is None:
        raise TuneError("crl tune needs Optuna: pip install 'crl[tune]'")
    if trials < 1 or workers < 1 or threads < 1:
        raise TuneError(f"--trials {trials}, --workers {workers}, --threads {threads}: at least 1")
    chosen = parse_seeds(seeds, tuning=True)
    check_env_id(env, env_options(fixed or {}))
    config = resolve(agent, env, fixed or {})
    plan = Plan(agent, env, chosen, list(search), dict(fixed or {}))
    space = parse_search(search, agent, env, plan.fixed)
    starts = space.get(_STARTS)
    for searched in [{}] if starts is None else [{_STARTS: value} for value in starts.ends()]:
        tried = resolve(agent, env, {**plan.fixed, **searched})
        wasted = never_learns(tried, agent_steps(tried), "--set train.env_steps=...")
        if wasted:
            raise TuneError(wasted)
    folder = out or Path("runs") / "tune" / agent.rpartition(":")[2] / env.replace("/", "-")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with RunFolder(folder).held(), StopRequest() as stop:
            _keep(plan, folder)
            work = Search(plan, space, folder, workers, threads, checkpoint_every, prune, config["train"]["env_steps"])
            ended = work.run(trials, stop)
    except RunFolderError as error:
        raise TuneError(f"{folder} is being worked on by another crl tune: wait for it, or end it") from error
    if not ended:
        print(f"stopped; what was under way has been saved. Go on with the same command (--out {folder})", file=sys.stderr)
        return STOPPED
    return 0 if work.tell_best() else 1


def _keep(plan: Plan, folder: Path) -> None:
    file, wanted = folder / "tune.json", asdict(plan)
    if not file.exists():
        write_atomically(file, (json.dumps(wanted, indent=1, default=str) + "\n").encode())
    try:
        there = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise TuneError(f"{file} cannot be read ({error}): choose another --out") from error
    differ = [name for name in wanted if there.get(name) != json.loads(json.dumps(wanted[name], default=str))]
    if differ:
        told = "; ".join(f"{name}: {there.get(name)} there, {wanted[name]} here" for name in differ)
        raise TuneError(f"{folder} holds another search ({told}): choose another --out")


@dataclass
class Search:
    """
    A search on its way.

    :param plan: what is searched
    :param space: fields and their ranges
    :param folder: of the search
    :param workers: runs at a time
    :param threads: of each run
    :param checkpoint_every: agent steps between checkpoints
    :param prune: end poor trials early
    :param env_steps: of each run
    """

    plan: Plan
    space: Space
    folder: Path
    workers: int
    threads: int
    checkpoint_every: int
    prune: bool
    env_steps: int

    def __post_init__(self) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        pruner = optuna.pruners.MedianPruner(n_startup_trials=_STARTUP) if self.prune else optuna.pruners.NopPruner()
        storage = f"sqlite:///{(self.folder / 'study.db').resolve()}"
        self.study: Study = optuna.create_study(
            storage=storage, study_name=_STUDY, direction="maximize", load_if_exists=True, pruner=pruner
        )
        # a search that is taken up must not draw again what it has drawn
        self.study.sampler = optuna.samplers.TPESampler(seed=self.plan.seeds[0] + 1000 * len(self.study.trials))

    def run(self, trials: int, stop: StopRequest) -> bool:
        """
        :param trials: that there are to be in the end
        :param stop: tells of signals
        :return: whether it came to its end
        """
        from optuna.trial import Trial, TrialState

        for frozen in self.study.get_trials(states=(TrialState.RUNNING,)):
            if frozen.params.keys() != self.space.keys():  # killed while it was drawn
                self.study.tell(frozen.number, state=TrialState.FAIL)
            elif not self._one(Trial(self.study, frozen._trial_id), stop):
                return False
        while len(self.study.trials) < trials:
            trial = self.study.ask({name: part.distribution() for name, part in self.space.items()})
            if not self._one(trial, stop):
                return False
        return True

    def _one(self, trial: Trial, stop: StopRequest) -> bool:
        """Run a trial, or the rest of it; False when a signal came first."""
        from optuna.trial import TrialState

        place = self.folder / "trials" / f"{trial.number:04d}"
        overrides = {**self.plan.fixed, **trial.params}
        task = Task(self.plan.env, 0.0, 1.0, self.plan.env)
        agent = self.plan.agent
        cells = [Cell(agent, agent.rpartition(":")[2], task, seed, overrides) for seed in self.plan.seeds]
        work = Bench(cells, place, self.workers, self.threads, self.checkpoint_every)
        told = _Reports(trial, self.env_steps)

        def look(bench: Bench) -> None:
            if told.look(bench.jobs) or stop.signal is not None or bench.count("failed"):
                bench.halted = True

        look(work)
        if not work.halted:
            work.run(look, stop=stop)
        failed = [job for job in work.jobs if job.state == "failed"]
        if told.pruned:
            self.study.tell(trial, state=TrialState.PRUNED)
        elif failed:
            self.study.tell(trial, state=TrialState.FAIL)
        elif any(job.state != "finished" for job in work.jobs):
            return False  # stopped: the trial stays as it is, and is gone on with
        else:
            finals = [float(job.folder.summary()["final_return"]) for job in work.jobs]
            self.study.tell(trial, sum(finals) / len(finals))
        frozen = self.study.trials[trial.number]
        reason = f" ({failed[0].error})" if failed else ""
        print(f"trial {trial.number}: {_told(frozen)}{reason}", file=sys.stderr, flush=True)
        return True

    def tell_best(self) -> bool:
        """Print all trials and the best, and write ``best.yaml``; False when no trial has a value."""
        from optuna.trial import TrialState

        names = list(self.space)
        print(f"| trial | {' | '.join(names)} | state | mean return |\n|{'---|' * (len(names) + 3)}")
        for frozen in self.study.trials:
            values = " | ".join(_shown(frozen.params.get(name, "")) for name in names)
            print(f"| {frozen.number} | {values} | {frozen.state.name.lower()} | {_mean_return(frozen)} |")
        if not self.study.get_trials(states=(TrialState.COMPLETE,)):
            print("no trial has finished all of its runs: there is no best one", file=sys.stderr)
            return False
        best = self.study.best_trial
        seeds = ", ".join(map(str, self.plan.seeds))
        head = (
            f"# Best of {len(self.study.trials)} trials of {self.plan.agent} on {self.plan.env}: mean return "
            f"{_mean_return(best)}\n# over the tuning seeds {seeds}, on which it must not be reported. "
            "Give this file to --set.\n"
        )
        flat = flatten(resolve(self.plan.agent, self.plan.env, {**self.plan.fixed, **best.params}))
        chosen = {name: flat[name] for name in names}
        file = self.folder / "best.yaml"
        write_atomically(file, (head + yaml.safe_dump(chosen, sort_keys=False)).encode())
        settings = " ".join(f"{name}={_shown(value)}" for name, value in chosen.items())
        print(f"\nbest: trial {best.number}, mean return {_mean_return(best)} over seeds {seeds}: {settings}")
        print(f"use it: crl train {self.plan.agent} {self.plan.env} --set {file}")
        return True


class _Reports:
    """
    Tells Optuna how a trial gets on. Seeds are told one after the other, in the same order in all trials: at any place, trials
    have been measured on the same seeds for equally long, however many run at a time.
    """

    def __init__(self, trial: Trial, env_steps: int) -> None:
        self.trial, self.env_steps = trial, env_steps
        self.told = set(trial.study.trials[trial.number].intermediate_values)
        self.pruned = False

    def look(self, jobs: Sequence[Job]) -> bool:
        """Report what is new; whether the trial is to end."""
        finals: list[float] = []
        for number, job in enumerate(jobs):
            for row in Table(job.folder.eval_file).rows():
                place = number * self.env_steps + int(row["env_steps"])
                if place in self.told:
                    continue
                self.trial.report((sum(finals) + float(row["mean"])) / (len(finals) + 1), place)
                self.told.add(place)
                # a trial that has been measured to its end has a value, poor or not
                last = number == len(jobs) - 1 and job.folder.summary().get("state") == "finished"
                if not last and self.trial.should_prune():
                    self.pruned = True
                    return True
            if job.folder.summary().get("state") != "finished":
                break
            finals.append(float(job.folder.summary()["final_return"]))
        return False


def _told(frozen: FrozenTrial) -> str:
    settings = " ".join(f"{name}={_shown(value)}" for name, value in frozen.params.items())
    mean = _mean_return(frozen)
    return f"{settings}: {f'mean return {mean}' if mean else frozen.state.name.lower()}"


def _mean_return(frozen: FrozenTrial) -> str:
    """Nothing of a trial that was cut short: what it was last told is of fewer steps."""
    if frozen.value is None or frozen.state.name != "COMPLETE":
        return ""
    return return_text(frozen.value)


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return ",".join(map(_shown, value)) if isinstance(value, list) else str(value)

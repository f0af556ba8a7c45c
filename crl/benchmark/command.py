"""``crl bench``: from the command line's words to a grid, its forecast, and its runs."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from rich.box import SIMPLE
from rich.console import Console
from rich.live import Live
from rich.table import Column, Table

from crl.benchmark.forecast import forecast, hours_of_all, largest_memory, workers_that_fit
from crl.benchmark.grid import Cell, choose_agents, make_grid, parse_seeds
from crl.benchmark.launch import Executor, LocalExecutor, visible_gpus
from crl.benchmark.plan import write_plan
from crl.benchmark.runner import Bench, Job, results
from crl.benchmark.suite import load_suite
from crl.limits import free_memory, usable_cores
from crl.runs.return_text import return_text
from crl.runs.stop import STOPPED


class CommandError(ValueError):
    """Options that do not go together; the message says which do."""


def bench(
    suite: str,
    agents: str = "",
    seeds: str | None = None,
    out: Path | None = None,
    items: Sequence[str] = (),
    tuning: bool = False,
    dry_run: bool = False,
    workers: int | None = None,
    threads: int = 1,
    checkpoint_every: int = 2500,
    executor: str = "local",
    gpus_per_run: float = 0.0,
    slurm: Sequence[str] = (),
    probe: bool = False,
    retry_failed: bool = False,
    device: str = "auto",
    video: bool = False,
) -> int:
    """
    :param suite: name or YAML file
    :param agents: recipes, separated by commas; empty takes those that the suite names
    :param seeds: see :func:`crl.benchmark.grid.parse_seeds`; None takes those that the suite names for an agent, else 1 to 5
    :param out: folder; None takes ``runs/<suite>``
    :param items: ``field=value``, or ``field=a,b`` for an ablation
    :param tuning: seeds are for choosing hyperparameters
    :param dry_run: say what would be run, and what it would take
    :param workers: runs at a time; None takes as many as fit, or as the cluster has room for
    :param threads: of each run
    :param checkpoint_every: agent steps between checkpoints
    :param executor: ``"local"``, ``"ray"`` or ``"slurm"``
    :param gpus_per_run: GPUs, or the part of one, that a cluster reserves for each run
    :param slurm: ``KEY=VALUE`` for submitit's executor
    :param probe: let ``crl probe`` follow each finished run
    :param retry_failed: try runs anew that have failed in an earlier command
    :param device: of each run
    :param video: film an episode of each finished run
    :return: exit code: 0 when every run has finished, 1 when one has failed, 130 when it was stopped
    :raises ValueError: for anything wrong, before anything is started
    """
    if video and find_spec("imageio") is None:
        raise CommandError("--video needs imageio: pip install 'crl[dmc]'")
    _check_numbers(workers, threads, checkpoint_every)
    chosen = load_suite(suite)
    named = [name for name in agents.split(",") if name]
    by_agent = choose_agents(chosen, named, None if seeds is None and not tuning else parse_seeds(seeds or "5", tuning))
    cells = make_grid(chosen, by_agent, items=items)
    folder = out or Path("runs") / chosen.name
    _check_executor(executor, gpus_per_run, slurm)
    local = executor == "local"
    # a device that is named by its number is the user's choice, and all runs are on it
    gpus = visible_gpus() if local and device in ("auto", "cuda") else []
    as_the_cluster_has_room = workers is None and not local
    if workers is None:
        fit = workers_that_fit(cells, usable_cores(), threads, free_memory())
        places = len(gpus) or (1 if device.startswith("cuda:") else fit)
        workers = min(fit, places) if local else len(cells)
    probing = _probe_arguments() if probe else None
    work = Bench(cells, folder, workers, threads, checkpoint_every, LocalExecutor(gpus), probing, retry_failed, device, video)
    if dry_run:
        print_forecast(work, as_the_cluster_has_room)
        return 0
    if not local:
        work.executor = make_executor(executor, folder, cells, workers, threads, gpus_per_run, slurm)
    assert work.executor is not None
    try:
        write_plan(folder, chosen, cells)
        console = Console(stderr=True)
        if console.is_terminal:
            with Live(_table(work), console=console, refresh_per_second=2) as live:
                ended = work.run(lambda bench: live.update(_table(bench)))
        else:
            ended = work.run(_Lines())
    finally:
        work.executor.close()
    print_results(work)
    if not ended:
        print(f"stopped; the runs have been saved. Go on with the same command (--out {folder})", file=sys.stderr)
        return STOPPED
    if work.count("failed"):
        print("failed runs stay as they are; to try them once more, add --retry-failed", file=sys.stderr)
        return 1
    return 0


def _check_numbers(workers: int | None, threads: int, checkpoint_every: int) -> None:
    if threads < 1 or (workers is not None and workers < 1):
        raise CommandError(f"--workers {'as many as fit' if workers is None else workers}, --threads {threads}: at least 1")
    if checkpoint_every < 0:
        raise CommandError(f"--checkpoint-every {checkpoint_every}: 0 (at the end only) or more agent steps")


def _check_executor(executor: str, gpus_per_run: float, slurm: Sequence[str]) -> None:
    if executor not in ("local", "ray", "slurm"):
        raise CommandError(f"--executor {executor}: local, ray or slurm")
    if not gpus_per_run >= 0:
        raise CommandError(f"--gpus-per-run {gpus_per_run}: 0 or more")
    if gpus_per_run and executor == "local":
        raise CommandError("--gpus-per-run is for --executor ray and slurm; local runs are spread over this machine's GPUs")
    if slurm and executor != "slurm":
        raise CommandError("--slurm is for --executor slurm")


def make_executor(
    name: str, folder: Path, cells: Sequence[Cell], workers: int, threads: int, gpus_per_run: float, slurm: Sequence[str]
) -> Executor:
    """
    :param name: ``"ray"`` or ``"slurm"``
    :param folder: of the benchmark
    :param cells: of the grid
    :param workers: runs at a time
    :param threads: of each run
    :param gpus_per_run: see :func:`bench`
    :param slurm: see :func:`bench`
    :raises ValueError: when the cluster cannot be used
    """
    memory = 1.2 * largest_memory(cells)
    if name == "ray":
        from crl.benchmark.on_ray import RayExecutor

        return RayExecutor(threads, gpus_per_run, memory)
    from crl.benchmark.on_slurm import SlurmExecutor, parse_options

    return SlurmExecutor(folder / "logs" / "slurm", threads, memory, gpus_per_run, workers, parse_options(list(slurm)))


def _probe_arguments() -> list[str]:
    return [] if find_spec("matplotlib") else ["--no-pictures"]


def print_forecast(work: Bench, as_the_cluster_has_room: bool = False) -> None:
    """
    The grid, and what is left to do.

    :param work: not begun
    :param as_the_cluster_has_room: nobody knows how many runs there will be at a time
    """
    table = Table(*_names(), "runs", "left", "hours", "memory", "disk", title="each run", box=SIMPLE)
    groups: dict[tuple[str, str], list[Job]] = {}
    for job in work.jobs:
        groups.setdefault((job.cell.label, job.cell.task.label), []).append(job)
    needed = {key: forecast(jobs[0].cell) for key, jobs in groups.items()}
    others = list(dict.fromkeys(needs.measured_on for needs in needed.values() if needs.measured_on))
    disk, memory = 0.0, 0.0
    for key, jobs in groups.items():
        needs, left = needed[key], len(_left(jobs))
        disk += needs.disk * left
        memory = max(memory, needs.memory if left else 0.0)
        note = f" ({others.index(needs.measured_on) + 1})" if needs.measured_on else ""
        shown = "?" if needs.hours is None else f"{needs.hours:.2f}{note}"
        sizes = (f"{needs.memory / 1e9:.1f} GB", f"{needs.disk / 1e9:.1f} GB")
        table.add_row(*key, str(len(jobs)), str(left), shown, *sizes)
    console = Console()
    console.print(table)
    for number, measured_on in enumerate(others, 1):
        console.print(f"({number}) not measured itself: from {measured_on}, by the agent's steps")
    todo = _left(work.jobs)
    # of a run that was cut off only the rest is to be done
    of_each = [(needed[job.cell.label, job.cell.task.label].hours, 1.0 - _done(job)) for job in todo]
    hours = [one * rest for one, rest in of_each if one is not None]
    unknown = len(todo) - len(hours)
    at_a_time = "as many at a time as the cluster has room for," if as_the_cluster_has_room else f"{work.workers} at a time"
    console.print(f"{len(work.jobs)} runs, {len(todo)} left, {at_a_time} with {work.threads} thread(s) each")
    if as_the_cluster_has_room:
        known = f"about {sum(hours):.1f} hours one after the other, the longest {max(hours, default=0.0):.1f}"
    else:
        known = f"about {hours_of_all(hours, work.workers):.1f} hours"
    parts = [known] if hours or not todo else []
    console.print(", and ".join([*parts, *([f"{unknown} runs whose time was not measured"] if unknown else [])]))
    if work.probe is not None and todo:
        console.print("the time of probes is not in it")
    if todo:
        at_once = 1 if as_the_cluster_has_room else min(work.workers, len(todo))
        there = shutil.disk_usage(next(part for part in (work.out.absolute(), *work.out.absolute().parents) if part.exists()))
        console.print(
            f"all together: {disk / 1e9:.1f} GB of disk ({there.free / 1e9:.1f} GB free), "
            f"{at_once * memory / 1e9:.1f} GB of memory {'each' if as_the_cluster_has_room else 'at a time'}"
        )


def _names() -> list[Column]:
    """Columns of a table that are shown whole: what tells the arms of an ablation apart stands at their end."""
    return [Column("agent", overflow="fold"), Column("task", overflow="fold")]


def _left(jobs: Sequence[Job]) -> list[Job]:
    return [job for job in jobs if job.state not in ("finished", "failed")]


def _done(job: Job) -> float:
    if not job.folder.config_file.exists():
        return 0.0
    return min(1.0, int(job.folder.summary().get("steps", 0)) / max(1, job.total_steps))


def print_results(work: Bench) -> None:
    """What came of it, as Markdown."""
    print("| agent | task | seed | state | return | steps |\n|---|---|---|---|---|---|")
    for row in results(work.jobs):
        value = "" if row["return"] is None else return_text(row["return"])
        state = row["state"] if not row["error"] else f"{row['state']} ({row['error']})"
        state += "; last evaluation" if row["state"] == "failed" and value else ""
        print(f"| {row['agent']} | {row['task']} | {row['seed']} | {state} | {value} | {row['steps']} |")


def _table(work: Bench) -> Table:
    states = ("finished", "running", "waiting", "elsewhere", "failed")
    counts = ", ".join(f"{work.count(state)} {state}" for state in states if work.count(state))  # type: ignore[arg-type]
    paused = f"  PAUSED by {work.pause_file}" if work.pause_file.exists() else ""
    table = Table(*_names(), "seed", "state", "steps", "return", title=counts + paused)
    for row in results([job for job in work.jobs if job.state in ("running", "elsewhere", "failed")]):
        value = "" if row["return"] is None else return_text(row["return"])
        state = f"{row['state']} on {row['host']}" if row["host"] else row["state"]
        table.add_row(row["agent"], row["task"], str(row["seed"]), state, f"{row['steps']}/{row['of'] or '?'}", value)
    return table


class _Lines:
    """For a log file: a line when something has changed."""

    def __init__(self) -> None:
        self.seen: dict[str, str] = {}
        self.paused = False

    def __call__(self, work: Bench) -> None:
        if work.pause_file.exists() != self.paused:
            self.paused = not self.paused
            told = f"PAUSED by {work.pause_file}: remove it to go on" if self.paused else "going on after a pause"
            print(told, file=sys.stderr, flush=True)
        for job in work.jobs:
            if self.seen.get(job.cell.name, "waiting") != job.state:
                done = f" ({work.count('finished')} of {len(work.jobs)} finished)" if job.state == "finished" else ""
                print(f"{job.cell.name}: {job.state}{done}", file=sys.stderr, flush=True)
            self.seen[job.cell.name] = job.state

"""``crl bench``: from the command line's words to a grid, its forecast, and its runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil
from rich.box import SIMPLE
from rich.console import Console
from rich.live import Live
from rich.table import Table

from crl.benchmark.forecast import forecast, workers_that_fit
from crl.benchmark.grid import make_grid, parse_seeds
from crl.benchmark.plan import write_plan
from crl.benchmark.runner import Bench, Job, results
from crl.benchmark.suite import load_suite
from crl.runs.stop import STOPPED


def bench(
    suite: str,
    agents: str,
    seeds: str,
    out: Path | None = None,
    items: Sequence[str] = (),
    tuning: bool = False,
    dry_run: bool = False,
    workers: int | None = None,
    threads: int = 1,
    checkpoint_every: int = 2500,
) -> int:
    """
    :param suite: name or YAML file
    :param agents: recipes, separated by commas
    :param seeds: see :func:`crl.benchmark.grid.parse_seeds`
    :param out: folder; None takes ``runs/<suite>``
    :param items: ``field=value``, or ``field=a,b`` for an ablation
    :param tuning: seeds are for choosing hyperparameters
    :param dry_run: say what would be run, and what it would take
    :param workers: runs at a time; None takes as many as fit
    :param threads: of each run
    :param checkpoint_every: agent steps between checkpoints
    :return: exit code: 0 when every run has finished, 1 when one has failed, 130 when it was stopped
    :raises ValueError: for anything wrong, before anything is started
    """
    chosen = load_suite(suite)
    cells = make_grid(chosen, [name for name in agents.split(",") if name], parse_seeds(seeds, tuning), items)
    folder = out or Path("runs") / chosen.name
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if workers is None:
        workers = workers_that_fit(cells, cores, threads, psutil.virtual_memory().available)
    work = Bench(cells, folder, workers, threads, checkpoint_every)
    if dry_run:
        print_forecast(work)
        return 0
    write_plan(folder, chosen, cells)
    console = Console(stderr=True)
    if console.is_terminal:
        with Live(_table(work), console=console, refresh_per_second=2) as live:
            ended = work.run(lambda bench: live.update(_table(bench)))
    else:
        ended = work.run(_Lines())
    print_results(work)
    if not ended:
        print(f"stopped; the runs have been saved. Go on with the same command (--out {folder})", file=sys.stderr)
        return STOPPED
    return 1 if work.count("failed") else 0


def print_forecast(work: Bench) -> None:
    """The grid, and what is left to do."""
    table = Table("agent", "task", "runs", "left", "hours", "memory", "disk", title="each run", box=SIMPLE)
    groups: dict[tuple[str, str], list[Job]] = {}
    for job in work.jobs:
        groups.setdefault((job.cell.label, job.cell.task.label), []).append(job)
    hours, unknown = 0.0, 0
    for (label, task), jobs in groups.items():
        needs = forecast(jobs[0].cell)
        left = sum(job.state != "finished" for job in jobs)
        hours += (needs.hours or 0.0) * left
        unknown += left * (needs.hours is None)
        shown = "?" if needs.hours is None else f"{needs.hours:.2f}"
        sizes = (f"{needs.memory / 1e9:.1f} GB", f"{needs.disk / 1e9:.1f} GB")
        table.add_row(label, task, str(len(jobs)), str(left), shown, *sizes)
    console = Console()
    console.print(table)
    left = len(work.jobs) - work.count("finished")
    console.print(f"{len(work.jobs)} runs, {left} left, {work.workers} at a time with {work.threads} thread(s) each")
    console.print(
        f"about {hours / work.workers:.1f} hours" + (f", and {unknown} runs whose time was not measured" if unknown else "")
    )


def print_results(work: Bench) -> None:
    """What came of it, as Markdown."""
    print("| agent | task | seed | state | return | steps |\n|---|---|---|---|---|---|")
    for row in results(work.jobs):
        value = "" if row["return"] is None else f"{row['return']:.1f}"
        state = row["state"] if row["state"] != "failed" else f"failed ({row['error']}); last evaluation"
        print(f"| {row['agent']} | {row['task']} | {row['seed']} | {state} | {value} | {row['steps']} |")


def _table(work: Bench) -> Table:
    states = ("finished", "running", "waiting", "elsewhere", "failed")
    counts = ", ".join(f"{work.count(state)} {state}" for state in states if work.count(state))  # type: ignore[arg-type]
    paused = f"  PAUSED by {work.pause_file}" if work.pause_file.exists() else ""
    table = Table("agent", "task", "seed", "state", "steps", "return", title=counts + paused)
    for row in results([job for job in work.jobs if job.state in ("running", "elsewhere", "failed")]):
        value = "" if row["return"] is None else f"{row['return']:.1f}"
        table.add_row(row["agent"], row["task"], str(row["seed"]), row["state"], f"{row['steps']}/{row['of'] or '?'}", value)
    return table


class _Lines:
    """For a log file: a line when something has changed."""

    def __init__(self) -> None:
        self.seen: dict[str, str] = {}

    def __call__(self, work: Bench) -> None:
        for job in work.jobs:
            if self.seen.get(job.cell.name, "waiting") != job.state:
                done = f" ({work.count('finished')} of {len(work.jobs)} finished)" if job.state == "finished" else ""
                print(f"{job.cell.name}: {job.state}{done}", file=sys.stderr, flush=True)
            self.seen[job.cell.name] = job.state

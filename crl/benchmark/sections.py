"""The parts of a report: what runs say of agents, across tasks and task by task."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

import numpy as np
import yaml

from crl.agents.recipes import flatten
from crl.benchmark import statistics
from crl.benchmark.comparison import Comparison, count, deterministic, versions_text
from crl.benchmark.figures import Picture, Style, Theme, add_legend, draw_bars, draw_curves, draw_estimates, draw_pairs, render
from crl.benchmark.partner_section import partner_probes
from crl.benchmark.published import protocol_differences, published, published_lengths
from crl.benchmark.record import read_measured
from crl.benchmark.results import Run
from crl.benchmark.statistics import METRICS, CurveEstimate, Estimate
from crl.benchmark.subgoal_section import subgoal_rates
from crl.benchmark.tables import Cell, Link, Table
from crl.benchmark.task_figure import TaskPanel, ends, probe_values, probed, task_picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: pairs beyond these make a table, and no figure
_MOST_PAIRS = 15


class Details(NamedTuple):
    """
    Text that opens when it is asked for.

    :param title: of it
    :param text: as it stands, lines kept
    """

    title: str
    text: str


@dataclass
class Section:
    """
    :param name: for links
    :param title: heading
    :param parts: sentences, lists of sentences, tables, rows of pictures, details
    :param files: pictures that go into files alone: the row's pictures in one
    :param level: of the heading
    """

    name: str
    title: str
    parts: list[str | list[str] | Table | list[Picture] | Details] = field(default_factory=list)
    files: list[Picture] = field(default_factory=list)
    level: int = 2


def sections(comparison: Comparison, out: Path) -> list[Section]:
    """
    :param comparison: runs side by side
    :param out: of the report; links are relative to it
    """
    style = Style(comparison.agents)
    parts = [overview(comparison), *(one_figure(comparison, style) if len(comparison.tasks) == 1 else [])]
    parts += [final_returns(comparison), *across_tasks(comparison, style)]
    parts.append(Section("tasks", "Task by task"))
    for number, task in enumerate(comparison.tasks):
        parts.append(one_task(comparison, task, style, number))
    return [*parts, all_runs(comparison, out), conditions(comparison), configurations(comparison), reading(comparison)]


# ---- all together


def overview(comparison: Comparison) -> Section:
    """What there is, and what a reader must be told."""
    runs, missing = comparison.runs, len(comparison.missing)
    states = {state: sum(run.state == state for run in runs) for state in ("finished", "failed")}
    left = len(runs) - sum(states.values())
    text = (
        f"{count(len(comparison.agents), 'agent')} on {count(len(comparison.tasks), 'task')}. Of {len(runs) + missing} runs "
        f"{states['finished']} finished, {states['failed']} failed, {left} under way, {missing} not begun."
    )
    grid = Table("grid", "Finished runs of each agent and task", ["agent", *comparison.tasks])
    for agent in comparison.agents:
        row: list[Cell] = [agent]
        for task in comparison.tasks:
            on_task = comparison.on(agent, task)
            wanted = len(on_task) + sum(cell[:2] == (agent, task) for cell in comparison.missing)
            finished = sum(run.state == "finished" for run in on_task)
            failed = sum(run.state == "failed" for run in on_task)
            told = f", {failed} failed" if failed else ""
            row.append(f"{finished} of {wanted}{told}" if wanted else "not in the grid")
        grid.rows.append(row)
    return Section("overview", "What there is", [text, comparison.words, grid] if comparison.words else [text, grid])


def final_returns(comparison: Comparison) -> Section:
    """Agents by tasks."""
    title = "Return of the final evaluation, mean over seeds [95 % interval]"
    table = Table("final_returns", title, ["agent", *comparison.tasks])
    for agent in comparison.agents:
        finals = [comparison.finals(agent, task) for task in comparison.tasks]
        table.rows.append([agent, *(statistics.mean_over_runs(values) if len(values) else None for values in finals)])
    return Section("returns", "Final returns", [table])


def across_tasks(comparison: Comparison, style: Style) -> list[Section]:
    """Aggregates of normalised scores, curves of them, profiles, and pairs."""
    tasks = comparison.normalised_tasks
    low, high = [comparison.bounds[task][0] for task in tasks], [comparison.bounds[task][1] for task in tasks]
    section = Section("aggregates", "Across tasks")
    if not tasks:
        section.parts.append("Scores cannot be normalised on any task, so there are no aggregates.")
        return [section]
    scores, words = statistics.complete_runs(comparison.matrix(), tasks, comparison.seeds)
    words = [f"{word}." for word in words]
    if not scores:
        section.parts += [words, "So there are no aggregates yet."]
        return [section]
    scores = {agent: statistics.normalise(values, low, high) for agent, values in scores.items()}
    steps, curves = comparison.curve_matrix()
    curves, _ = statistics.complete_runs(curves, tasks, comparison.seeds)
    curves = {agent: statistics.normalise(values, low, high) for agent, values in curves.items()}
    bounds = "; ".join(f"{task} {comparison.bounds[task][0]:g} to {comparison.bounds[task][1]:g}" for task in tasks)
    section.parts.append(f"Scores are normalised: the return that counts as 0, and as 1, is on {bounds}.")
    section.parts += [words] if words else []
    found = statistics.aggregates(scores)
    area = statistics.aggregates(statistics.areas(curves, steps)) if len(steps) > 1 else {}
    columns = ["agent", *METRICS, *(["IQM of the area"] if area else []), "seeds"]
    table = Table("aggregates", f"Normalised scores over {count(len(tasks), 'task')}", columns, digits=3)
    for agent, metrics in found.items():
        row: list[Cell] = [agent, *(metrics[name] for name in METRICS)]
        table.rows.append([*row, *([area[agent]["IQM"]] if area else []), len(scores[agent])])
    section.parts.append(table)
    by_metric = {name: {agent: metrics[name] for agent, metrics in found.items()} for name in METRICS}
    section.parts.append([_metric_picture(name, estimates, style) for name, estimates in by_metric.items()])
    section.files.append(_metrics_picture(by_metric, style))
    return [section, _curves(curves, steps, scores, style), *_pairs(scores)]


def _metric_picture(name: str, estimates: dict[str, Estimate], style: Style) -> Picture:
    def draw(figure: Figure, theme: Theme) -> None:
        axes = figure.subplots()
        draw_estimates(axes, theme, style, estimates, names=True)
        axes.set_title(_direction(name))

    told = ", ".join(f"{agent} {_told(estimate)}" for agent, estimate in estimates.items())
    size = (4.6, 0.9 + 0.36 * len(estimates))
    return render(f"aggregate_{name.replace(' ', '_')}", f"{name}: {told}", "", draw, size)


def _metrics_picture(by_metric: dict[str, dict[str, Estimate]], style: Style) -> Picture:
    def draw(figure: Figure, theme: Theme) -> None:
        row = figure.subplots(1, len(by_metric), squeeze=False)[0]
        for number, (axes, (name, estimates)) in enumerate(zip(row, by_metric.items(), strict=True)):
            draw_estimates(axes, theme, style, estimates, names=number == 0)
            axes.set_title(_direction(name))

    size = (11.0, 0.9 + 0.36 * len(next(iter(by_metric.values()))))
    return render("aggregates", "Aggregates", "", draw, size, on_page=False)


def _direction(name: str) -> str:
    return f"{name} (lower is better)" if name == "optimality gap" else name


def _told(estimate: Estimate) -> str:
    return f"{estimate.point:.3f}" + ("" if estimate.low is None else f" [{estimate.low:.3f}, {estimate.high:.3f}]")


def _curves(curves: dict[str, np.ndarray], steps: np.ndarray, scores: dict[str, np.ndarray], style: Style) -> Section:
    """Sample efficiency and performance profiles."""
    section = Section("curves", "Sample efficiency and performance profiles", level=3)
    pictures = []
    if len(steps) > 1:
        found = statistics.efficiency(curves, steps)
        caption = (
            "IQM of normalised scores at each evaluation. The area in the table above is the mean score from "
            f"{steps[0]:,.0f} to {steps[-1]:,.0f} environment steps."
        )
        alt = f"Sample efficiency. IQM at {steps[-1]:,.0f} environment steps: {ends(found)}"
        labels = ("environment steps", "IQM of scores")
        pictures.append(_curve_picture("sample_efficiency", alt, caption, found, style, *labels))
    else:
        section.parts.append("The runs have no two evaluations at common environment steps: there is no curve over all tasks.")
    found = statistics.profiles(scores, _thresholds(scores))
    caption = "Share of runs whose normalised score is above the threshold; a curve above another everywhere is better."
    shares = ", ".join(f"{agent} {(values > 0.5).mean():.2f}" for agent, values in scores.items())
    alt = f"Performance profiles. Share of runs above a score of 0.5: {shares}"
    pictures.append(_curve_picture("profiles", alt, caption, found, style, "normalised score", "share of runs above it"))
    section.parts.append(pictures)
    return section


def _thresholds(scores: dict[str, np.ndarray]) -> np.ndarray:
    """From 0 to 1, and as far beyond as there are scores: games are played better than by humans, and worse than at random."""
    values = np.concatenate([values.ravel() for values in scores.values()])
    return np.linspace(min(0.0, np.floor(10 * values.min()) / 10), max(1.0, np.ceil(10 * values.max()) / 10), 101)


def _pairs(scores: dict[str, np.ndarray]) -> list[Section]:
    found = statistics.improvements(scores)
    if not found:
        return []
    table = Table(
        "improvement", "Probability of improvement", ["first", "over", "probability", "seeds"], digits=3, text=["over"]
    )
    table.rows = [[one, other, estimate, estimate.runs] for (one, other), estimate in found.items()]
    text = "How likely a run of the first scores above one of the other on the same task; 0.5 says that neither is better."
    section = Section("improvement", "Pairs of agents", [text], level=3)

    def draw(figure: Figure, theme: Theme) -> None:
        draw_pairs(figure.subplots(), theme, found)

    if len(found) <= _MOST_PAIRS:
        told = "; ".join(f"{one} over {other} {_told(estimate)}" for (one, other), estimate in found.items())
        section.parts.append([render("improvement", told, "", draw, (5.0, 0.9 + 0.5 * len(found)))])
    section.parts.append(table)
    return [section]


def _curve_picture(
    name: str, alt: str, caption: str, curves: dict[str, CurveEstimate], style: Style, x_label: str, y_label: str
) -> Picture:
    def draw(figure: Figure, theme: Theme) -> None:
        axes = figure.subplots()
        draw_curves(axes, theme, style, curves, {}, {})
        axes.set(xlabel=x_label, ylabel=y_label)
        add_legend(figure, axes)

    return render(name, alt, caption, draw)


# ---- task by task


def one_task(comparison: Comparison, task: str, style: Style, number: int) -> Section:
    """Curves, returns beside published ones, and probes."""
    section = Section(f"task{number + 1}", task, level=3)
    name = task.replace("/", "-")
    panels = [TaskPanel(comparison, task, clock, style) for clock in (False, True)]
    if not any(panel.curves or panel.unfinished for panel in panels):
        section.parts.append("No run has been evaluated here yet.")
    else:
        if len(comparison.tasks) > 1:
            section.parts.append([task_picture(comparison, task, style, name, task)])
        section.parts.append(
            [
                render(f"{name}_{'clock' if panel.clock else 'steps'}", panel.alt, panel.caption, panel.draw_alone)
                for panel in panels
            ]
        )
    section.parts += [
        *_beside_published(comparison, task, name),
        *_differences(comparison, task, name),
        *_probes(comparison, task, style, name),
        *partner_probes(comparison, task, style, name),
        *subgoal_rates(comparison, task, name),
    ]
    return section


def one_figure(comparison: Comparison, style: Style) -> list[Section]:
    """Of a comparison on one task: all of it in one figure."""
    (task,) = comparison.tasks
    if not any(len(run.curve.mean) for run in comparison.runs):
        return []
    title = comparison.title
    return [Section("figure", "In one figure", [[task_picture(comparison, task, style, task.replace("/", "-"), title)]])]


def _beside_published(comparison: Comparison, task: str, name: str) -> list[str | list[str] | Table | list[Picture] | Details]:
    """Our returns, and those that others published at the same length."""
    runs = [run for run in comparison.runs if run.task == task]
    if not runs:
        return []
    length, env_id = comparison.usual_length(task), runs[0].env
    # a label of its own is a task of our own
    others = published_lengths(env_id) if task == env_id else []
    tables = [
        _one_length(comparison, task, steps, runs, f"{name}_returns" if steps == length else f"{name}_returns_{steps}")
        for steps in sorted({length, *(steps for steps in others if steps < length)})
    ]
    known = [table for table in tables if table.apart is not None]
    if not known:
        ours = [table for table in tables if table.rows][-1:]
        told = f"; there are at {', '.join(f'{steps:,}' for steps in others)}" if others else ""
        return [*ours, f"No published returns are known at {length:,} environment steps{told}."]
    text = (
        "Below the line are published means and standard deviations, as printed. A standard deviation over seeds is no "
        "interval of the mean, and is not drawn. What is known to be measured otherwise is named; an empty field does not say "
        "that all was alike. Before the end of our runs, their evaluation at that very step is shown."
    )
    # ours at the end are shown even where nobody else was so long
    return [*(table for table in tables if table in known or (table is tables[-1] and table.rows)), text]


def _one_length(comparison: Comparison, task: str, steps: int, runs: Sequence[Run], name: str) -> Table:
    """Set apart, and not empty below the line, where others have published returns at so many environment steps."""
    texts = ["source", "measured otherwise"]
    columns = ["method", "return", "std over seeds", "seeds", *texts]
    table = Table(name, f"{task} at {steps:,} environment steps", columns, text=texts)
    for agent in comparison.agents:
        values = comparison.returns_at(agent, task, steps)
        if len(values):
            std = float(values.std(ddof=1)) if len(values) > 1 else None
            table.rows.append([agent, statistics.mean_over_runs(values), std, len(values), "these runs", ""])
    known = published(runs[0].env, steps) if task == runs[0].env else []
    if known and table.rows:
        table.apart = len(table.rows)
        for row in known:
            table.rows.append([row.method, row.mean, row.std, row.seeds, row.source, _all_differences(row.method, runs)])
    return table


def _all_differences(method: str, runs: Sequence[Run]) -> str:
    """Differences to all agents; to some, with their names."""
    configs = {run.label: run.config for run in runs}
    by_entry: dict[str, list[str]] = {}
    for agent, config in configs.items():
        for entry in protocol_differences(method, config):
            by_entry.setdefault(entry, []).append(agent)
    told = [e if len(who) == len(configs) else f"{e} (of {', '.join(who)})" for e, who in by_entry.items()]
    return "; ".join(told)


_Parts = list[str | list[str] | Table | list[Picture] | Details]


def _differences(comparison: Comparison, task: str, name: str) -> _Parts:
    """Pairs of agents: by how much one returns more."""
    finals = {agent: comparison.finals(agent, task) for agent in comparison.agents}
    found = statistics.differences({agent: values for agent, values in finals.items() if len(values)})
    if not found:
        return []
    title = f"{task}: difference of mean returns [95 % interval]"
    table = Table(f"{name}_differences", title, ["first", "minus", "difference", "seeds"], text=["minus"])
    table.rows = [[one, other, estimate, estimate.runs] for (one, other), estimate in found.items()]
    return [table]


def _probes(comparison: Comparison, task: str, style: Style, name: str) -> _Parts:
    """What the report shows of probes."""
    reports = comparison.collected(task, lambda run: run.probed_for("representations"))
    if not reports:
        return []
    title = f"What encoders know on {task}: probes on held-out episodes"
    table = Table(f"{name}_probes", title, ["agent", *_PROBED], digits=3)
    for agent, of_runs in reports.items():
        row: list[Cell] = [agent]
        for path in _PROBED.values():
            values = [value for value in (probed(report, path) for report in of_runs) if value is not None]
            row.append(statistics.mean_over_runs(np.array(values)) if values else None)
        table.rows.append([*row])
    pictures = [
        render(f"{name}_{_file_name(title)}", f"{title}: {_means(values)}", "", _bars(title, values, style), _rows(values))
        for title, values in probe_values(comparison, task).items()
    ]
    text = (
        "Linear probes from the encoder's output to the environment's true state, reported on episodes that neither the agent "
        "nor the probe has seen; beside them a random encoder, the pixels' principal components, and the same encoder trained "
        "on the state."
    )
    return [text, table.without_empty_columns(), pictures]


def _file_name(title: str) -> str:
    return title.replace(" ", "_").replace("²", "2")


#: column, and where it stands in ``probe.json``
_PROBED = {
    "R2": ("trained", "probes", "output", "r2"),
    "R2 of conv": ("trained", "probes", "conv", "r2"),
    "F1": ("trained", "probes", "output", "f1"),
    "R2 random": ("random", "probes", "output", "r2"),
    "R2 of pixels": ("pixel_pca", "probes", "output", "r2"),
    "R2 supervised": ("supervised", "probes", "output", "r2"),
    "effective rank": ("trained", "effective_rank"),
    "retrieval top-1": ("trained", "retrieval", "top1"),
}


def _bars(title: str, values: dict[str, list[float]], style: Style) -> Any:
    def draw(figure: Figure, theme: Theme) -> None:
        axes = figure.subplots()
        draw_bars(axes, theme, style, values, names=True)
        axes.set_title(f"{title}, mean and single runs")

    return draw


def _rows(values: Mapping[str, Any]) -> tuple[float, float]:
    return 4.6, 0.9 + 0.36 * len(values)


def _means(values: Mapping[str, list[float]]) -> str:
    return ", ".join(f"{agent} {np.mean(of_runs):.3f}" for agent, of_runs in values.items())


# ---- how it came about


def all_runs(comparison: Comparison, out: Path) -> Section:
    """Every run, flagged."""
    section = Section("runs", "All runs")
    section.parts.append(_runs_table("runs", "Every run, at its last evaluation", comparison.runs, comparison.agents, out))
    if comparison.tuning:
        title = "Runs on tuning seeds: in no statistic"
        section.parts.append(_runs_table("tuning_runs", title, comparison.tuning, comparison.agents, out))
    envs = {run.env for run in comparison.runs}
    rows = [row for row in read_measured() if row["env"] in envs]
    if rows:
        columns = ["agent", "env", "seed", "env_steps", "final_return", "hours", "config_hash", "revision", "machine", "mark"]
        table = Table("measured", "Recorded with crl's sources (measured.csv)", columns)
        for row in rows:
            table.rows.append(
                [*(row[name] for name in columns[:-1]), "stale: today's recipe or update differs" if row["stale"] else ""]
            )
        section.parts.append(table)
    return section


def _runs_table(name: str, title: str, runs: Sequence[Run], agents: Sequence[str], out: Path) -> Table:
    columns = ["agent", "task", "seed", "state", "return", "at step", "of", "hours", "updates/s", "config", "revision"]
    table = Table(name, title, [*columns, "video", "remarks"], text=["remarks"])
    for run in sorted(runs, key=lambda run: (agents.index(run.label) if run.label in agents else -1, run.task, run.seed)):
        remarks = [run.error] if run.error else []
        remarks += [f"stale: {'; '.join(run.differences)}"] if run.differences else []
        remarks += ["not a recipe of today"] if run.differences is None else []
        hours = float(run.curve.seconds[-1]) / 3600 if len(run.curve.seconds) else None
        speed = run.summary.get("updates_per_second")
        table.rows.append(
            [
                run.label,
                run.task,
                run.seed,
                run.state if run.state == "finished" else f"{run.state}: last evaluation",
                run.last_return,
                run.last_steps,
                run.budget,
                None if hours is None else f"{hours:.2f}",
                float(speed) if speed is not None else None,
                run.config_hash,
                str(run.about.get("revision")),
                [Link(video.stem, _relative(video, out)) for video in run.videos],
                "; ".join(remarks),
            ]
        )
    return table.without_empty_columns()


def _relative(path: Path, out: Path) -> str:
    return quote(Path(os.path.relpath(path.resolve(), out.resolve().parent)).as_posix())


def conditions(comparison: Comparison) -> Section:
    """Machines and versions."""
    columns = ["machine", "runs", "device", "precision", "threads", "python", "versions"]
    table = Table("hardware", "Machines and versions", columns, text=[*columns[2:]])
    groups: dict[tuple[str, ...], int] = {}
    for run in comparison.runs:
        about = run.about
        key = [str(about.get(name, "not noted")) for name in ("machine", "device", "precision")]
        key += [str(run.config["train"].get("threads")), str(about.get("python")), versions_text(about.get("versions") or {})]
        groups[tuple(key)] = groups.get(tuple(key), 0) + 1
    for (machine, *others), number in groups.items():
        table.rows.append([machine, number, *others])
    text = (
        "Hours are of training, evaluations included and pauses not. They compare agents only where machine, threads and "
        "whatever else ran beside them were the same."
    )
    return Section("hardware", "Hardware and versions", [table, text])


def configurations(comparison: Comparison) -> Section:
    """Of each agent, once in full, and what other tasks change."""
    section = Section("configurations", "Configurations")
    for agent in comparison.agents:
        runs = [run for run in comparison.runs if run.label == agent]
        if not runs:
            continue
        first = _recipe(runs[0])
        text = [f"# {runs[0].task}", yaml.safe_dump(first, sort_keys=False)]
        flat, told = flatten(first), {runs[0].task}
        for run in runs:
            if run.task not in told:
                other = flatten(_recipe(run))
                changed = {path: value for path, value in other.items() if flat.get(path, "absent") != value}
                text += [f"# {run.task}, where it differs", yaml.safe_dump(changed, sort_keys=False)]
                told.add(run.task)
        section.parts.append(Details(agent, "\n".join(text)))
    return section


def _recipe(run: Run) -> dict[str, Any]:
    return {key: value for key, value in run.config.items() if key != "run"}


def reading(comparison: Comparison) -> Section:
    """What the numbers mean."""
    few = statistics.MIN_RUNS
    drawn = [a for a in comparison.agents if not all(deterministic(run) for run in comparison.runs if run.label == a)]
    who = "" if len(drawn) == len(comparison.agents) else f"of {', '.join(drawn)} "
    actions = f"actions {who}are drawn, by the same random numbers each time" if drawn else "actions are deterministic"
    lines = [
        "The return of a run is that of its last evaluation, never of its best one. Evaluation episodes are the same for all "
        f"agents and seeds unless something else is said above, {actions}, and no evaluation episode is trained on.",
        f"Intervals are 95 % percentile intervals of a stratified bootstrap: {statistics.REPS} times, as many runs are drawn "
        f"anew within each task (Agarwal et al. 2021, by rliable). With fewer than {few} seeds there are points and no "
        "intervals.",
        "IQM is the mean of the middle half of all runs. Median and mean are over tasks, of each task's mean. The optimality "
        "gap is how far runs stay below 1 on average. The area is that under the normalised curve, divided by its length.",
        "Aggregates are made of seeds that have a return on every task. A run that failed counts with its last return; one "
        "that is still under way does not count.",
        "Many pairs are compared here; an interval that just misses another is no proof.",
    ]
    return Section("reading", "How to read this", [lines])

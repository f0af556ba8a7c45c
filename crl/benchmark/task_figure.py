"""
One task in one figure: return against environment steps, the same runs against wall-clock, what encoders know of the state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from crl.benchmark import statistics
from crl.benchmark.comparison import Comparison, count
from crl.benchmark.figures import Picture, Style, Theme, add_legend, draw_curves, render, row_axis
from crl.benchmark.results import Run
from crl.benchmark.statistics import CurveEstimate, Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: title above the right panel's parts, and where the number stands in ``probe.json``
DRAWN = {
    "probe R²": ("trained", "probes", "output", "r2"),
    "probe F1": ("trained", "probes", "output", "f1"),
    "effective rank": ("trained", "effective_rank"),
}
#: lines to compare the probe's R² with
_BESIDE: dict[str, tuple[str, Any]] = {
    "random encoder": ("random", (0, (8, 2, 1, 2))),
    "encoder trained on the state": ("supervised", "--"),
}


def probed(report: Mapping[str, Any], path: Sequence[str]) -> float | None:
    """
    :param report: what ``probe.json`` says
    :param path: representation, and keys below it
    :return: None where that was not asked for
    """
    # agents that model others are asked something else
    value: Any = report.get("representations")
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return float(value) if isinstance(value, int | float) else None


class TaskPanel:
    """
    Learning curves on one task, against environment steps or hours.

    :param comparison: runs side by side
    :param task: label
    :param clock: against hours of training
    :param style: of agents
    """

    def __init__(self, comparison: Comparison, task: str, clock: bool, style: Style) -> None:
        self.clock, self.style = clock, style
        found = {agent: comparison.task_curve(agent, task, clock) for agent in comparison.agents}
        self.curves = {agent: curve for agent, curve in found.items() if curve is not None}
        self.single = {
            agent: [self._line(run) for run in comparison.counted(agent, task)]
            for agent, curve in self.curves.items()
            if curve.low is None and curve.runs > 1
        }
        under_way = {agent: [r for r in comparison.on(agent, task) if not r.counts and len(r.curve.mean)] for agent in found}
        self.unfinished = {agent: [self._line(run) for run in runs] for agent, runs in under_way.items() if runs}
        self.alt = f"Return on {task} against {self.x_label}. At the end: {ends(self.curves) or 'no run has finished'}"
        self.caption = (
            f"Mean over seeds against {self.x_label}"
            + ("; bands are 95 % intervals of the mean" if any(c.low is not None for c in self.curves.values()) else "")
            + ("; thin lines are single runs of agents with too few seeds for a band" if self.single else "")
            + ("; dotted lines are runs that have not finished" if self.unfinished else "")
            + "."
        )

    @property
    def x_label(self) -> str:
        """With the unit."""
        return "hours of training" if self.clock else "environment steps"

    def _line(self, run: Run) -> tuple[np.ndarray, np.ndarray]:
        return run.curve.seconds / 3600 if self.clock else run.curve.env_steps, run.curve.mean

    def draw(self, axes: Axes, theme: Theme, marks: bool = False) -> None:
        """Into a figure with others."""
        draw_curves(axes, theme, self.style, self.curves, self.single, self.unfinished, marks)
        axes.set(xlabel=self.x_label, ylabel="return")

    def draw_alone(self, figure: Figure, theme: Theme) -> None:
        """Into a figure of its own."""
        axes = figure.subplots()
        self.draw(axes, theme)
        add_legend(figure, axes)


def task_picture(comparison: Comparison, task: str, style: Style, name: str, title: str = "") -> Picture:
    """
    :param comparison: runs side by side
    :param task: label
    :param style: of agents
    :param name: of the picture's files
    :param title: above all; empty for none
    """
    panels = [TaskPanel(comparison, task, clock, style) for clock in (False, True)]
    values = probe_values(comparison, task)
    estimates = {
        what: {agent: statistics.mean_over_runs(np.array(of)) for agent, of in found.items()} for what, found in values.items()
    }
    state = _how_complete(comparison, task)

    def draw(figure: Figure, theme: Theme) -> None:
        axes = figure.subplots(1, 2 + len(values), width_ratios=[4, 4, *[2.1] * len(values)], squeeze=False)[0]
        for panel, part in zip(panels, axes, strict=False):
            panel.draw(part, theme, marks=True)
        axes[1].sharey(axes[0])
        axes[0].set_title("return against environment steps")
        axes[1].set(title="the same runs against wall-clock", ylabel="")
        beside: list[Any] = []
        for number, (what, found) in enumerate(values.items()):
            part = axes[2 + number]
            _draw_runs(part, theme, style, found, estimates[what], names=number == 0)
            part.set_title(what)
            if what == "probe R²":
                beside = _draw_beside(part, theme, comparison, task)
        handles = [_handle(agent, style, theme, _seeds_of(comparison, agent, task)) for agent in comparison.agents]
        if any(panel.unfinished for panel in panels):
            handles.append(_plain_line(theme, ":", "not finished"))
        columns = max(1, min(len(handles + beside), int(figure.get_figwidth() * 11 / (max_length(handles + beside) + 6))))
        legend = figure.legend(
            handles=[*handles, *beside], loc="outside lower center", ncols=columns, handlelength=2.6, columnspacing=1.4
        )
        if state:
            legend.set_title(state)
        if title:
            figure.suptitle(title, fontsize=13)

    told = "; ".join(
        f"{what}: {', '.join(f'{agent} {estimate.point:.2f}' for agent, estimate in of.items())}"
        for what, of in estimates.items()
    )
    alt = f"{title or task}. {panels[0].alt}. {panels[1].alt}." + (f" {told}." if told else "")
    caption = _caption(panels[0], estimates, state)
    return render(name, alt, caption, draw, (9.2 + 2.3 * len(values), 4.4), wide=True)


def probe_values(comparison: Comparison, task: str) -> dict[str, dict[str, list[float]]]:
    """What of :data:`DRAWN` was measured: by title and agent, one number a run."""
    values: dict[str, dict[str, list[float]]] = {}
    for what, path in DRAWN.items():

        def number(run: Run, path: Sequence[str] = path) -> float | None:
            return probed(run.probe, path) if run.probe else None

        found = comparison.collected(task, number)
        if found:
            values[what] = found
    return values


def ends(curves: Mapping[str, CurveEstimate]) -> str:
    """Last points in words."""
    return ", ".join(f"{agent} {curve.point[-1]:.3g}" for agent, curve in curves.items())


def _caption(panel: TaskPanel, estimates: Mapping[str, Mapping[str, Estimate]], state: str) -> str:
    any_band = any(curve.low is not None for curve in panel.curves.values())
    any_single = any(curve.low is None for curve in panel.curves.values())
    words = ["Left: mean return of the evaluations. Middle: the same runs against hours of training."]
    if estimates:
        words.append("Right: what linear probes read from the encoder on held-out episodes, small marks are single runs.")
    if any_band:
        words.append(f"Bands and bars: 95 % stratified bootstrap intervals, from {statistics.MIN_RUNS} seeds on.")
    if any_single:
        words.append(f"Agents with fewer than {statistics.MIN_RUNS} seeds have thin lines for single runs, and no interval.")
    return " ".join([*words, *([f"{state}."] if state else [])])


def _how_complete(comparison: Comparison, task: str) -> str:
    """Empty for a grid that is complete."""
    runs = [run for agent in comparison.agents for run in comparison.on(agent, task)]
    missing = sum(cell[1] == task for cell in comparison.missing)
    finished, failed = (sum(run.state == state for run in runs) for state in ("finished", "failed"))
    planned = len(runs) + missing
    if finished == planned:
        return ""
    told = f", {count(failed, 'run')} failed" if failed else ""
    return f"Incomplete grid: {finished} of {planned} runs have finished{told}"


def _seeds_of(comparison: Comparison, agent: str, task: str) -> str:
    there = len(comparison.counted(agent, task))
    wanted = len(comparison.on(agent, task)) + sum(cell[:2] == (agent, task) for cell in comparison.missing)
    return count(wanted, "seed") if there == wanted else f"{there} of {count(wanted, 'seed')}"


def _handle(agent: str, style: Style, theme: Theme, seeds: str) -> Any:
    from matplotlib.lines import Line2D

    look = {**style.line(agent, theme), "marker": style.mark(agent, theme)["marker"], "markersize": 5}
    return Line2D([], [], label=f"{agent}, {seeds}", **look)


def _plain_line(theme: Theme, line: Any, label: str) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], color=theme.ink, linestyle=line, linewidth=1.1, label=label)


def max_length(handles: Sequence[Any]) -> int:
    """Of their labels, in characters."""
    return max(len(str(handle.get_label())) for handle in handles)


def _draw_runs(
    axes: Axes,
    theme: Theme,
    style: Style,
    values: Mapping[str, Sequence[float]],
    estimates: Mapping[str, Estimate],
    names: bool,
) -> None:
    """A row an agent: single runs, their mean, and its interval where there is one."""
    for row, (agent, of_runs) in enumerate(values.items()):
        mark, estimate = style.mark(agent, theme), estimates[agent]
        if estimate.low is not None and estimate.high is not None:
            axes.plot([estimate.low, estimate.high], [row, row], color=mark["color"], linewidth=5, alpha=0.4)
        axes.plot(of_runs, [row + 0.26] * len(of_runs), **mark, markersize=3, alpha=0.75)
        axes.plot([estimate.point], [row], **mark, markersize=7)
    row_axis(axes, list(values), names, above=0.6, below=0.6)


def _draw_beside(axes: Axes, theme: Theme, comparison: Comparison, task: str) -> list[Any]:
    """Lines at the means of other encoders; for the legend."""
    handles = []
    reports = [run.probe for agent in comparison.agents for run in comparison.on(agent, task) if run.probe]
    for label, (which, line) in _BESIDE.items():
        found = [
            value for value in (probed(report, (which, "probes", "output", "r2")) for report in reports) if value is not None
        ]
        if found:
            axes.axvline(float(np.mean(found)), color=theme.ink, linestyle=line, linewidth=1.1)
            handles.append(_plain_line(theme, line, label))
    return handles

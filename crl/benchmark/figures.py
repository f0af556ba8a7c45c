"""
Figures of a report. Estimates come ready; here they are only drawn. Every figure is drawn for light and for dark pages, and
for paper. An agent has one colour, one line and one mark in all of them, so that colour alone never tells two apart.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from crl.benchmark.statistics import CurveEstimate, Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Theme(NamedTuple):
    """
    :param paper: behind all, in files
    :param ink: of text and axes
    :param faint: of the grid
    :param colors: of agents, in turn
    """

    paper: str
    ink: str
    faint: str
    colors: tuple[str, ...]


# after Okabe and Ito: to be told apart with any kind of colour vision; lighter ones where the page is dark
LIGHT = Theme(
    "#ffffff", "#1c2024", "#d6dade", ("#0072b2", "#c44e00", "#00795a", "#a3488a", "#8a6d00", "#3a3f44", "#56a0d8", "#b3261e")
)
DARK = Theme(
    "#14171a", "#e6e8ea", "#3d444b", ("#5cb3ef", "#ff9b52", "#3ecf9e", "#e59ad0", "#e6c229", "#c3c9cf", "#9ad0f5", "#ff8a80")
)
_LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (7, 2)), (0, (3, 2)))
_MARKS = "osD^vPX*"

#: draws into a figure, with the colours of a theme
Draw = Callable[["Figure", Theme], None]
Lines = Sequence[tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Picture:
    """
    :param name: of its files
    :param alt: what there is to see, for those who do not see it
    :param caption: below it
    :param light: SVG for a light page
    :param dark: SVG for a dark page
    :param png: for slides, white background
    :param pdf: for papers
    :param dark_png: for dark pages elsewhere; of wide ones alone
    :param wide: takes the page's whole width
    """

    name: str
    alt: str
    caption: str
    light: bytes
    dark: bytes
    png: bytes
    pdf: bytes
    dark_png: bytes = b""
    wide: bool = False


class Style:
    """
    How agents look.

    :param agents: labels
    """

    def __init__(self, agents: Sequence[str]) -> None:
        self.numbers = {agent: number for number, agent in enumerate(agents)}

    def line(self, agent: str, theme: Theme) -> dict[str, Any]:
        """Colour and line."""
        number = self.numbers[agent]
        return {"color": theme.colors[number % len(theme.colors)], "linestyle": _LINES[number % len(_LINES)]}

    def mark(self, agent: str, theme: Theme) -> dict[str, Any]:
        """Colour and mark."""
        number = self.numbers[agent]
        return {"color": theme.colors[number % len(theme.colors)], "marker": _MARKS[number % len(_MARKS)], "linestyle": "none"}


def render(
    name: str,
    alt: str,
    caption: str,
    draw: Draw,
    size: tuple[float, float] = (5.0, 3.6),
    on_page: bool = True,
    wide: bool = False,
) -> Picture:
    """
    :param name: of the picture's files
    :param alt: see :class:`Picture`
    :param caption: below it
    :param draw: what draws it
    :param size: in inches
    :param on_page: make SVGs too; False for pictures that only go into files
    :param wide: see :class:`Picture`
    """
    light = _save(draw, LIGHT, size, "svg") if on_page else b""
    return Picture(
        name,
        alt,
        caption,
        light,
        _darkened(light),
        _save(draw, LIGHT, size, "png"),
        _save(draw, LIGHT, size, "pdf"),
        _save(draw, DARK, size, "png") if wide else b"",
        wide,
    )


def _darkened(svg: bytes) -> bytes:
    """The same picture in the dark theme's colours; faster than to draw it again."""
    text = svg.decode()
    for light, dark in zip((LIGHT.ink, LIGHT.faint, *LIGHT.colors), (DARK.ink, DARK.faint, *DARK.colors), strict=True):
        text = text.replace(light, dark)
    return text.encode()


def _save(draw: Draw, theme: Theme, size: tuple[float, float], kind: str) -> bytes:
    import matplotlib
    from matplotlib.figure import Figure

    ink = dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), theme.ink)
    look: Any = {
        **ink,
        "font.size": 10,
        "axes.titlesize": 10,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": theme.faint,
        "grid.linewidth": 0.6,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.facecolor": "none",
        "figure.facecolor": theme.paper if kind in ("png", "pdf") else "none",
        "legend.frameon": False,
        "lines.linewidth": 1.8,
        "svg.hashsalt": "crl",
        "pdf.fonttype": 42,
    }
    data = io.BytesIO()
    with matplotlib.rc_context(look):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure, theme)
        # no date: the same numbers make the same file
        metadata = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[kind]
        figure.savefig(data, format=kind, dpi=200, metadata=metadata)
    return data.getvalue()


def draw_curves(
    axes: Axes,
    theme: Theme,
    style: Style,
    curves: Mapping[str, CurveEstimate],
    single: Mapping[str, Lines],
    unfinished: Mapping[str, Lines],
    marks: bool = False,
) -> None:
    """
    :param axes: to draw on
    :param theme: colours
    :param style: of agents
    :param curves: estimates, with bands where they have intervals
    :param single: runs of agents that have none, drawn thin
    :param unfinished: runs that are in no estimate, drawn thin and dotted
    :param marks: put agents' marks on their lines, about ten each
    """
    for agent, curve in curves.items():
        line = style.line(agent, theme)
        if curve.low is not None and curve.high is not None:
            axes.fill_between(curve.x, curve.low, curve.high, color=line["color"], alpha=0.22, linewidth=0)
        if marks:
            line |= {"marker": style.mark(agent, theme)["marker"], "markersize": 4.5, "markevery": max(1, len(curve.x) // 10)}
        axes.plot(curve.x, curve.point, label=agent, **line)
    for lines, look, told in ((single, "-", False), (unfinished, ":", True)):
        for agent, parts in lines.items():
            for number, (x, y) in enumerate(parts):
                label = f"{agent}, not finished" if told and number == 0 else None
                axes.plot(x, y, color=style.line(agent, theme)["color"], linestyle=look, linewidth=0.9, alpha=0.7, label=label)
    axes.margins(x=0.02)
    if max((curve.x.max() for curve in curves.values()), default=0) >= 1000:
        from matplotlib.ticker import EngFormatter

        axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def draw_estimates(axes: Axes, theme: Theme, style: Style, estimates: Mapping[str, Estimate], names: bool) -> None:
    """
    Points with intervals, one row an agent.

    :param axes: to draw on
    :param theme: colours
    :param style: of agents
    :param estimates: by agent
    :param names: write the agents' names
    """
    for row, (agent, estimate) in enumerate(estimates.items()):
        mark = style.mark(agent, theme)
        if estimate.low is not None and estimate.high is not None:
            axes.plot([estimate.low, estimate.high], [row, row], color=mark["color"], linewidth=4, alpha=0.45)
        axes.plot([estimate.point], [row], **mark, markersize=6)
    row_axis(axes, list(estimates), names, above=0.5, below=0.5)


def row_axis(axes: Axes, agents: Sequence[str], names: bool, above: float, below: float) -> None:
    """
    A row an agent, the first at the top.

    :param axes: of one measure
    :param agents: in their order
    :param names: write the agents' names
    :param above: space over the first row, in rows
    :param below: space under the last row
    """
    axes.set_yticks(range(len(agents)), list(agents) if names else [""] * len(agents))
    axes.set_ylim(len(agents) - 1 + below, -above)
    axes.margins(x=0.12)
    axes.locator_params(axis="x", nbins=4)
    axes.tick_params(axis="y", length=0)


def draw_pairs(axes: Axes, theme: Theme, pairs: Mapping[tuple[str, str], Estimate]) -> None:
    """
    Probabilities of improvement, one row a pair.

    :param axes: to draw on
    :param theme: colours
    :param pairs: by pair
    """
    axes.axvline(0.5, color=theme.ink, linewidth=0.8, linestyle=":")
    for row, estimate in enumerate(pairs.values()):
        if estimate.low is not None and estimate.high is not None:
            axes.plot([estimate.low, estimate.high], [row, row], color=theme.colors[0], linewidth=4, alpha=0.45)
        axes.plot([estimate.point], [row], "o", color=theme.colors[0], markersize=6)
    axes.set_yticks(range(len(pairs)), [f"{one}\nover {other}" for one, other in pairs])
    axes.set_ylim(len(pairs) - 0.5, -0.5)
    axes.set_xlim(-0.03, 1.03)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("probability that the first is better")


def draw_bars(axes: Axes, theme: Theme, style: Style, values: Mapping[str, Sequence[float]], names: bool) -> None:
    """
    A row an agent: the mean, and each run as a small mark.

    :param axes: to draw on
    :param theme: colours
    :param style: of agents
    :param values: of runs, by agent
    :param names: write the agents' names
    """
    for row, (agent, of_runs) in enumerate(values.items()):
        mark = style.mark(agent, theme)
        axes.barh(row, float(np.mean(of_runs)), height=0.55, color=mark["color"], alpha=0.35)
        axes.plot(of_runs, [row] * len(of_runs), **mark, markersize=4)
    axes.set_yticks(range(len(values)), list(values) if names else [""] * len(values))
    axes.set_ylim(len(values) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)


def add_legend(figure: Figure, axes: Axes) -> None:
    """Below the axes, in as many columns as there is room for."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        room = figure.get_figwidth() * 11
        columns = max(1, min(len(labels), int(room // (max(map(len, labels)) + 6))))
        figure.legend(handles, labels, loc="outside lower center", ncols=columns, handlelength=2.6, columnspacing=1.2)

"""What a report says of agents that model others: how soon they tell partners apart, and the return with each of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from crl.benchmark import statistics
from crl.benchmark.comparison import Comparison
from crl.benchmark.figures import Picture, Style, Theme, add_legend, draw_curves, render
from crl.benchmark.statistics import CurveEstimate
from crl.benchmark.tables import Cell, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: label of the ways of acting
_EGOS = {"agent": "in episodes of each agent's own", "random": "in episodes of random actions, the same for all agents"}


def partner_probes(comparison: Comparison, task: str, style: Style, name: str) -> list[str | Table | list[Picture]]:
    """
    :param comparison: runs side by side
    :param task: label
    :param style: of agents
    :param name: of the task in files
    :return: nothing where no run was asked who its partners were
    """
    reports = comparison.collected(task, lambda run: run.probed_for("identification"))
    if not reports:
        return []
    text = (
        "A linear probe is asked who the partner is, after so many observations, of episodes that it was not fitted to; "
        "shorter episodes count with all that they had. Numbers are shares of right answers, mean over runs."
    )
    parts: list[str | Table | list[Picture]] = [text]
    pictures = []
    for ego, where in _EGOS.items():
        parts.append(_accuracy(reports, ego, f"Who the partner is on {task}, {where}", f"{name}_partners_{ego}"))
        picture = _picture(reports, ego, where, style, f"{name}_partners_{ego}")
        pictures += [] if picture is None else [picture]
    return [*parts, pictures, _returns(reports, f"Return with each partner on {task}", f"{name}_partner_returns")]


def _values(reports: Sequence[Mapping[str, Any]], ego: str, encoder: str) -> dict[int, list[float]]:
    """Accuracy of each run by moment."""
    found: dict[int, list[float]] = {}
    for report in reports:
        for moment, accuracy in report["identification"][ego]["accuracy"].get(encoder, {}).items():
            found.setdefault(int(moment), []).append(float(accuracy["value"]))
    return found


def _accuracy(reports: Mapping[str, Sequence[Mapping[str, Any]]], ego: str, title: str, name: str) -> Table:
    parts = [report["identification"][ego] for of_agent in reports.values() for report in of_agent]
    moments = sorted({int(moment) for part in parts for of in part["accuracy"].values() for moment in of})
    table = Table(name, title, ["agent", "encoder", *map(str, moments), "chance"], digits=3, text=["encoder"])
    for agent, of_agent in reports.items():
        chance = float(np.mean([report["identification"][ego]["chance"] for report in of_agent]))
        for encoder in ("trained", "random", "supervised"):
            values = _values(of_agent, ego, encoder)
            if values:
                cells: list[Cell] = [
                    statistics.mean_over_runs(np.array(values[moment])) if moment in values else None for moment in moments
                ]
                table.rows.append([agent, encoder, *cells, chance])
    return table


def _picture(
    reports: Mapping[str, Sequence[Mapping[str, Any]]], ego: str, where: str, style: Style, name: str
) -> Picture | None:
    found = {agent: _values(of_agent, ego, "trained") for agent, of_agent in reports.items()}
    curves = {agent: _curve(values) for agent, values in found.items() if values}
    if not curves:
        return None

    def draw(figure: Figure, theme: Theme) -> None:
        axes = figure.subplots()
        draw_curves(axes, theme, style, curves, {}, {})
        axes.set(xlabel="observations", ylabel="right answers", xscale="log")
        add_legend(figure, axes)

    told = ", ".join(f"{agent} {curve.point[-1]:.2f} after {curve.x[-1]:g}" for agent, curve in curves.items())
    return render(name, f"Who the partner is, {where}: {told}", f"Trained encoders, {where}.", draw)


def _curve(values: Mapping[int, Sequence[float]]) -> CurveEstimate:
    moments = sorted(values)
    estimates = [statistics.mean_over_runs(np.array(values[moment])) for moment in moments]
    bands = [[e.low for e in estimates], [e.high for e in estimates]]
    low, high = (None if None in band else np.array(band, dtype=float) for band in bands)
    return CurveEstimate(np.array(moments, dtype=float), np.array([e.point for e in estimates]), low, high, estimates[0].runs)


def _returns(reports: Mapping[str, Sequence[Mapping[str, Any]]], title: str, name: str) -> Table:
    partners = list(dict.fromkeys(p for of_agent in reports.values() for report in of_agent for p in report["returns"]))
    table = Table(name, title, ["agent", *partners], digits=3)
    for agent, of_agent in reports.items():
        row: list[Cell] = [agent]
        for partner in partners:
            values = [float(report["returns"][partner]["value"]) for report in of_agent if partner in report["returns"]]
            row.append(statistics.mean_over_runs(np.array(values)) if values else None)
        table.rows.append(row)
    return table

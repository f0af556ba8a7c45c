"""What a report says of sub-goals: Crafter's score, beside published ones, and success rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from crl.benchmark import statistics
from crl.benchmark.comparison import Comparison
from crl.benchmark.published import published
from crl.benchmark.subgoals import LATE, SubgoalRates
from crl.benchmark.tables import Cell, Table


def subgoal_rates(comparison: Comparison, task: str, name: str) -> list[str | Table]:
    """
    :param comparison: runs side by side
    :param task: label
    :param name: of the task in files
    :return: nothing where no run counted sub-goals
    """
    rates = comparison.collected(task, lambda run: run.subgoals)
    if not rates:
        return []
    text = (
        "Success rates, in percent, are the share of training episodes in which a sub-goal was reached. The score is a "
        "geometric mean of them over all episodes from the first step on (Hafner 2021), not a return."
    )
    length = comparison.usual_length(task)
    env_id = next(run.env for run in comparison.runs if run.task == task)
    columns = ["method", "score", "std over seeds", "seeds", "source"]
    scores = Table(f"{name}_scores", f"Crafter's score on {task} at {length:,} environment steps", columns, text=["source"])
    for agent, found in rates.items():
        values = np.array([of_run.score for of_run in found])
        std = float(values.std(ddof=1)) if len(values) > 1 else None
        scores.rows.append([agent, statistics.mean_over_runs(values), std, len(values), "these runs"])
    known = published(env_id, length, "score") if task == env_id else []
    if known:
        scores.apart = len(scores.rows)
        scores.rows += [[row.method, row.mean, row.std, row.seeds, row.source] for row in known]
    shown: list[str | Table] = [text, scores, _by_subgoal(rates, "whole", f"Success rates on {task}", f"{name}_subgoals")]
    if any(of_run.late for found in rates.values() for of_run in found):
        title = f"Success rates on {task}, episodes that ended in the last {LATE:,} environment steps"
        shown.append(_by_subgoal(rates, "late", title, f"{name}_subgoals_late"))
    return shown


def _by_subgoal(rates: Mapping[str, Sequence[SubgoalRates]], part: str, title: str, name: str) -> Table:
    names = list(dict.fromkeys(key for found in rates.values() for of_run in found for key in getattr(of_run, part)))
    table = Table(name, title, ["sub-goal", *rates])
    for subgoal in names:
        row: list[Cell] = [subgoal]
        for found in rates.values():
            values = [getattr(of_run, part)[subgoal] for of_run in found if subgoal in getattr(of_run, part)]
            row.append(statistics.mean_over_runs(np.array(values)) if values else None)
        table.rows.append(row)
    return table

"""Runs' folders from what ``measured.csv`` keeps: a grid that was computed in parts goes on, and is drawn, as one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crl.agents.family import update_of
from crl.agents.recipes import family_of, resolve
from crl.benchmark.grid import Cell
from crl.benchmark.record import MEASURED, curve_file, probe_file, subgoals_file
from crl.benchmark.results import config_hash
from crl.runs.folder import RunFolder, Table, write_atomically
from crl.runs.lengths import action_repeat, agent_steps


def restore(cells: Sequence[Cell], out: Path, table: Path = MEASURED) -> list[Path]:
    """
    Lay finished runs where a benchmark looks for them: configuration, learning curve, summary, and what was probed. Weights
    are not kept, so that such a run can be reported and skipped, but not filmed or probed.

    :param cells: of the benchmark; one whose folder is there already stays as it is
    :param out: folder of the benchmark
    :param table: CSV file, see :func:`crl.benchmark.record.record`
    :return: folders that were made
    """
    rows = Table(table).rows()
    made = []
    for cell in cells:
        folder = RunFolder(cell.folder(out))
        found = None if folder.config_file.exists() else _recorded(cell, rows)
        if found is None or not curve_file(table, found[0]).is_file():
            continue
        row, config = found
        curve, steps, env_steps = curve_file(table, row), agent_steps(config), int(row["env_steps"])
        folder.create({**config, "run": {**_about(row), "steps": steps, "action_repeat": action_repeat(config)}})
        write_atomically(folder.eval_file, curve.read_bytes())
        folder.update_summary(
            state="finished",
            agent=row["agent"],
            env=row["env"],
            seed=cell.seed,
            steps=steps,
            env_steps=env_steps,
            seconds=3600 * float(row["hours"]),
            updates_per_second=float(row["updates_per_second"]),
            final_return=float(row["final_return"]),
            eval_episodes=int(row["eval_episodes"]),
            **({"peak_memory_gb": float(row["memory_gb"])} if row.get("memory_gb") else {}),
        )
        probe = probe_file(table, row)
        if probe.is_file():
            write_atomically(folder.path / "probe" / "recorded" / "probe.json", probe.read_bytes())
        subgoals = subgoals_file(table, row)
        if subgoals.is_file():
            write_atomically(folder.path / "subgoals.json", subgoals.read_bytes())
        made.append(folder.path)
    return made


def _recorded(cell: Cell, rows: Sequence[dict[str, str]]) -> tuple[dict[str, str], dict[str, Any]] | None:
    """The last row of the cell's run, and the run's configuration."""
    for row in reversed(rows):
        if (row["agent"], row["env"], row["seed"]) == (cell.agent, cell.task.env, str(cell.seed)):
            config = resolve(cell.agent, cell.task.env, {**cell.overrides, "train.threads": row["threads"] or None})
            # a run of an update of another form is to be made again
            same_update = update_of(row) == family_of(cell.agent).update
            if row["config_hash"] == config_hash(config) and same_update:
                return row, config
    return None


def _about(row: dict[str, str]) -> dict[str, Any]:
    return {
        "seed": int(row["seed"]),
        "precision": row["precision"],
        "versions": dict(entry.split("=", 1) for entry in row["versions"].split()),
        "machine": row["machine"],
        "revision": row["revision"],
        "update": update_of(row),
    }

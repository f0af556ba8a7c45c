"""Rows of ``measured.csv``: what finished runs of ours measured, at which configuration, revision, versions and machine."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from crl.agents.family import update_of
from crl.agents.recipes import family_of, flatten, resolve
from crl.benchmark.grid import TUNING_SEEDS
from crl.benchmark.results import config_hash, find_runs, newest_probe, planned_in, plans_for
from crl.benchmark.subgoals import SubgoalRates, as_json, read_rates
from crl.runs.folder import RunFolder, RunFolderError, Table, write_atomically
from crl.runs.return_text import return_digits

MEASURED = Path(__file__).parent / "data" / "measured.csv"
KEYS = ("agent", "env", "seed", "config_hash", "revision")


class RecordError(ValueError):
    """A run whose numbers cannot be kept; the message says why."""


def measured_row(path: Path) -> dict[str, Any]:
    """
    :param path: folder of a finished run
    :return: final return (never of a best checkpoint) and what it came about under; ``set`` holds, as JSON, the fields that
        were asked for beside the recipe: by the benchmark's plan, or, of a run by itself, those that differ from it now
    :raises RecordError: when the run has not finished, or comes from sources that no commit holds
    :raises crl.runs.folder.RunFolderError: when it is no run
    """
    folder = RunFolder(path)
    config, summary = folder.config(), folder.summary()
    if summary.get("state") != "finished":
        raise RecordError(f"{path} is {summary.get('state', 'unknown')}, only finished runs count: crl resume {path}")
    about = config.pop("run")
    if about["seed"] in TUNING_SEEDS:
        raise RecordError(f"{path} ran on the tuning seed {about['seed']}, and such runs are never reported")
    if about["revision"] is None or about["revision"].endswith("-dirty"):
        raise RecordError(f"{path} ran at revision {about['revision']}, which nobody can look up")
    if not math.isfinite(summary["final_return"]):
        raise RecordError(f"{path} ended with a return that is no number")
    std, mean = float(Table(folder.eval_file).rows()[-1]["std"]), summary["final_return"]
    return {
        "agent": config["agent"],
        "env": config["env"]["id"],
        "seed": about["seed"],
        "env_steps": summary["env_steps"],
        "final_return": round(mean, return_digits(mean)),
        "std_over_episodes": round(std, return_digits(std)),
        "eval_episodes": summary["eval_episodes"],
        "updates_per_second": summary["updates_per_second"],
        "hours": round(summary["seconds"] / 3600, 2),
        "memory_gb": summary.get("peak_memory_gb", ""),
        "precision": about["precision"],
        "threads": config["train"]["threads"],
        "config_hash": config_hash(config),
        "revision": about["revision"],
        "update": update_of(about),
        "versions": " ".join(f"{name}={version}" for name, version in sorted(about["versions"].items())),
        "machine": about["machine"],
        "set": json.dumps(_asked_for(path, config), sort_keys=True),
    }


def _asked_for(path: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    planned = planned_in(plans_for(path), path)
    if planned is not None:
        return {**planned.overrides, "train.threads": config["train"]["threads"]}
    recipe, there = flatten(resolve(config["agent"], config["env"]["id"])), flatten(config)
    return {path: value for path, value in there.items() if recipe.get(path) != value}


def record(path: Path, table: Path = MEASURED) -> dict[str, Any]:
    """
    Write a run's row, which replaces one of the same run, its learning curve into ``curves/`` beside the table, what its
    newest probe found into ``probes/``, and how often it reached sub-goals into ``subgoals/``.

    :param path: folder of a finished run
    :param table: CSV file
    :return: the row
    :raises RecordError: see :func:`measured_row`
    """
    row = measured_row(path)
    rows: list[Mapping[str, Any]] = [
        old for old in read_measured(table) if any(str(old[key]) != str(row[key]) for key in KEYS)
    ]
    # of one run at several revisions the last one recorded comes last
    rows = sorted([*rows, row], key=lambda old: [str(old[key]) for key in KEYS[:-1]])
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(row), restval="", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(table, text.getvalue().encode())
    write_atomically(curve_file(table, row), RunFolder(path).eval_file.read_bytes())
    probe, rates = _probe(path), _rates(path)
    if probe is not None:
        write_atomically(probe_file(table, row), probe)
    if rates is not None:
        write_atomically(subgoals_file(table, row), as_json(rates))
    return row


def _probe(path: Path) -> bytes | None:
    """Of the newest one, what is kept: where it lay is nobody's concern elsewhere."""
    probe = newest_probe(path)
    if probe is None:
        return None
    kept = {key: value for key, value in probe.items() if key not in ("run", "folder")}
    return (json.dumps(kept, indent=1) + "\n").encode()


def _rates(path: Path) -> SubgoalRates | None:
    about = RunFolder(path).config()["run"]
    repeat = int(about["action_repeat"])
    return read_rates(path, repeat, int(about["steps"]) * repeat)


class Recorded(NamedTuple):
    """
    What became of a run's numbers.

    :param path: folder of the run
    :param kept: whether they are in the table
    :param words: what was done, or why nothing
    """

    path: Path
    kept: bool
    words: str


def record_all(folder: Path, table: Path = MEASURED) -> list[Recorded]:
    """
    Record every finished run in a folder, such as that of a benchmark. What is recorded already is left as it is, but for a
    run that was probed anew.

    :param folder: of a run, or with runs below it
    :param table: CSV file
    :return: one entry a run, unfinished ones and those on tuning seeds included
    :raises RecordError: when there is no run
    """
    paths = find_runs(folder) if folder.is_dir() else []
    if not paths:
        raise RecordError(f"no runs in {folder}: a run's folder holds config.yaml, eval.csv and summary.json")
    found = []
    for path in paths:
        try:
            row = measured_row(path)
        except (RecordError, RunFolderError) as error:
            found.append(Recorded(path, False, str(error)))
            continue
        told = f"{row['agent']} on {row['env']}, seed {row['seed']}: {row['final_return']} after {row['env_steps']} steps"
        as_written = {key: "" if value is None else str(value) for key, value in row.items()}
        there = any(as_written.items() <= old.items() for old in Table(table).rows())
        probe, kept = _probe(path), probe_file(table, row)
        whole = curve_file(table, row).exists() and (probe is None or (kept.exists() and kept.read_bytes() == probe))
        whole = whole and (_rates(path) is None or subgoals_file(table, row).exists())
        if there and whole:
            told += ", recorded already"
        else:
            record(path, table)
        stale = _is_stale(row, json.loads(row["set"]))
        found.append(Recorded(path, True, f"{told}; stale: today's recipe or update differs" if stale else told))
    return found


def curve_file(table: Path, row: Mapping[str, Any]) -> Path:
    """Of a row's learning curve."""
    return table.parent / "curves" / f"{curve_name(row)}.csv"


def probe_file(table: Path, row: Mapping[str, Any]) -> Path:
    """Of what was probed; not there for most runs."""
    return table.parent / "probes" / f"{curve_name(row)}.json"


def subgoals_file(table: Path, row: Mapping[str, Any]) -> Path:
    """Of success rates; there for environments that report sub-goals."""
    return table.parent / "subgoals" / f"{curve_name(row)}.json"


def curve_name(row: Mapping[str, Any]) -> str:
    """Of a run's curve: as many as there are rows."""
    return "-".join([row["agent"], row["env"].replace("/", "-"), f"seed{row['seed']}", row["config_hash"], row["revision"]])


def read_measured(table: Path = MEASURED) -> list[dict[str, Any]]:
    """
    :param table: CSV file
    :return: its rows as text, each with ``stale``: whether the agent's current recipe, with the same fields changed, would no
        longer be the run that was measured, or its update has another form now (:class:`crl.agents.family.Family`)
    """
    rows: list[dict[str, Any]] = []
    for row in Table(table).rows():
        # rows from before this column was kept were of unchanged recipes
        before = {"train.env_steps": row["env_steps"], "train.threads": row["threads"]}
        changed = json.loads(row["set"]) if row.get("set") else before
        rows.append({**row, "stale": _is_stale(row, changed)})
    return rows


def _is_stale(row: Mapping[str, Any], changed: Mapping[str, Any]) -> bool:
    return _hash_now(row, changed) != row["config_hash"] or update_of(row) != family_of(row["agent"]).update


def _hash_now(row: Mapping[str, str], changed: Mapping[str, Any]) -> str | None:
    try:
        return config_hash(resolve(row["agent"], row["env"], changed))
    except ValueError:  # the recipe is gone, or a field of it
        return None

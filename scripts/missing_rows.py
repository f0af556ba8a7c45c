"""A table of experiments that grows row by row, so that a script can be stopped and started again."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch as th

from crl.compute import tune_allocator


def on_one_thread() -> None:
    """How experiments on the toy are run; before anything large is computed."""
    tune_allocator()
    th.set_num_threads(1)


def fill(
    out: Path,
    columns: Sequence[str],
    experiments: Iterable[Mapping[str, Any]],
    run: Callable[..., Mapping[str, Any]],
    length: tuple[str, int],
    fail: Callable[[str], Any],
) -> None:
    """
    Make the rows that are missing.

    :param out: CSV file
    :param columns: of a row
    :param experiments: columns that tell a row from the others, in the order of running
    :param run: called with an experiment's columns, returns the row
    :param length: a column and its value that all rows share: rows of different length are not comparable
    :param fail: told when the file holds rows of another length; does not return
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    name, value = length
    for experiment in experiments:
        rows = list(csv.DictReader(out.open())) if out.exists() else []
        if any(row[name] != str(value) for row in rows):
            fail(f"{out} holds rows of another number of {name} than {value}: choose another --out")
        if any(all(row[key] == str(wanted) for key, wanted in experiment.items()) for row in rows):
            continue
        row = run(**experiment)
        new = not out.exists()
        with out.open("a", newline="") as file:
            writer = csv.DictWriter(file, columns)
            if new:
                writer.writeheader()
            writer.writerow(row)
        print(row, flush=True, file=sys.stderr)

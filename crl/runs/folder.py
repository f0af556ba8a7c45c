"""What lies where in a run's folder, and how it is written so that a crash leaves no half file. Pure Python."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml


class RunFolderError(ValueError):
    """A folder that is no run, or already is one; the message says what to do."""


def write_atomically(path: Path, data: bytes) -> None:
    """Either the old file or the whole new one is there, whatever happens."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


class RunFolder:
    """
    ``config.yaml`` (resolved, with versions), ``progress.csv``, ``eval.csv``, TensorBoard events, ``checkpoints/``,
    ``video/``, ``summary.json``.

    :param path: of the folder
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config_file = self.path / "config.yaml"
        self.summary_file = self.path / "summary.json"
        self.progress_file = self.path / "progress.csv"
        self.eval_file = self.path / "eval.csv"
        self.checkpoints = self.path / "checkpoints"
        self.video = self.path / "video"

    @staticmethod
    def default_path(suite: str, agent: str, env_id: str, seed: int) -> Path:
        """``runs/<suite>/<agent>/<env>/seed<k>``."""
        return Path("runs") / suite / agent / env_id.replace("/", "-") / f"seed{seed}"

    def create(self, config: Mapping[str, Any]) -> None:
        """
        :param config: plain values
        :raises RunFolderError: when there is a run already
        """
        if self.config_file.exists():
            state = self.summary().get("state", "unknown")
            raise RunFolderError(
                f"{self.path} holds a run already ({state}): go on by 'crl resume {self.path}', or choose another --out"
            )
        self.path.mkdir(parents=True, exist_ok=True)
        write_atomically(self.config_file, yaml.safe_dump(dict(config), sort_keys=False).encode())

    def config(self) -> dict[str, Any]:
        """
        :raises RunFolderError: when this is no run
        """
        if not self.path.is_dir():
            raise RunFolderError(f"no folder {self.path}: give the folder of a run (it holds config.yaml)")
        if not self.config_file.is_file():
            found = sorted(str(file.parent) for file in self.path.glob("**/config.yaml"))[:3]
            hint = f" Runs below it: {', '.join(found)}" if found else ""
            raise RunFolderError(f"{self.path} is no run: it has no config.yaml.{hint}")
        try:
            config = yaml.safe_load(self.config_file.read_text())
        except yaml.YAMLError as error:
            raise RunFolderError(f"{self.config_file} cannot be read: {error}") from error
        if not isinstance(config, dict):
            raise RunFolderError(f"{self.config_file} holds no configuration")
        return config

    def summary(self) -> dict[str, Any]:
        """What ``summary.json`` says; empty when there is none."""
        if not self.summary_file.is_file():
            return {}
        summary: dict[str, Any] = json.loads(self.summary_file.read_text())
        return summary

    def update_summary(self, **values: Any) -> None:
        """Change some entries of ``summary.json``."""
        merged = {**self.summary(), **values}
        write_atomically(self.summary_file, (json.dumps(merged, indent=2, default=float) + "\n").encode())


class Table:
    """
    A CSV file that grows by rows and, now and then, by columns, and that a resumed run cuts back to where it goes on.

    :param path: of the file
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def rows(self) -> list[dict[str, str]]:
        """All rows, as text."""
        if not self.path.is_file():
            return []
        with self.path.open(newline="") as file:
            return list(csv.DictReader(file))

    def append(self, row: Mapping[str, Any]) -> None:
        """
        :param row: new columns may appear at any time
        """
        rows = self.rows() if self.path.is_file() else []
        columns = list(rows[0]) if rows else []
        if rows and set(row) <= set(columns):
            with self.path.open("a", newline="") as file:
                csv.DictWriter(file, columns, restval="").writerow(row)
            return
        self._write([*rows, {key: str(value) for key, value in row.items()}])

    def cut(self, column: str, last: float) -> None:
        """Drop rows whose ``column`` is above ``last``."""
        self._write([row for row in self.rows() if row.get(column) and float(row[column]) <= last])

    def _write(self, rows: list[dict[str, str]]) -> None:
        columns = list(dict.fromkeys(key for row in rows for key in row))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_name(self.path.name + ".tmp")
        with temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns, restval="")
            writer.writeheader()
            writer.writerows(rows)
        os.replace(temporary, self.path)

"""What lies where in a run's folder, and how it is written so that a crash leaves no half file. Pure Python."""

from __future__ import annotations

import csv
import difflib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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
        self._made: list[Path] = []

    @staticmethod
    def default_path(suite: str, agent: str, env_id: str, seed: int) -> Path:
        """``runs/<suite>/<agent>/<env>/seed<k>``; of an agent that is a function, the function's name."""
        return Path("runs") / suite / agent.rpartition(":")[2] / env_id.replace("/", "-") / f"seed{seed}"

    def check_free(self) -> None:
        """
        :raises RunFolderError: when there is a run already, or a file where the folder should be
        """
        if self.config_file.exists():
            state = self.summary().get("state", "unknown")
            raise RunFolderError(
                f"{self.path} holds a run already ({state}): go on by 'crl resume {self.path}', or choose another --out"
            )
        file = next((part for part in (self.path, *self.path.parents) if part.exists() and not part.is_dir()), None)
        if file is not None:
            raise RunFolderError(f"{self.path} cannot be a run's folder: {file} is a file. Choose another --out")

    def create(self, config: Mapping[str, Any]) -> None:
        """
        :param config: plain values
        :raises RunFolderError: when there is a run already, or no folder can be made
        """
        self.check_free()
        self._made = [part for part in (self.path, *self.path.parents) if not part.exists()]
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_atomically(self.config_file, yaml.safe_dump(dict(config), sort_keys=False).encode())
        except OSError as error:
            raise RunFolderError(f"cannot write to {self.path} ({error.strerror}): choose another --out") from error

    def discard(self) -> None:
        """Remove what :meth:`create` made, for a run that turns out not to begin; files of others stay."""
        for file in (self.config_file, self.summary_file, self._lock_file):
            file.unlink(missing_ok=True)
        for folder in self._made:
            if any(folder.iterdir()):
                break
            folder.rmdir()

    def config(self) -> dict[str, Any]:
        """
        :raises RunFolderError: when this is no run; names the nearest ones
        """
        if not self.path.is_dir():
            raise RunFolderError(
                f"no folder {self.path}: give the folder of a run (it holds config.yaml).{_runs_near(self.path)}"
            )
        if not self.config_file.is_file():
            raise RunFolderError(f"{self.path} is no run: it has no config.yaml.{_runs_near(self.path)}")
        try:
            config = yaml.safe_load(self.config_file.read_text())
        except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
            raise RunFolderError(f"{self.config_file} cannot be read: {error}") from error
        lacking = [part for part in _PARTS if not isinstance(config, dict) or not isinstance(config.get(part), dict)]
        if lacking:
            raise RunFolderError(f"{self.config_file} is not of a run: it lacks {', '.join(lacking)}.{_runs_near(self.path)}")
        return dict(config)

    def has_checkpoint(self) -> bool:
        """Whether a checkpoint was finished, sound or not."""
        return any(self.checkpoints.glob("step*/manifest.json"))

    def summary(self) -> dict[str, Any]:
        """What ``summary.json`` says; empty when there is none that can be read."""
        try:
            summary = json.loads(self.summary_file.read_text())
        except (OSError, ValueError):
            return {}
        return summary if isinstance(summary, dict) else {}

    def update_summary(self, **values: Any) -> None:
        """Change some entries of ``summary.json``."""
        data = (json.dumps({**self.summary(), **values}, indent=2, default=float) + "\n").encode()
        try:
            write_atomically(self.summary_file, data)
        except OSError:
            if not self.summary_file.is_file():
                raise
            # a full disk has room for no second file, but for the bytes of this one
            with self.summary_file.open("r+b") as file:
                file.write(data)
                file.truncate()

    @property
    def _lock_file(self) -> Path:
        return self.path / ".lock"

    @contextmanager
    def held(self) -> Iterator[None]:
        """
        One process at a time: a second one would append to the same tables and frames. The kernel lets go of it when the
        process ends, however it does.

        :raises RunFolderError: when another process has it
        """
        try:
            import fcntl
        except ImportError:  # Windows
            yield
            return
        try:
            lock = self._lock_file.open("w")
        except OSError as error:
            raise RunFolderError(f"cannot write to {self.path} ({error.strerror})") from error
        with lock as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise RunFolderError(f"{self.path} is being trained by another process: wait for it, or end it") from error
            except OSError:
                pass  # a file system without locks
            yield

    def is_held(self) -> bool:
        """Whether another process trains in it just now."""
        if not self._lock_file.exists():
            return False
        try:
            with self.held():
                return False
        except RunFolderError:
            return True


#: what a run's configuration is made of, as far as running it goes
_PARTS = ("run", "env", "train")


def _runs_near(path: Path) -> str:
    """Runs that may have been meant: in, beside and below the nearest folder there is, and in ``./runs``."""
    base = next((part for part in (path, *path.parents) if part.is_dir()), Path())
    # as deep as runs lie, and no deeper: somebody's whole home may be below
    patterns = [(base, "*/" * depth) for depth in range(1, 3)] + [(Path("runs"), "*/" * depth) for depth in range(1, 5)]
    found = [str(file.parent) for folder, stars in patterns for file in sorted(folder.glob(f"{stars}config.yaml"))]
    near = difflib.get_close_matches(str(path), list(dict.fromkeys(found)), n=3, cutoff=0.0)
    return f" Nearest runs: {', '.join(near)}" if near else ""


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
            lines = file.readlines()
        if lines and not lines[-1].endswith("\n"):
            lines.pop()  # cut off, by a full disk say
        return list(csv.DictReader(lines))

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

"""Runs a grid on this machine: as many processes as fit, each in a folder of its own, until every cell is done."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from crl.benchmark.grid import Cell, same_run
from crl.runs.folder import RunFolder, RunFolderError, write_atomically
from crl.runs.stop import PAUSE_FILE, STOPPED, StopRequest

State = Literal["waiting", "running", "elsewhere", "finished", "failed"]
#: a run that crashes is taken up once more, with the same seed
ATTEMPTS = 2


class BenchError(ValueError):
    """A benchmark that cannot go on in its folder; the message says what to do."""


@dataclass
class Job:
    """
    One cell on its way.

    :param cell: what to run
    :param folder: of the run
    :param attempts: crashes so far
    :param process: while it runs
    """

    cell: Cell
    folder: RunFolder
    attempts: int = 0
    process: subprocess.Popen[bytes] | None = None
    state: State = "waiting"
    error: str = ""

    @cached_property
    def total_steps(self) -> int:
        """Agent steps of the whole run; its folder must be there."""
        return int(self.folder.config()["run"]["steps"])


@dataclass
class Bench:
    """
    A grid and the folder it lies in.

    :param cells: in the order of starting
    :param out: folder; each run's is below
    :param workers: runs at a time
    :param threads: of each run
    :param checkpoint_every: agent steps between checkpoints of each run
    """

    cells: Sequence[Cell]
    out: Path
    workers: int
    threads: int = 1
    checkpoint_every: int = 2500
    jobs: list[Job] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.workers < 1 or self.threads < 1:
            raise BenchError(f"--workers {self.workers}, --threads {self.threads}: at least 1")
        crashes = self._noted_crashes()
        for cell in self.cells:
            folder = RunFolder(cell.folder(self.out))
            job = Job(cell, folder, crashes.get(cell.name, 0))
            if folder.config_file.exists():
                differ = same_run(cell, folder.config())
                if differ:
                    raise BenchError(
                        f"{folder.path} holds a run with another configuration ({'; '.join(differ[:3])}"
                        f"{' ...' if len(differ) > 3 else ''}): choose another --out, or move it away"
                    )
            self.jobs.append(job)
            self._look(job)

    # ---- state

    @property
    def pause_file(self) -> Path:
        """While it is there, runs wait."""
        return self.out / "pause"

    @property
    def _notes(self) -> Path:
        return self.out / "bench.json"

    def _noted_crashes(self) -> dict[str, int]:
        try:
            noted = json.loads(self._notes.read_text())["crashes"]
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BenchError(
                f"{self._notes} cannot be read ({error}): move it away; crashed runs are tried anew then"
            ) from error
        return dict(noted)

    def _note(self) -> None:
        crashes = {job.cell.name: job.attempts for job in self.jobs if job.attempts}
        write_atomically(self._notes, (json.dumps({"crashes": crashes}, indent=1) + "\n").encode())

    def _look(self, job: Job) -> None:
        """What the folder says of a job that has no process."""
        summary = job.folder.summary()
        if summary.get("state") == "finished":
            job.state = "finished"
        elif job.attempts >= ATTEMPTS:
            job.state, job.error = "failed", str(summary.get("error") or "crashed")
        else:
            job.state = "elsewhere" if job.folder.is_held() else "waiting"

    def count(self, state: State) -> int:
        """Jobs in that state."""
        return sum(job.state == state for job in self.jobs)

    # ---- running

    @contextmanager
    def _alone(self) -> Any:
        """One runner a folder."""
        self.out.mkdir(parents=True, exist_ok=True)
        try:
            with RunFolder(self.out).held():
                yield
        except RunFolderError as error:
            raise BenchError(f"{self.out} is being worked on by another crl bench: wait for it, or end it") from error

    def run(self, show: Any = None, poll: float = 0.5) -> bool:
        """
        Until every cell is finished or has failed; a signal stops the runs, which save themselves.

        :param show: called with this benchmark now and then
        :param poll: seconds between two looks
        :return: whether it came to its end
        """
        with StopRequest() as stop, self._alone():
            try:
                while any(job.state in ("waiting", "running", "elsewhere") for job in self.jobs):
                    if stop.signal is not None:
                        return False
                    self._step()
                    if show is not None:
                        show(self)
                    time.sleep(poll)
            finally:
                self._stop_all()
                self._note()
                if show is not None:
                    show(self)
        return True

    def _step(self) -> None:
        for job in self.jobs:
            if job.process is not None and job.process.poll() is not None:
                self._ended(job)
            elif job.state == "elsewhere":
                self._look(job)
        free = self.workers - self.count("running") - self.count("elsewhere")
        if self.pause_file.exists():
            return
        for job in [job for job in self.jobs if job.state == "waiting"][: max(free, 0)]:
            self._start(job)

    def _start(self, job: Job) -> None:
        if job.folder.config_file.exists():
            command = ["resume", str(job.folder.path)]
        else:
            cell = job.cell
            sets = [part for path, value in cell.overrides.items() for part in ("--set", f"{path}={as_text(value)}")]
            command = ["train", cell.agent, cell.task.env, "--seed", str(cell.seed), "--out", str(job.folder.path)]
            command += ["--threads", str(self.threads), "--checkpoint-every", str(self.checkpoint_every), *sets]
        log = self.out / "logs" / f"{job.cell.name.replace('/', '_')}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(self.threads),
            PAUSE_FILE: str(self.pause_file.resolve()),
        }
        with log.open("ab") as file:
            job.process = subprocess.Popen(
                [sys.executable, "-m", "crl", *command],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env=environment,
                # Ctrl-C is for the runner, which tells the runs
                start_new_session=True,
                preexec_fn=_end_with_parent if platform.system() == "Linux" else None,
            )
        job.state = "running"

    def _ended(self, job: Job) -> None:
        assert job.process is not None
        code, job.process = job.process.returncode, None
        if job.folder.summary().get("state") != "finished" and code not in (0, STOPPED):
            job.attempts += 1
            self._note()
        self._look(job)

    def _stop_all(self) -> None:
        running = [job for job in self.jobs if job.process is not None]
        for job in running:
            assert job.process is not None
            job.process.send_signal(signal.SIGTERM)
        for job in running:
            assert job.process is not None
            job.process.wait()
            self._ended(job)


def _end_with_parent() -> None:
    """In the child: when the runner is killed, Linux asks the run to stop, and it saves itself."""
    set_death_signal = 1
    ctypes.CDLL(None).prctl(set_death_signal, signal.SIGTERM)


def as_text(value: Any) -> str:
    """A value as the command line takes it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(as_text, value)) if isinstance(value, list | tuple) else str(value)


def results(jobs: Sequence[Job]) -> list[Mapping[str, Any]]:
    """
    One row a job for a table: state, steps and return; of a run that did not finish, its last evaluation, flagged.

    :param jobs: of a benchmark
    """
    rows: list[Mapping[str, Any]] = []
    for job in jobs:
        summary = job.folder.summary()
        evaluations = job.folder.evaluations()
        rows.append(
            {
                "agent": job.cell.label,
                "task": job.cell.task.label,
                "seed": job.cell.seed,
                "state": job.state,
                "steps": int(summary.get("steps", 0)),
                "of": job.total_steps if job.folder.config_file.exists() else None,
                "return": summary.get("final_return", evaluations[-1] if evaluations else None),
                "updates_per_second": summary.get("updates_per_second"),
                "error": job.error,
            }
        )
    return rows

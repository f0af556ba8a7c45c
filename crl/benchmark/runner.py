"""Runs a grid, each cell in a folder of its own, until every cell is done: by processes of this machine or on a cluster."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from crl.benchmark.grid import Cell, same_run
from crl.benchmark.launch import LOST, Executor, Handle, Launch, LocalExecutor, Outcome
from crl.runs.folder import RunFolder, RunFolderError, Table, write_atomically
from crl.runs.stop import STOPPED, StopRequest

State = Literal["waiting", "running", "elsewhere", "finished", "failed"]
#: a run that crashes is taken up once more, with the same seed
ATTEMPTS = 2
#: a run whose worker is lost is handed over again; after so many times in a row without a checkpoint it has failed
LOSSES = 5
#: how runs end that were asked to: they saved themselves, or they were not far enough to listen for signals yet
_ASKED = (STOPPED, -signal.SIGTERM, -signal.SIGINT)


class BenchError(ValueError):
    """A benchmark that cannot go on in its folder; the message says what to do."""


@dataclass
class Job:
    """
    One cell on its way.

    :param cell: what to run
    :param folder: of the run
    :param launch: how it is computed
    :param attempts: crashes so far
    :param losses: workers lost since it last got on
    :param lost_at: agent step of its last checkpoint then
    :param handle: from handing it over to its end
    :param state: see :data:`State`
    :param error: why it failed
    :param crash: how it ended the last time, where that was no way to end
    """

    cell: Cell
    folder: RunFolder
    launch: Launch
    attempts: int = 0
    losses: int = 0
    lost_at: int = -1
    handle: Handle | None = None
    state: State = "waiting"
    error: str = ""
    crash: str = ""

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
    :param executor: where runs are computed; None takes this machine
    :param probe: arguments of ``crl probe``, which every finished run is given to; None leaves it out
    :param video: film an episode of every finished run
    :param retry_failed: try runs anew that have failed before, from their last checkpoint
    :param device: of each run
    """

    cells: Sequence[Cell]
    out: Path
    workers: int
    threads: int = 1
    checkpoint_every: int = 2500
    executor: Executor | None = None
    probe: Sequence[str] | None = None
    retry_failed: bool = False
    device: str = "auto"
    video: bool = False
    jobs: list[Job] = field(default_factory=list)
    #: set it, and :meth:`run` comes to an end as after a signal
    halted: bool = False

    def __post_init__(self) -> None:
        if self.workers < 1 or self.threads < 1:
            raise BenchError(f"--workers {self.workers}, --threads {self.threads}: at least 1")
        self.executor = self.executor or LocalExecutor()
        noted = self._noted_crashes()
        own = {cell.name for cell in self.cells}
        # of runs in this folder that this command is not about
        self._others = {name: crashes for name, crashes in noted.items() if name not in own}
        crashes = {} if self.retry_failed else noted
        for cell in self.cells:
            folder = RunFolder(cell.folder(self.out))
            job = Job(cell, folder, self._launch(cell, folder))
            if folder.config_file.exists():
                # one that was moved away, or never came to have a folder, begins anew
                job.attempts = crashes.get(cell.name, 0)
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
        crashes = {**self._others, **{job.cell.name: job.attempts for job in self.jobs if job.attempts}}
        write_atomically(self._notes, (json.dumps({"crashes": crashes}, indent=1) + "\n").encode())

    def _launch(self, cell: Cell, folder: RunFolder) -> Launch:
        sets = [part for path, value in cell.overrides.items() for part in ("--set", f"{path}={as_text(value)}")]
        # other machines know nothing of the directory this one works in
        path = str(folder.path.absolute())
        begin = ["train", cell.agent, cell.task.env, "--seed", str(cell.seed), "--out", path]
        begin += ["--threads", str(self.threads), "--checkpoint-every", str(self.checkpoint_every)]
        begin += ["--device", self.device, *sets]
        log = self.out.absolute() / "logs" / cell.name.replace("/", "_")
        return Launch(
            folder=path,
            begin=tuple(begin),
            probe=None if self.probe is None else tuple(self.probe),
            video=self.video,
            log=f"{log}.log",
            threads=self.threads,
            pause_file=str(self.pause_file.absolute()),
            stop_file=f"{log}.stop",
            note_file=f"{log}.worker.json",
            directory=os.getcwd(),
        )

    def _look(self, job: Job) -> None:
        """What the folder says of a job that nobody was given."""
        summary = job.folder.summary()
        if job.launch.command() is None:
            job.state = "finished"
        elif job.attempts >= ATTEMPTS and summary.get("state") == "finished":
            job.state, job.error = "finished", f"could not be probed or filmed: {job.launch.log}"
        elif job.attempts >= ATTEMPTS:
            told = summary.get("error") if summary.get("state") == "failed" else None
            job.state, job.error = "failed", str(told) if told else _crash(job)
        elif job.losses >= LOSSES:
            job.state, job.error = "failed", f"{job.losses} workers were lost, one after the other: {job.launch.log}"
        else:
            job.state = "elsewhere" if job.folder.is_held() else "waiting"

    def _give_up(self, job: Job) -> None:
        """Let the folder of a failed run say so: one that was killed could not, and would seem to be running for ever."""
        if job.state != "failed" or not job.folder.config_file.exists() or job.folder.is_held():
            return
        if job.folder.summary().get("state") != "failed":
            job.folder.update_summary(state="failed", error=job.error)

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

    def run(self, show: Any = None, poll: float = 0.5, stop: StopRequest | None = None) -> bool:
        """
        Until every cell is finished or has failed; a signal stops the runs, which save themselves.

        :param show: called with this benchmark now and then
        :param poll: seconds between two looks
        :param stop: listens to signals already; None listens from here on
        :return: whether it came to its end
        """
        with stop or StopRequest() as listening, self._alone():
            try:
                self._adopt()
                for job in self.jobs:
                    self._give_up(job)
                while any(job.state in ("waiting", "running", "elsewhere") for job in self.jobs):
                    if listening.signal is not None or self.halted:
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

    def _adopt(self) -> None:
        """What an earlier runner has handed over to a cluster, and what goes on there without it."""
        assert self.executor is not None
        for job in self.jobs:
            if job.state in ("waiting", "elsewhere"):
                job.handle = self.executor.adopt(job.launch)

    def _step(self) -> None:
        assert self.executor is not None
        for job in self.jobs:
            if job.handle is not None:
                outcome = job.handle.poll()
                if outcome is not None:
                    self._ended(job, outcome)
                else:
                    job.state = "running" if job.handle.begun() else "waiting"
            elif job.state == "elsewhere":
                self._look(job)
        free = self.workers - sum(job.handle is not None or job.state == "elsewhere" for job in self.jobs)
        if self.pause_file.exists():
            return
        chosen = [job for job in self.jobs if job.state == "waiting" and job.handle is None][: max(free, 0)]
        if not chosen:
            return
        (self.out / "logs").mkdir(parents=True, exist_ok=True)
        for job in chosen:
            for file in (job.launch.stop_file, job.launch.note_file):
                Path(file).unlink(missing_ok=True)
        for job, handle in zip(chosen, self.executor.start([job.launch for job in chosen]), strict=True):
            job.handle, job.state = handle, "running" if handle.begun() else "waiting"

    def _ended(self, job: Job, outcome: Outcome) -> None:
        job.handle = None
        if outcome == LOST:
            steps = int(job.folder.summary().get("steps", 0))
            job.losses = 1 if steps > job.lost_at else job.losses + 1
            job.lost_at = steps
        elif outcome in _ASKED or job.launch.command() is None:
            pass
        elif outcome == 0:
            job.attempts = 0  # the next stage may crash once, too
        else:
            job.attempts += 1
            job.crash = _how(outcome)
            self._note()
            self._leave_out_probe(job)
        self._look(job)
        self._give_up(job)

    def _leave_out_probe(self, job: Job) -> None:
        """A probe that cannot be made is not in the way of the film."""
        command = job.launch.command() or [""]
        if job.attempts >= ATTEMPTS and job.launch.video and command[0] == "probe":
            job.launch = replace(job.launch, probe=None)
            job.attempts, job.error = 0, f"could not be probed: {job.launch.log}"

    def _stop_all(self) -> None:
        under_way = [job for job in self.jobs if job.handle is not None]
        for job in under_way:
            assert job.handle is not None
            job.handle.stop()
        for job in under_way:
            assert job.handle is not None
            self._ended(job, job.handle.wait())
            Path(job.launch.stop_file).unlink(missing_ok=True)


def _how(outcome: Outcome) -> str:
    """In words, how a process ended."""
    if not isinstance(outcome, int) or outcome >= 0:
        return f"ended with exit code {outcome}"
    killed = f"killed by {signal.Signals(-outcome).name}"
    return f"{killed}, as when memory runs out" if -outcome == signal.SIGKILL else killed


def _crash(job: Job) -> str:
    return f"{job.crash or 'crashed'}{_last_words(job.launch.log)}: {job.launch.log}"


def _last_words(log: str) -> str:
    """What ``crl`` said last about what is wrong, in brackets; empty where it said nothing."""
    try:
        with open(log, "rb") as file:
            file.seek(-min(os.path.getsize(log), 10_000), os.SEEK_END)
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return next((f" ({line.removeprefix('crl: ')})" for line in reversed(lines) if line.startswith("crl: ")), "")


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
        evaluations = Table(job.folder.eval_file).rows()
        last = evaluations[-1] if evaluations else None
        rows.append(
            {
                "agent": job.cell.label,
                "task": job.cell.task.label,
                "seed": job.cell.seed,
                "state": job.state,
                # a checkpoint's, or where an evaluation has been since
                "steps": max(int(summary.get("steps", 0)), int(last["step"]) if last else 0),
                "of": job.total_steps if job.folder.config_file.exists() else None,
                "return": summary.get("final_return", float(last["mean"]) if last else None),
                "updates_per_second": summary.get("updates_per_second"),
                "error": job.error,
                "host": job.launch.where() if job.state == "running" else "",
            }
        )
    return rows

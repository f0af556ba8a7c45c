"""What a process, here or on another machine, needs to take a run of a grid one stage further. Plain values, to be pickled."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Protocol

from crl.runs.folder import RunFolder, write_atomically
from crl.runs.stop import PAUSE_FILE, STOPPED

#: what became of a launch whose worker is no more: nobody knows how far the run had come but its folder
LOST: Final = "lost"
#: exit code, LOST, or None while it is under way
Outcome = int | Literal["lost"] | None

#: looked up beforehand: between fork and exec little may be done where other threads run
_PRCTL: Any = ctypes.CDLL(None).prctl if platform.system() == "Linux" else None
_SET_DEATH_SIGNAL = 1
#: of this process, for a scheduler's signal handler
_children: list[subprocess.Popen[bytes]] = []


class Handle(Protocol):
    """A launch that an executor has taken on."""

    def poll(self) -> Outcome:
        """See :data:`Outcome`."""

    def begun(self) -> bool:
        """Whether a worker has taken it up; before, it waits in a queue."""

    def stop(self) -> None:
        """Ask it to save and to end; does not wait."""

    def wait(self) -> Outcome:
        """Until it has ended."""


class Executor(Protocol):
    """Where runs are computed."""

    def start(self, launches: list[Launch]) -> list[Handle]:
        """Take them on, all at once."""

    def adopt(self, launch: Launch) -> Handle | None:
        """One that an earlier process has handed over and that is still under way; None where there is none."""

    def close(self) -> None:
        """After the last launch has ended."""


@dataclass(frozen=True)
class Launch:
    """
    One stage of a run: to begin it, to go on with it, to probe or to film it; which, the run's folder tells.

    :param folder: of the run
    :param begin: arguments of ``crl`` that begin it
    :param probe: arguments of ``crl probe`` beside the folder; None leaves the probe out
    :param video: whether an episode is to be filmed
    :param log: file that output is appended to
    :param threads: of the run
    :param pause_file: while it is there, the run waits
    :param stop_file: once it is there, the run saves and ends
    :param note_file: where the worker says who it is
    :param directory: to work in, where there is such a one: files that agents are functions of are named from there
    """

    folder: str
    begin: tuple[str, ...]
    probe: tuple[str, ...] | None
    video: bool
    log: str
    threads: int
    pause_file: str
    stop_file: str
    note_file: str
    directory: str

    def command(self) -> list[str] | None:
        """Arguments of ``crl`` for what is to be done next; None when nothing is left."""
        folder = RunFolder(self.folder)
        if not folder.config_file.exists():
            return list(self.begin)
        if folder.summary().get("state") != "finished":
            return ["resume", self.folder]
        if not folder.has_checkpoint():
            return None  # of a run that was restored from what is recorded, no weights are there
        if self.probe is not None and not any((folder.path / "probe").glob("*/probe.json")):
            return ["probe", self.folder, *self.probe]
        if self.video and not any(folder.video.glob("*.mp4")):
            return ["eval", self.folder, "--episodes", "1", "--video"]
        return None

    def popen(self, command: list[str], gpu: str | None = None) -> subprocess.Popen[bytes]:
        """Start ``crl`` in a process of its own, which is asked to stop when this one dies; it sees that GPU alone, if any."""
        Path(self.log).parent.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "OMP_NUM_THREADS": str(self.threads), PAUSE_FILE: self.pause_file}
        if gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = gpu
        with open(self.log, "ab") as file:
            return subprocess.Popen(
                [sys.executable, "-m", "crl", *command],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env=environment,
                cwd=self.directory if os.path.isdir(self.directory) else None,
                # Ctrl-C is for the runner, which tells the runs
                start_new_session=True,
                preexec_fn=_end_with_parent if _PRCTL is not None else None,
            )

    def __call__(self, poll: float = 0.2) -> int:
        """
        On a worker of a cluster: wait until nobody else has the run, do what is left, and say how it ended.

        :param poll: seconds between two looks
        :return: exit code
        """
        write_atomically(
            Path(self.note_file), json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "began": time.time()}).encode()
        )
        # a worker that was lost may be saving still
        while RunFolder(self.folder).is_held():
            if os.path.exists(self.stop_file):
                return STOPPED
            time.sleep(poll)
        command = self.command()
        if command is None:
            return 0
        if os.path.exists(self.stop_file):
            return STOPPED
        child = self.popen(command)
        _children.append(child)
        told = False
        try:
            while child.poll() is None:
                if not told and os.path.exists(self.stop_file):
                    child.send_signal(signal.SIGTERM)
                    told = True
                time.sleep(poll)
        finally:  # the scheduler may interrupt this
            if child.poll() is None:
                child.send_signal(signal.SIGTERM)
                child.wait()
            _children.remove(child)
        return int(child.returncode)

    def checkpoint(self) -> Any:
        """What submitit calls when time is up or the machine is wanted: save; the same launch is put into the queue again."""
        from submitit.helpers import DelayedSubmission

        for child in _children:
            child.send_signal(signal.SIGTERM)
        for child in _children:
            child.wait()
        return DelayedSubmission(self)

    def where(self) -> str:
        """The machine that works on it; empty where that is not known."""
        try:
            return str(json.loads(Path(self.note_file).read_text())["host"])
        except (OSError, ValueError, KeyError, TypeError):
            return ""


def _end_with_parent() -> None:
    """In the child: when its parent is killed, Linux asks the run to stop, and it saves itself."""
    _PRCTL(_SET_DEATH_SIGNAL, signal.SIGTERM)


def visible_gpus() -> list[str]:
    """As ``CUDA_VISIBLE_DEVICES`` names them, those of this machine that torch can use."""
    if not Path("/proc/driver/nvidia").exists() and shutil.which("nvidia-smi") is None:
        return []  # without asking torch, which takes seconds
    import torch as th

    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return [named[index] if index < len(named) else str(index) for index in range(th.cuda.device_count())]


class LocalExecutor:
    """
    Processes of this machine.

    :param gpus: that runs are spread over, each on the one with the fewest; empty leaves the choice to the runs
    """

    def __init__(self, gpus: Sequence[str] = ()) -> None:
        self.gpus = list(gpus)
        self._handles: list[_LocalHandle] = []

    def start(self, launches: list[Launch]) -> list[Handle]:
        """One process each."""
        self._handles = [handle for handle in self._handles if handle.poll() is None]
        started: list[Handle] = []
        for launch in launches:
            used = [handle.gpu for handle in self._handles]
            handle = _LocalHandle(launch, min(self.gpus, key=used.count) if self.gpus else None)
            self._handles.append(handle)
            started.append(handle)
        return started

    def adopt(self, launch: Launch) -> Handle | None:
        """They end with the runner."""
        return None

    def close(self) -> None:
        """Nothing is kept."""


class _LocalHandle:
    def __init__(self, launch: Launch, gpu: str | None = None) -> None:
        command = launch.command()
        self.gpu = gpu
        self.process = None if command is None else launch.popen(command, gpu)

    def poll(self) -> Outcome:
        return 0 if self.process is None else self.process.poll()

    def begun(self) -> bool:
        return True

    def stop(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)

    def wait(self) -> Outcome:
        return 0 if self.process is None else self.process.wait()


class NotedHandle:
    """
    What launches on other machines have in common: the shared folder says what is known of them.

    :param launch: that was handed over
    """

    def __init__(self, launch: Launch) -> None:
        self.launch = launch

    def begun(self) -> bool:
        """Whether a worker has said who it is."""
        return os.path.exists(self.launch.note_file)

    def stop(self) -> None:
        """By a file; what still waits is taken out of the queue."""
        Path(self.launch.stop_file).touch()
        if not self.begun():
            self._withdraw()

    def wait(self) -> Outcome:
        """Until it has ended, one way or the other."""
        outcome = self.poll()
        while outcome is None:
            time.sleep(0.2)
            outcome = self.poll()
        return outcome

    def poll(self) -> Outcome:
        """See :data:`Outcome`."""
        raise NotImplementedError

    def _withdraw(self) -> None:
        raise NotImplementedError

    def _log(self, text: str) -> None:
        with open(self.launch.log, "a") as file:
            file.write(f"{text.rstrip()}\n")

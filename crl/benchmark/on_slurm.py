"""
A grid on a SLURM cluster, through submitit: an array of jobs, one a run. A job whose time is up, or that has to make room,
saves and goes back into the queue; jobs outlive the runner, and the next one finds them again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from crl.agents.fields import free_value
from crl.benchmark.launch import LOST, Handle, Launch, NotedHandle, Outcome
from crl.runs.stop import STOPPED

#: minutes of one job, unless told otherwise; a run that takes longer goes back into the queue
_MINUTES = 24 * 60
#: how often that may happen
_REQUEUES = 1000
#: states of SLURM in which a job ends for reasons that are not the run's
_NOT_ITS_FAULT = ("NODE_FAIL", "BOOT_FAIL", "PREEMPTED", "REVOKED", "CANCELLED", "TIMEOUT", "DEADLINE", "INTERRUPTED")


class SlurmError(ValueError):
    """A cluster that cannot be used; the message says what to do."""


class SlurmExecutor:
    """
    :param folder: for submitit's files, on a file system that all machines share
    :param threads: of each run: CPUs of its job
    :param memory: bytes of each job; None takes what the cluster gives
    :param gpus_per_run: whole GPUs of each job
    :param workers: jobs at a time; None lets the cluster choose
    :param options: parameters of submitit's executor (``timeout_min``, ``slurm_partition``, ``slurm_account`` ...)
    :param cluster: submitit's name of it; ``"local"`` runs jobs on this machine as the cluster would
    :raises SlurmError: when submitit is not installed, there is no SLURM here, or it does not take the options
    """

    def __init__(
        self,
        folder: Path,
        threads: int = 1,
        memory: float | None = None,
        gpus_per_run: float = 0.0,
        workers: int | None = None,
        options: Mapping[str, Any] | None = None,
        cluster: str = "slurm",
    ) -> None:
        if find_spec("submitit") is None:
            raise SlurmError("--executor slurm needs submitit: pip install 'crl[cluster]'")
        if gpus_per_run != int(gpus_per_run):
            raise SlurmError(f"--gpus-per-run {gpus_per_run}: SLURM gives out whole GPUs")
        import submitit

        fields: dict[str, Any] = {"timeout_min": _MINUTES, "cpus_per_task": threads, "name": "crl"}
        fields |= {"gpus_per_node": int(gpus_per_run)} if gpus_per_run else {}
        fields |= {"mem_gb": max(1, round(memory / 1e9 + 0.5))} if memory is not None else {}
        fields |= {"slurm_array_parallelism": workers} if workers is not None else {}
        fields |= dict(options or {})
        self._job_class: Any = submitit.SlurmJob if cluster == "slurm" else submitit.LocalJob
        try:
            self._executor = submitit.AutoExecutor(folder.resolve(), cluster=cluster, slurm_max_num_timeout=_REQUEUES)
            self._executor.update_parameters(**fields)
        except RuntimeError as error:  # no sbatch
            raise SlurmError(f"--executor slurm: {error}. Run it where sbatch can be called") from error
        except (NameError, ValueError, AssertionError) as error:
            raise SlurmError(f"--slurm: {error}") from error

    def start(self, launches: list[Launch]) -> list[Handle]:
        """An array of jobs."""
        with self._executor.batch():
            jobs = [self._executor.submit(launch) for launch in launches]
        for launch, job in zip(launches, jobs, strict=True):
            _id_file(launch).write_text(json.dumps({"id": job.job_id, "folder": str(job.paths.folder)}))
        return [_JobHandle(launch, job) for launch, job in zip(launches, jobs, strict=True)]

    def adopt(self, launch: Launch) -> Handle | None:
        """A job that an earlier runner has submitted and that has not ended."""
        try:
            noted = json.loads(_id_file(launch).read_text())
        except FileNotFoundError:
            return None
        job = self._job_class(folder=noted["folder"], job_id=noted["id"])
        return None if job.done(force_check=True) else _JobHandle(launch, job)

    def close(self) -> None:
        """Jobs that are under way stay so."""


class _JobHandle(NotedHandle):
    def __init__(self, launch: Launch, job: Any) -> None:
        super().__init__(launch)
        self.job = job

    def poll(self) -> Outcome:
        from submitit.core.utils import FailedJobError, UncompletedJobError

        if not self.job.done():
            return None
        _id_file(self.launch).unlink(missing_ok=True)
        try:
            return int(self.job.result())
        except UncompletedJobError as error:
            state = str(self.job.state)
            if "CANCELLED" in state and os.path.exists(self.launch.stop_file):
                return STOPPED
            self._log(f"job {self.job.job_id} ended as {state}: {error}")
            return LOST if state.startswith(_NOT_ITS_FAULT) else 1
        except FailedJobError as error:
            self._log(str(error))
            return 1

    def _withdraw(self) -> None:
        self.job.cancel(check=False)


def _id_file(launch: Launch) -> Path:
    return Path(launch.note_file).with_suffix(".job")


def parse_options(items: list[str]) -> dict[str, Any]:
    """
    :param items: ``KEY=VALUE``, as after ``--slurm``
    :raises SlurmError: for one that is none
    """
    options = {}
    for item in items:
        name, separator, text = item.partition("=")
        if not separator or not name:
            raise SlurmError(f"--slurm {item!r}: write KEY=VALUE, for example --slurm slurm_partition=gpu")
        options[name] = free_value(text)
    return options

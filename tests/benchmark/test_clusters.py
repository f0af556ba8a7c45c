"""Grids on clusters: a lost worker's run goes on elsewhere, and none is run twice."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from crl.benchmark.command import CommandError, bench
from crl.benchmark.launch import LOST, Launch
from crl.benchmark.on_ray import RayError, RayExecutor
from crl.benchmark.on_slurm import SlurmError, SlurmExecutor, parse_options
from crl.benchmark.runner import LOSSES, Bench, results
from crl.runs.folder import RunFolder
from crl.runs.run import new_run
from crl.runs.stop import STOPPED

from ..runs.small import FIELDS
from .executors import Handled
from .test_runner import folder_rows, tiny

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def ray_of_two():
    """A Ray of two workers, apart from whatever cluster runs on this machine."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray = pytest.importorskip("ray")
    quiet = dict(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    ray.init(address="local", num_cpus=2, object_store_memory=100_000_000, **quiet)
    yield ray
    ray.shutdown()


def once_each(cells, out, steps):
    """Every run came to its end, and no part of any was done twice."""
    for cell in cells:
        folder = RunFolder(cell.folder(out))
        assert folder.summary()["state"] == "finished" and folder.summary()["steps"] == steps
        evaluated = [int(row["step"]) for row in folder_rows(folder)]
        assert evaluated == sorted(set(evaluated)) and evaluated[-1] == steps


def killer(cell, out, step, how):
    """Called between looks: strikes once, when the run's first checkpoint is there."""
    struck = []

    def show(work):
        folder = RunFolder(cell.folder(out))
        if not struck and (folder.checkpoints / f"step{step:012d}" / "manifest.json").exists():
            struck.append(folder.summary()["steps"])
            how(next(job for job in work.jobs if job.cell is cell))

    return show, struck


def kill_worker(job):
    pid = json.loads(Path(job.launch.note_file).read_text())["pid"]
    assert pid != os.getpid()
    os.kill(pid, signal.SIGKILL)


def test_a_lost_ray_worker(tmp_path, ray_of_two):
    cells = tiny(tmp_path, [1, 2], steps=100)
    out = tmp_path / "out"
    work = Bench(cells, out, workers=2, checkpoint_every=20, executor=RayExecutor(threads=1, memory=1e8))
    show, struck = killer(cells[0], out, 20, kill_worker)
    assert work.run(show, poll=0.1)
    assert struck and struck[0] < 100, "it was killed in the middle"
    once_each(cells, out, 100)
    lost, other = work.jobs
    assert (lost.losses, lost.attempts, other.losses, other.attempts) == (1, 0, 0, 0)
    log = Path(lost.launch.log).read_text()
    assert "was lost (WorkerCrashedError)" in log and "going on with" in log
    assert "was lost" not in Path(other.launch.log).read_text()
    assert not Bench(cells, out, workers=2).count("waiting"), "nothing is left to do, here or on another cluster"


def test_usage_is_not_reported():
    """In a process of its own, where nothing has told Ray so but the executor."""
    code = (
        "from crl.benchmark.on_ray import RayExecutor\n"
        "import crl.benchmark.on_ray as on_ray\n"
        "on_ray._connect = lambda ray: None\n"
        "RayExecutor._check = staticmethod(lambda *args: None)\n"
        "RayExecutor()\n"
        "from ray._common.usage import usage_lib\n"
        "assert not usage_lib.usage_stats_enabled()\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "RAY_USAGE_STATS_ENABLED"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


def test_more_than_the_cluster_has(ray_of_two):
    with pytest.raises(RayError, match="no machine of this Ray cluster has the 1 CPUs, 0.25 GPUs that"):
        RayExecutor(threads=1, gpus_per_run=0.25)
    with pytest.raises(RayError, match=r"has the 1 CPUs, 0 GPUs and 9000000.0 GB that .*algorithm.buffer_size"):
        RayExecutor(threads=1, memory=9e15)
    with pytest.raises(RayError, match="has the 64 CPUs"):
        RayExecutor(threads=64)


class Script(Handled):
    """An executor whose launches end as told, and take the run no further."""

    def __init__(self, *outcomes):
        self.outcomes = list(outcomes)

    def poll(self):
        return self.outcomes.pop(0)


def test_a_run_whose_workers_are_always_lost_fails_in_the_end(tmp_path):
    cells = tiny(tmp_path, [1])
    work = Bench(cells, tmp_path / "out", workers=1, executor=Script(*[LOST] * 20))
    assert work.run(poll=0)
    (row,) = results(work.jobs)
    assert row["state"] == "failed" and f"{LOSSES} workers were lost" in row["error"] and work.jobs[0].attempts == 0
    # those that get on in between may be lost as often as they like
    folder = new_run("curl-sac", "toy/reach", {**FIELDS}, seed=1, out=tmp_path / "run")
    (job,) = work.jobs
    job.folder, job.losses, job.lost_at = folder, 0, -1
    for step in range(10):
        folder.update_summary(steps=10 * step)
        work._ended(job, LOST)
        assert job.losses == 1 and job.state == "waiting"


def launch_of(tmp_path, folder, **more):
    plain = dict(folder=str(folder), begin=("--version",), probe=None, log=str(tmp_path / "logs" / "log"), threads=1)
    files = {name: str(tmp_path / name) for name in ("pause_file", "stop_file", "note_file")}
    return Launch(**{**plain, **files, "video": False, "directory": str(tmp_path), **more})


def test_a_launch_waits_for_the_one_before_it(tmp_path):
    """What a lost worker leaves behind may be saving still."""
    folder = new_run("curl-sac", "toy/reach", FIELDS, seed=1, out=tmp_path / "run", steps=30)
    launch = launch_of(tmp_path, folder.path)
    with folder.held():
        code = (
            "import pickle, sys\n"
            "launch = pickle.load(open(sys.argv[1], 'rb'))\n"
            "print('up', flush=True)\n"
            "sys.exit(launch(poll=0.05))\n"
        )
        (tmp_path / "launch").write_bytes(pickle.dumps(launch))
        process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "launch")], stdout=subprocess.PIPE)
        assert process.stdout is not None and process.stdout.readline() == b"up\n"
        time.sleep(0.5)
        assert process.poll() is None and not Path(launch.log).exists(), "it has not begun"
        Path(launch.stop_file).touch()
        assert process.wait(20) == STOPPED
    folder.update_summary(state="finished")
    assert launch() == 0 and not Path(launch.log).exists(), "nothing was left to do"


@pytest.mark.slow
def test_a_slurm_job_that_has_to_make_room(tmp_path):
    """By submitit's executor that treats this machine as a cluster: told that time is up, a job saves and is queued again."""
    pytest.importorskip("submitit")
    cells = tiny(tmp_path, [1], steps=80)
    out = tmp_path / "out"
    executor = SlurmExecutor(out / "logs" / "slurm", options={"timeout_min": 60}, cluster="local")
    work = Bench(cells, out, workers=2, checkpoint_every=20, executor=executor)
    show, struck = killer(cells[0], out, 20, lambda job: os.kill(job_pid(job), signal.SIGUSR2))
    assert work.run(show, poll=0.1)
    assert struck and struck[0] < 80
    once_each(cells, out, 80)
    assert (work.jobs[0].attempts, work.jobs[0].losses) == (0, 0), "for the runner nothing has happened"
    assert "going on with" in Path(work.jobs[0].launch.log).read_text()


def job_pid(job):
    return json.loads(Path(job.launch.note_file).read_text())["pid"]


def test_wrong_options(tmp_path):
    with pytest.raises(CommandError, match="local, ray or slurm"):
        bench("toy", executor="kubernetes")
    with pytest.raises(CommandError, match="--gpus-per-run is for"):
        bench("toy", gpus_per_run=0.5)
    with pytest.raises(CommandError, match="--slurm is for"):
        bench("toy", slurm=["a=1"])
    with pytest.raises(SlurmError, match="KEY=VALUE"):
        parse_options(["partition"])
    assert parse_options(["timeout_min=5", "slurm_partition=gpu"]) == {"timeout_min": 5, "slurm_partition": "gpu"}
    with pytest.raises(RayError, match="a whole number of them"):
        RayExecutor(gpus_per_run=1.5)
    with pytest.raises(SlurmError, match="whole GPUs"):
        SlurmExecutor(tmp_path, gpus_per_run=0.5)
    with pytest.raises(SlurmError, match="sbatch"):
        SlurmExecutor(tmp_path)
    with pytest.raises(SlurmError, match="slurm_partitoin"):
        SlurmExecutor(tmp_path, options={"slurm_partitoin": "gpu"}, cluster="local")


@pytest.mark.parametrize("name, error, module", [("ray", RayError, RayExecutor), ("slurm", SlurmError, SlurmExecutor)])
def test_what_is_not_installed(name, error, module, tmp_path, monkeypatch):
    monkeypatch.setattr(f"crl.benchmark.on_{name}.find_spec", lambda _: None)
    with pytest.raises(error, match=r"pip install 'crl\[cluster\]'"):
        module(tmp_path) if name == "slurm" else module()

"""A grid ends whatever happens to it: no run twice, none lost."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from crl.benchmark.grid import make_grid
from crl.benchmark.runner import Bench, BenchError, as_text, results
from crl.benchmark.suite import load_suite
from crl.runs.folder import RunFolder
from crl.runs.run import new_run, train
from crl.runs.stop import PAUSE_FILE

from ..runs.small import FIELDS

SUITE = """
text: tiny
env_steps: {steps}
eval_every: 40
eval_episodes: 1
set: {{{fields}}}
tasks:
  - {{env: "{env}", low: 0, high: 50}}
"""
TINY = {**FIELDS, "policy.net_arch": "'16,16'", "objective.weight": "0"}

CRASHING = """
import os
from pathlib import Path

import gymnasium as gym
from crl.envs.toy import ToyReach


class Crashing(ToyReach):
    def step(self, action):
        flag = Path(os.environ["CRASHED"])
        if self._t == 30 and (os.environ["CRASHES"] == "always" or not flag.exists()):
            flag.touch()
            raise RuntimeError("the simulator broke")
        return super().step(action)


gym.register("Crashing-v0", Crashing)
"""


def tiny(tmp_path, seeds, env="toy/reach", steps=120, **more):
    fields = {key: value for key, value in {**TINY, **more}.items() if key not in ("train.eval_every", "train.eval_episodes")}
    path = tmp_path / "tiny.yaml"
    path.write_text(SUITE.format(steps=steps, env=env, fields=", ".join(f"{k}: {v}" for k, v in fields.items())))
    return make_grid(load_suite(str(path)), ["curl-sac"], seeds)


def test_killed_half_way_and_started_again(tmp_path):
    cells = tiny(tmp_path, [1, 2, 3], steps=200)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "crl", "bench", str(tmp_path / "tiny.yaml"), "--agents", "curl-sac", "--seeds", "3"]
    command += ["--out", str(out), "--workers", "2", "--checkpoint-every", "20"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    manifest = cells[0].folder(out) / "checkpoints" / "step000000000040" / "manifest.json"
    end = time.monotonic() + 120
    while not manifest.exists():
        assert process.poll() is None and time.monotonic() < end, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    began = {cell.name: RunFolder(cell.folder(out)).summary().get("steps") for cell in cells}
    assert began[cells[0].name] is not None and RunFolder(cells[0].folder(out)).summary()["state"] == "running"
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("| finished |") == 3
    for cell in cells:
        folder = RunFolder(cell.folder(out))
        assert folder.summary()["steps"] == 200
        steps = [int(row["step"]) for row in folder_rows(folder)]
        assert steps == sorted(set(steps)) and steps[-1] == 200
    assert "going on with" in (out / "logs" / f"{cells[0].name.replace('/', '_')}.log").read_text()
    # once more: nothing is left to do, and nothing is started
    files = {path: path.stat().st_mtime_ns for path in out.rglob("summary.json")}
    work = Bench(cells, out, workers=2)
    assert work.count("finished") == 3 and work.run()
    assert files == {path: path.stat().st_mtime_ns for path in out.rglob("summary.json")}


def folder_rows(folder):
    from crl.runs.folder import Table

    return Table(folder.eval_file).rows()


@pytest.mark.parametrize("crashes", ["once", "always"])
def test_a_crash_is_tried_once_more_with_the_same_seed(tmp_path, monkeypatch, crashes):
    (tmp_path / "crashing.py").write_text(CRASHING)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("CRASHED", str(tmp_path / "crashed"))
    monkeypatch.setenv("CRASHES", crashes)
    more = {"replay.n_stack": "3", "replay.augment": "random_shift"}
    cells = tiny(tmp_path, [5], env="crashing:Crashing-v0", steps=60, **more)
    work = Bench(cells, tmp_path / "out", workers=1, checkpoint_every=10)
    assert work.run()
    (row,) = results(work.jobs)
    assert work.jobs[0].attempts == (1 if crashes == "once" else 2)
    if crashes == "once":
        assert row["state"] == "finished" and row["steps"] == 60
        return
    assert row["state"] == "failed" and "the simulator broke" in row["error"]
    assert row["return"] is None, "there was no evaluation yet"
    again = Bench(cells, tmp_path / "out", workers=1)
    assert again.count("failed") == 1, "it stays in the table, and is not tried a third time"


def test_pauses_are_not_counted(tmp_path, monkeypatch):
    pause = tmp_path / "pause"
    pause.touch()
    monkeypatch.setenv(PAUSE_FILE, str(pause))
    folder = new_run("curl-sac", "toy/reach", FIELDS, seed=1, out=tmp_path / "run", steps=30)
    began = time.monotonic()
    timer = threading.Timer(3.0, pause.unlink)
    timer.start()
    summary = train(folder, show_progress=False)
    timer.join()
    assert summary["seconds"] < time.monotonic() - began - 1.0
    cells = tiny(tmp_path, [1])
    work = Bench(cells, tmp_path / "out", workers=1)
    work.pause_file.parent.mkdir()
    work.pause_file.touch()
    work._step()
    assert work.count("waiting") == 1, "nothing is started meanwhile"


def test_foreign_runs_and_broken_notes_are_refused(tmp_path):
    cells = tiny(tmp_path, [1])
    new_run("curl-sac", "toy/reach", {**FIELDS, "algorithm.gamma": 0.5}, seed=1, out=cells[0].folder(tmp_path / "out"))
    with pytest.raises(BenchError, match=r"another configuration \(algorithm.gamma: 0.5 there, 0.99 here"):
        Bench(cells, tmp_path / "out", workers=1)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "bench.json").write_text("{")
    with pytest.raises(BenchError, match="cannot be read"):
        Bench(cells, tmp_path / "other", workers=1)
    with pytest.raises(BenchError, match="at least 1"):
        Bench(cells, tmp_path / "third", workers=0)


def test_one_runner_a_folder(tmp_path):
    cells = tiny(tmp_path, [1])
    work = Bench(cells, tmp_path / "out", workers=1)
    work.out.mkdir()
    with RunFolder(work.out).held(), pytest.raises(BenchError, match="another crl bench"):
        work.run()


def test_values_as_the_command_line_takes_them():
    assert [as_text(value) for value in (None, True, 3, 0.5, [64, 64], "a")] == ["none", "true", "3", "0.5", "64,64", "a"]

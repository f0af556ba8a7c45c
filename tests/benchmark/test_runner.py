"""A grid ends whatever happens to it: no run twice, none lost."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from crl.agents.fields import ConfigError
from crl.agents.recipes import resolve
from crl.benchmark.command import CommandError, _done, _Lines, bench
from crl.benchmark.comparison import compare
from crl.benchmark.grid import make_grid
from crl.benchmark.launch import LocalExecutor
from crl.benchmark.results import read_runs
from crl.benchmark.runner import Bench, BenchError, as_text, results
from crl.benchmark.suite import load_suite
from crl.runs.folder import RunFolder, Table
from crl.runs.run import new_run, train
from crl.runs.stop import PAUSE_FILE

from ..runs.small import FIELDS
from .executors import Handled
from .synthetic import write_run

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


DIVERGING = """
import gymnasium as gym
from crl.envs.toy import ToyReach


class Diverging(ToyReach):
    steps = 0

    def step(self, action):
        obs, reward, terminated, truncated, info = super().step(action)
        Diverging.steps += 1
        return obs, reward if Diverging.steps < 110 else float("nan"), terminated, truncated, info


gym.register("Diverging-v0", Diverging)
"""


def test_a_loss_that_is_no_number(tmp_path, monkeypatch):
    """Tried once more with the same seed, then kept in the table at its last evaluation, flagged; others go on."""
    (tmp_path / "diverging.py").write_text(DIVERGING)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]))
    monkeypatch.syspath_prepend(str(tmp_path))
    more = {"replay.n_stack": "3", "replay.augment": "random_shift"}
    (cell,) = tiny(tmp_path, [5], env="diverging:Diverging-v0", steps=400, **more)
    work = Bench([cell], tmp_path / "out", workers=1, checkpoint_every=20)
    assert work.run() and work.jobs[0].attempts == 2
    (row,) = results(work.jobs)
    assert row["state"] == "failed" and "FloatingPointError" in row["error"]
    evaluated = folder_rows(work.jobs[0].folder)
    assert evaluated and row["return"] == float(evaluated[-1]["mean"]) and row["steps"] < 400
    log = Path(work.jobs[0].launch.log).read_text()
    assert log.count("the run failed") == 2 and "going on with" in log
    # as a reader of the report sees it
    (run,) = read_runs([tmp_path / "out"])[0]
    assert run.state == "failed" and run.counts and run.last_return == row["return"] and "FloatingPointError" in run.error


class OnGpu:
    """A launch that goes on until it is told to end."""

    def __init__(self):
        self.ended, self.gpu = None, None

    def command(self):
        return ["train"]

    def popen(self, command, gpu):
        self.gpu = gpu
        return self

    def poll(self):
        return self.ended


def test_runs_are_spread_over_gpus():
    launches = [OnGpu() for _ in range(6)]
    executor = LocalExecutor(["0", "3"])
    executor.start(launches[:3])
    assert [launch.gpu for launch in launches[:3]] == ["0", "3", "0"]
    launches[0].ended = launches[2].ended = 0
    executor.start(launches[3:5])
    assert [launch.gpu for launch in launches[3:5]] == ["0", "0"], "none is there, and one on the other"
    plain = LocalExecutor()
    plain.start(launches[5:])
    assert launches[5].gpu is None


def test_options_are_checked_before_anything(tmp_path, capsys):
    (tmp_path / "tiny.yaml").write_text(SUITE.format(steps=400, env="toy/reach", fields="train.threads: 1"))

    def run(**options):
        return bench(str(tmp_path / "tiny.yaml"), "curl-sac", "2", tmp_path / "out", dry_run=True, **options)

    for options in ({"threads": 0}, {"workers": 0}):
        with pytest.raises(CommandError, match="at least 1"):
            run(**options)
    with pytest.raises(CommandError, match=r"--checkpoint-every -1: 0 \(at the end only\) or more"):
        run(checkpoint_every=-1)
    assert run(workers=2, probe=True) == 0
    said = capsys.readouterr().out
    assert "2 runs, 2 left" in said and "of memory at a time" in said and "probes" in said
    # half of one is done
    write_run(tmp_path / "out", "curl-sac", "toy/reach", 1, 5.0, "running", evaluations=5, env_steps=400)
    (tmp_path / "out" / "curl-sac" / "toy-reach" / "seed1" / "config.yaml").unlink()
    (cell, _) = make_grid(load_suite(str(tmp_path / "tiny.yaml")), ["curl-sac"], [1, 2])
    new_run(cell.agent, cell.task.env, dict(cell.overrides), 1, out=cell.folder(tmp_path / "out")).update_summary(steps=200)
    (begun, new) = Bench([cell, _], tmp_path / "out", 1).jobs
    assert (_done(begun), _done(new)) == (0.5, 0.0)


class Crashing(Handled):
    """An executor whose launches end with that code, at once, or when they are asked to."""

    def __init__(self, code, at_once=True):
        self.code, self.at_once = code, at_once

    def poll(self):
        return self.code if self.at_once else None

    def stop(self):
        pass

    def wait(self):
        return self.code


@pytest.mark.parametrize("code", [-signal.SIGTERM, -signal.SIGINT, 130])
def test_a_stop_is_no_crash(tmp_path, code):
    """A process that is told to stop before it listens for signals, or while it probes, is ended by them."""
    cells = tiny(tmp_path, [1])
    for _ in range(3):
        work = Bench(cells, tmp_path / "out", workers=1, executor=Crashing(code, at_once=False))
        assert not work.run(lambda bench: setattr(bench, "halted", bench.jobs[0].handle is not None), poll=0)
        assert work.jobs[0].state == "waiting" and work.jobs[0].attempts == 0


def test_a_run_that_is_killed_twice_has_failed_for_everybody(tmp_path):
    """It could say nothing itself, and would be missing from all statistics as one that is under way."""
    cells = tiny(tmp_path, [1, 2])
    for cell in cells:
        write_run(tmp_path / "out", "curl-sac", "toy/reach", cell.seed, 7.0, state="running")
        folder = RunFolder(cell.folder(tmp_path / "out"))
        folder.config_file.unlink()
        new_run(cell.agent, cell.task.env, dict(cell.overrides), cell.seed, out=folder.path)
    work = Bench(cells, tmp_path / "out", workers=1, executor=Crashing(-signal.SIGKILL))
    assert work.run(poll=0) and work.count("failed") == 2
    for run in read_runs([tmp_path / "out"])[0]:
        assert run.state == "failed" and run.counts and run.last_return == 7.0
        assert "killed by SIGKILL" in run.error and ".log" in run.error
    # it stays so, until it is asked for, or moved away
    assert Bench(cells, tmp_path / "out", workers=1).count("failed") == 2
    # nor does a command about other runs of the folder forget it
    Bench(tiny(tmp_path, [3]), tmp_path / "out", workers=1, executor=Crashing(-signal.SIGKILL)).run(poll=0)
    assert Bench(cells, tmp_path / "out", workers=1).count("failed") == 2
    work.jobs[0].folder.path.rename(tmp_path / "away")
    assert [job.state for job in Bench(cells, tmp_path / "out", workers=1).jobs] == ["waiting", "failed"]
    assert Bench(cells, tmp_path / "out", workers=1, retry_failed=True).count("waiting") == 2


def test_probes_follow_finished_runs(tmp_path):
    (cell,) = cells = tiny(tmp_path, [1], steps=40)
    out = tmp_path / "out"
    train(new_run(cell.agent, cell.task.env, dict(cell.overrides), 1, out=cell.folder(out)), show_progress=False)
    few = ["--episodes", "8", "--supervised-updates", "2", "--no-pictures"]
    work = Bench(cells, out, workers=1, probe=few)
    assert work.count("waiting") == 1, "it has finished, and has not been probed"
    assert work.run() and work.count("finished") == 1
    (run,) = read_runs([out])[0]
    assert run.probe is not None and run.probe["episodes"] == 8
    assert Bench(cells, out, workers=1, probe=few).count("finished") == 1, "once"
    # a probe that cannot be made leaves the run as it is
    (run.path / "probe").rename(run.path / "elsewhere")
    failing = Bench(cells, out, workers=1, probe=few, executor=Crashing(1))
    assert failing.run(poll=0) and failing.jobs[0].attempts == 2
    (row,) = results(failing.jobs)
    assert row["state"] == "finished" and row["error"].startswith("could not be probed") and row["return"] == run.last_return

    class Filming(Crashing):
        """Probes crash; films are made."""

        def start(self, launches):
            for launch in launches:
                if launch.command()[0] == "eval":
                    (Path(launch.folder) / "video").mkdir()
                    (Path(launch.folder) / "video" / "step40.mp4").touch()
            return super().start(launches)

    (out / "bench.json").unlink()
    filming = Bench(cells, out, workers=1, probe=few, video=True, executor=Filming(1))
    assert filming.run(poll=0), "a probe that cannot be made is not in the way of the film"
    (row,) = results(filming.jobs)
    assert row["state"] == "finished" and row["error"].startswith("could not be probed") and any(run.path.glob("video/*.mp4"))


OWN_AGENT = """
from crl import PixelEncoder
from stable_baselines3 import PPO


class Small(PixelEncoder):
    def __init__(self, space):
        super().__init__(space, filters=4, layers=2, features_dim=8)


def mine(env, seed, device, n_steps=32):
    kwargs = dict(net_arch=[8], features_extractor_class=Small)
    return PPO("CnnPolicy", env, n_steps=n_steps, batch_size=16, n_epochs=1, seed=seed, device=device, policy_kwargs=kwargs)
"""


def test_an_agent_of_ones_own_is_run_filmed_and_reported(tmp_path, capsys):
    """A plain function goes through the same command as recipes do."""
    (tmp_path / "agents.py").write_text(OWN_AGENT)
    fields = "train.threads: 1"
    (tmp_path / "tiny.yaml").write_text(SUITE.format(steps=64, env="toy/reach-discrete", fields=fields))
    asked = (str(tmp_path / "tiny.yaml"), f"{tmp_path / 'agents.py'}:mine", "1", tmp_path / "out")
    assert bench(*asked, workers=1, video=True) == 0
    (run,) = read_runs([tmp_path / "out"])[0]
    assert (run.label, run.state, run.last_steps) == ("mine", "finished", 64) and run.differences == []
    assert [video.name for video in run.videos] == ["step64.mp4"] and run.videos[0].stat().st_size > 0
    assert "| mine | toy/reach-discrete | 1 | finished |" in capsys.readouterr().out
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.*4")}
    assert bench(*asked, workers=1, video=True) == 0 and made == {path: path.stat().st_mtime_ns for path in made}
    # another function under the same name would be mixed with this one
    (tmp_path / "agents.py").write_text(OWN_AGENT.replace("n_steps=32", "n_steps=16"))
    with pytest.raises(BenchError, match=r"another configuration \(source: \w{12} there, \w{12} here\): choose another --out"):
        bench(*asked, workers=1)
    (run,) = read_runs([tmp_path / "out"])[0]
    assert run.stale and run.differences[0].startswith("source: ")


def test_what_a_crashed_run_said_is_told(tmp_path):
    class Telling(Crashing):
        def start(self, launches):
            for launch in launches:
                Path(launch.log).write_text("crl: an older one\ncrl: the disk is full\nTraceback\n")
            return super().start(launches)

    work = Bench(tiny(tmp_path, [1]), tmp_path / "out", workers=1, executor=Telling(2))
    assert work.run(poll=0) and "ended with exit code 2 (the disk is full): " in work.jobs[0].error


def test_a_log_tells_of_pauses(tmp_path, capsys):
    work, tell = Bench(tiny(tmp_path, [1]), tmp_path / "out", workers=1), _Lines()
    tell(work)
    work.out.mkdir()
    work.pause_file.touch()
    tell(work)
    tell(work)
    work.pause_file.unlink()
    tell(work)
    said = capsys.readouterr().err
    assert said == f"PAUSED by {work.pause_file}: remove it to go on\ngoing on after a pause\n"


def test_steps_are_told_between_checkpoints(tmp_path):
    (cell,) = tiny(tmp_path, [1])
    folder = new_run(cell.agent, cell.task.env, dict(cell.overrides), 1, out=cell.folder(tmp_path / "out"))
    job = Bench([cell], tmp_path / "out", workers=1).jobs
    assert results(job)[0]["steps"] == 0
    Table(folder.eval_file).append({"step": 30, "env_steps": 30, "mean": 1.0, "std": 0.0, "seconds": 1.0})
    assert results(job)[0]["steps"] == 30
    folder.update_summary(steps=40)
    assert results(job)[0]["steps"] == 40


def test_an_ablation_is_a_grid_arm_a_value(tmp_path, capsys):
    """``--set field=a,b``: every value is run on the same seeds, and the report names the arms."""
    (tmp_path / "tiny.yaml").write_text(SUITE.format(steps=400, env="toy/reach", fields="train.threads: 1"))
    suite, items = tmp_path / "tiny.yaml", ["objective.temperature=0.1,0.5"]
    bench(str(suite), "curl-sac", "2", tmp_path / "out", items, dry_run=True)
    assert "4 runs, 4 left" in capsys.readouterr().out
    for cell in make_grid(load_suite(str(suite)), ["curl-sac"], [1, 2], items):
        name = cell.label.partition("=")[2]
        write_run(tmp_path / "out", "curl-sac", "toy/reach", cell.seed, 10.0, label=cell.label, overrides=dict(cell.overrides))
        assert resolve("curl-sac", "toy/reach", cell.overrides)["objective"]["temperature"] == float(name)
    found = compare([tmp_path / "out"])
    arms = [f"curl-sac+objective.temperature={value}" for value in ("0.1", "0.5")]
    assert found.agents == arms and all(found.seeds[arm] == [1, 2] for arm in arms)
    with pytest.raises(ConfigError, match="temperature"):
        bench(str(suite), "curl-sac", "2", tmp_path / "out", ["objective.temperature=0.1,0"], dry_run=True)


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

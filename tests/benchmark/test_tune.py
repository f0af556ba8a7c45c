"""A search: its syntax, what it refuses, that it can be killed and taken up, and what it leaves."""

import itertools
import json
import signal
import subprocess
import sys
import time

import pytest
import yaml

from crl.agents.fields import ConfigError
from crl.benchmark.grid import GridError, parse_variants
from crl.benchmark.record import RecordError, measured_row
from crl.benchmark.search import Choice, Range, SearchError, parse_search
from crl.benchmark.tune import TuneError, _Reports, tune
from crl.runs.folder import Table
from crl.runs.run import new_run, train
from crl.runs.settings import SettingError, settings

from ..runs.small import FIELDS, crl
from .executors import Handled
from .synthetic import write_run

optuna = pytest.importorskip("optuna")
AGENT, ENV = "curl-sac", "toy/reach"


def parse(*items, fixed=None):
    return parse_search(items, AGENT, ENV, fixed or {})


def test_ranges_and_choices():
    space = parse("objective.weight=0.05..1.0:log", "policy.features_dim=50,100", "algorithm.batch_size=64..256:step=32")
    assert space["objective.weight"] == Range(0.05, 1.0, log=True)
    assert space["policy.features_dim"] == Choice(("50", "100"))
    assert space["algorithm.batch_size"] == Range(64, 256, step=32, whole=True)
    assert parse("policy.net_arch=64,64;128,128")["policy.net_arch"] == Choice(("64,64", "128,128"))
    kinds = [part.distribution() for part in space.values()]
    assert kinds[0] == optuna.distributions.FloatDistribution(0.05, 1.0, log=True)
    assert kinds[2] == optuna.distributions.IntDistribution(64, 256, step=32)


@pytest.mark.parametrize(
    "items, error, words",
    [
        ([], SearchError, "at least one field"),
        (["objective.weight"], SearchError, "write field=low..high"),
        (["objective.weight=1"], SearchError, "at least two values"),
        (["objective.weight=1,1"], SearchError, "at least two values"),
        (["objective.weight=1..0.5"], SearchError, "low below high"),
        (["objective.weight=0..1:log"], SearchError, "above 0 for :log"),
        (["objective.weight=0..1:lin"], SearchError, ":log or :step"),
        (["objective.weight=a..b"], SearchError, "two numbers"),
        (["algorithm.batch_size=64..128.5"], SearchError, "whole numbers"),
        (["algorithm.batch_size=0..64"], ConfigError, "at least"),
        (["objective.wieght=0..1"], ConfigError, "Nearest: objective.weight"),
        (["replay.augment=random_crop,random_crp"], ConfigError, "random_crop"),
        (["objective.weight=0..1", "objective.weight=0..2"], SearchError, "given twice"),
        (["train.env_steps=100..200"], SearchError, "must be the same in all"),
    ],
)
def test_wrong_searches_before_anything_runs(items, error, words):
    with pytest.raises(error, match=words):
        parse(*items)


def test_reported_seeds_are_refused(tmp_path):
    with pytest.raises(GridError, match="to choose hyperparameters there are 101 to 200"):
        tune(AGENT, ENV, 1, ["objective.weight=0..1"], seeds="1-3", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_trials_that_would_never_learn_are_refused(tmp_path):
    for fixed, item in (
        ({"train.env_steps": 200}, "objective.weight=0..1"),
        ({"train.env_steps": 2000}, "algorithm.learning_starts=100..2000"),
    ):
        with pytest.raises(TuneError, match="never learns: it updates after .*--set train.env_steps="):
            tune("curl-sac", "toy/reach", 1, [item], fixed, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_optuna_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr("crl.benchmark.tune.find_spec", lambda _: None)
    with pytest.raises(TuneError, match=r"pip install 'crl\[tune\]'"):
        tune(AGENT, ENV, 1, ["objective.weight=0..1"], out=tmp_path)


def test_tuning_runs_are_never_recorded(tmp_path):
    with pytest.raises(RecordError, match="tuning seed"):
        measured_row(write_run(tmp_path, seed=101))


def command(out, *more):
    sets = [f"{name}={value}" for name, value in {**FIELDS, "train.env_steps": 120, "objective.weight": 0}.items()]
    parts = ["tune", AGENT, ENV, "--trials", "3", "--seeds", "101-102", "--out", str(out), "--checkpoint-every", "20"]
    parts += ["--search", "algorithm.learning_rate=1e-4..1e-2:log", "--search", "algorithm.batch_size=4,8", "--no-prune"]
    return [*parts, *(part for item in sets for part in ("--set", item) if not item.startswith("algorithm.batch")), *more]


class Here(Handled):
    """An executor that runs in this process; a run of the learning rate that ``broken`` names crashes."""

    def __init__(self):
        self.launches, self.broken = [], None

    def start(self, launches):
        for launch in launches:
            self.launches.append(launch.folder)
            sets = dict(item.split("=", 1) for word, item in itertools.pairwise(launch.begin) if word == "--set")
            seed = int(launch.begin[launch.begin.index("--seed") + 1])
            if self.broken is None or len(self.launches) not in self.broken:
                train(new_run(AGENT, ENV, sets, seed, out=launch.folder, checkpoint_every=0), show_progress=False)
        return super().start(launches)

    def poll(self):
        return 1 if self.broken is not None and len(self.launches) in self.broken else 0

    def stop(self):
        """Its runs end before anybody can ask."""

    wait = poll


def test_a_search(tmp_path, monkeypatch, capsys):
    """Three trials on two seeds each, of which one crashes twice: it is told so, and the others go on."""
    here = Here()
    here.broken = (3, 4)
    monkeypatch.setattr("crl.benchmark.runner.LocalExecutor", lambda: here)
    monkeypatch.setattr("crl.benchmark.runner.time.sleep", lambda seconds: None)
    fixed = {**FIELDS, "train.env_steps": 40, "train.eval_every": 20, "objective.weight": 0}
    search = ["algorithm.learning_rate=1e-4..1e-2:log", "policy.net_arch=16;16,16"]
    fixed.pop("policy.net_arch")
    assert tune(AGENT, ENV, 2, search, fixed, "101-102", tmp_path / "out", prune=False) == 0
    assert "| fail |  |" in capsys.readouterr().out
    assert tune(AGENT, ENV, 3, search, fixed, "101-102", tmp_path / "out", prune=False) == 0
    study = optuna.load_study(study_name="crl", storage=f"sqlite:///{tmp_path / 'out' / 'study.db'}")
    trials = study.get_trials()
    assert [trial.state.name for trial in trials] == ["COMPLETE", "FAIL", "COMPLETE"]
    assert len(here.launches) == len(set(here.launches)) + 1, "the broken one was tried twice, all else once"
    for trial in (trials[0], trials[2]):
        runs = sorted((tmp_path / "out" / "trials" / f"{trial.number:04d}").rglob("summary.json"))
        finals = [json.loads(run.read_text())["final_return"] for run in runs]
        assert len(finals) == 2 and trial.value == pytest.approx(sum(finals) / 2)
        assert sorted(trial.intermediate_values) == [20, 40, 60, 80]
    best = max(trials[0], trials[2], key=lambda trial: trial.value)
    chosen = settings([str(tmp_path / "out" / "best.yaml")])
    assert chosen["algorithm.learning_rate"] == pytest.approx(best.params["algorithm.learning_rate"])
    assert chosen["policy.net_arch"] == [int(width) for width in best.params["policy.net_arch"].split(",")]
    assert f"best: trial {best.number}" in capsys.readouterr().out
    with pytest.raises(TuneError, match="holds another search"):
        tune(AGENT, ENV, 3, search[:1], fixed, "101-102", tmp_path / "out")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_and_taken_up(tmp_path):
    out = tmp_path / "out"
    process = subprocess.Popen([sys.executable, "-m", "crl", *command(out)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    folder = out / "trials" / "0000" / AGENT / "toy-reach" / "seed102"
    end = time.monotonic() + 300
    while not (folder / "checkpoints" / "step000000000020" / "manifest.json").exists():
        assert process.poll() is None and time.monotonic() < end, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert json.loads((folder / "summary.json").read_text())["state"] == "running", "killed in the middle of a trial"
    first = (folder.with_name("seed101") / "eval.csv").read_bytes()
    study = optuna.load_study(study_name="crl", storage=f"sqlite:///{out / 'study.db'}")
    drawn = study.trials[0].params
    result = crl(*command(out))
    assert result.returncode == 0, result.stderr
    trials = study.get_trials()
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 3
    assert trials[0].params == drawn, "the trial that was under way is gone on with"
    assert len({tuple(trial.params.values()) for trial in trials}) == 3
    assert (folder.with_name("seed101") / "eval.csv").read_bytes() == first, "what was finished is left alone"
    for trial in trials:
        runs = [path.parent for path in sorted((out / "trials" / f"{trial.number:04d}").rglob("summary.json"))]
        assert len(runs) == 2
        finals = [json.loads((run / "summary.json").read_text())["final_return"] for run in runs]
        assert trial.value == pytest.approx(sum(finals) / 2)
        for run in runs:
            assert [int(row["step"]) for row in Table(run / "eval.csv").rows()] == [60, 120]
            config = yaml.safe_load((run / "config.yaml").read_text())
            assert config["algorithm"]["learning_rate"] == pytest.approx(trial.params["algorithm.learning_rate"])
            assert config["algorithm"]["batch_size"] == int(trial.params["algorithm.batch_size"])
        # seed after seed: the second one's evaluations are told as means with the first one's end
        assert sorted(trial.intermediate_values) == [60, 120, 180, 240]
        assert trial.intermediate_values[240] == pytest.approx(trial.value)
    best = max(trials, key=lambda trial: trial.value)
    chosen = yaml.safe_load((out / "best.yaml").read_text())
    assert chosen["algorithm.learning_rate"] == pytest.approx(best.params["algorithm.learning_rate"])
    assert f"best: trial {best.number}" in result.stdout and "101" in (out / "best.yaml").read_text()
    # another search does not belong into this folder, and nothing is left to do for this one
    other = crl(*command(out, "--search", "algorithm.gamma=0.9..0.99"))
    assert other.returncode == 2 and "holds another search" in other.stderr
    files = {path: path.stat().st_mtime_ns for path in out.rglob("summary.json")}
    assert crl(*command(out)).returncode == 0
    assert files == {path: path.stat().st_mtime_ns for path in out.rglob("summary.json")}


class Never:
    """A pruner's opposite, and what of a trial is asked for."""

    def __init__(self, prune_at):
        self.study, self.trials, self.number, self.prune_at, self.values = self, [self], 0, prune_at, {}
        self.intermediate_values = {}

    def report(self, value, place):
        assert place not in self.values
        self.values[place] = value

    def should_prune(self):
        return max(self.values) >= self.prune_at


def test_what_the_pruner_is_told(tmp_path):
    from types import SimpleNamespace

    from crl.runs.folder import RunFolder

    paths = [write_run(tmp_path, env=ENV, seed=101, final=30.0, env_steps=1000)]
    paths.append(write_run(tmp_path, env=ENV, seed=102, final=10.0, env_steps=1000, evaluations=4, state="running"))
    jobs = [SimpleNamespace(folder=RunFolder(path)) for path in paths]
    trial = Never(prune_at=10_000)
    told = _Reports(trial, 1000)
    assert not told.look(jobs) and not told.look(jobs), "each evaluation once"
    assert sorted(trial.values) == [*range(100, 1001, 100), 1100, 1200, 1300, 1400]
    row = Table(paths[1] / "eval.csv").rows()[0]
    assert trial.values[1100] == pytest.approx((30.0 + float(row["mean"])) / 2)
    early = _Reports(Never(prune_at=300), 1000)
    assert early.look(jobs) and early.pruned and max(early.trial.values) == 300


def test_files_of_values(tmp_path):
    file = tmp_path / "best.yaml"
    file.write_text("# the best\nobjective.weight: 0.5\npolicy.net_arch: [16, 16]\n")
    assert settings([str(file), "objective.weight=1"]) == {"objective.weight": "1", "policy.net_arch": [16, 16]}
    assert parse_variants([str(file), "a=1,2"])[1] == {"objective.weight": 0.5, "policy.net_arch": [16, 16], "a": "2"}
    file.write_text("objective: {weight: 1}\n")
    for path in (file, tmp_path / "nowhere.yaml"):
        with pytest.raises(SettingError, match="--set"):
            settings([str(path)])

"""What is read from runs' folders, and what readers of a comparison are told."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest

from crl.agents.sac_family import SAC
from crl.benchmark.comparison import compare
from crl.benchmark.grid import make_grid, same_run
from crl.benchmark.plan import PlanError, read_plan, write_plan
from crl.benchmark.published import DATA, protocol_differences, published, published_lengths
from crl.benchmark.record import RecordError, curve_name, measured_row, read_measured, record, record_all
from crl.benchmark.restore import restore
from crl.benchmark.results import ResultsError, config_hash, find_runs, read_runs
from crl.benchmark.runner import Bench
from crl.benchmark.suite import Suite, SuiteError, Task, load_suite
from crl.runs.folder import RunFolder

from .synthetic import write_grid, write_run

CARTPOLE, CUP = "dmc/cartpole-swingup", "dmc/ball_in_cup-catch"


def only(out):
    runs, words = read_runs([out])
    assert len(runs) == 1 and not words
    return runs[0]


def test_a_finished_run(tmp_path):
    folder = write_run(tmp_path, final=512.5, probe=0.7)
    (folder / "video").mkdir()
    (folder / "video" / "step12500.mp4").touch()
    run = only(tmp_path)
    assert (run.agent, run.label, run.env, run.task, run.seed) == ("curl-sac", "curl-sac", CARTPOLE, CARTPOLE, 1)
    assert run.state == "finished" and run.counts and run.last_return == 512.5 and run.last_steps == run.budget == 100_000
    np.testing.assert_array_equal(run.curve.env_steps, np.arange(1, 11) * 10_000)
    np.testing.assert_allclose(run.curve.seconds, np.arange(1, 11) * 315.0)
    assert run.differences == [] and not run.stale and len(run.config_hash) == 12
    assert run.probe["representations"]["trained"]["effective_rank"] == pytest.approx(7)
    assert [video.name for video in run.videos] == ["step12500.mp4"]


def test_the_last_evaluation_counts_and_not_the_best(tmp_path):
    folder = write_run(tmp_path, final=100.0)
    rows = (folder / "eval.csv").read_text().replace(",100.0,", ",37.0,", 1)
    (folder / "eval.csv").write_text(rows)
    run = only(tmp_path)
    assert run.last_return == 37.0 and max(run.curve.mean) > 80


def test_runs_that_did_not_finish(tmp_path):
    write_run(tmp_path, seed=1, state="failed", evaluations=6)
    write_run(tmp_path, seed=2, state="running", evaluations=4)
    write_run(tmp_path, seed=3, state="failed", evaluations=0)
    failed, running, at_once = read_runs([tmp_path])[0]
    assert failed.counts and failed.last_steps == 60_000 and failed.error == "the disk is full"
    assert not running.counts and running.last_steps == 40_000
    assert not at_once.counts and at_once.last_return is None and at_once.last_steps == 0


def test_hash_is_of_the_recipe_alone(tmp_path):
    write_run(tmp_path, seed=1)
    write_run(tmp_path, seed=2, revision="other")
    write_run(tmp_path, seed=3, overrides={"objective.weight": 0.5}, label="curl-sac+objective.weight=0.5")
    first, second, variant = read_runs([tmp_path])[0]
    assert first.config_hash == second.config_hash != variant.config_hash
    without = {key: value for key, value in first.config.items() if key != "run"}
    assert config_hash(without) == first.config_hash
    # fields that came later count once they change something
    earlier = {**without, "train": {k: v for k, v in without["train"].items() if k not in ("final_episodes", "eval_envs")}}
    assert config_hash(earlier) == first.config_hash
    assert config_hash({**without, "train": {**without["train"], "final_episodes": 100}}) != first.config_hash
    assert variant.label == "curl-sac+objective.weight=0.5" and variant.differences == []


def test_an_older_recipe_is_stale(tmp_path):
    write_run(tmp_path, change=lambda config: config["algorithm"].update(tau=0.02))
    run = only(tmp_path)
    assert run.stale and run.differences == ["algorithm.tau: 0.02 (0.01)"]


def test_configurations_are_never_mixed(tmp_path):
    """Runs of one agent, configured otherwise, in folders that do not say so."""
    write_run(tmp_path, seed=1, path=tmp_path / "one")
    write_run(tmp_path, seed=2, path=tmp_path / "two", overrides={"objective.weight": 0.5})
    write_run(tmp_path, seed=1, path=tmp_path / "three", env=CUP, overrides={"objective.weight": 0.5})
    labels = {run.path.name: run.label for run in read_runs([tmp_path])[0]}
    half = "curl-sac+objective.weight=0.5"
    assert labels == {"one": "curl-sac", "two": half, "three": half}


def test_fields_that_came_later_set_no_runs_apart(tmp_path):
    write_run(tmp_path, seed=1)
    write_run(
        tmp_path, seed=2, change=lambda config: (config["objective"].pop("temperature"), config["train"].pop("eval_envs"))
    )
    runs, _ = read_runs([tmp_path])
    assert [run.label for run in runs] == ["curl-sac"] * 2 and not any(run.stale for run in runs)
    assert runs[0].config_hash == runs[1].config_hash


def test_runs_are_found(tmp_path):
    folder = write_run(tmp_path / "a")
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "config.yaml").touch()
    assert find_runs(tmp_path) == [folder] == find_runs(folder)
    assert len(read_runs([tmp_path, folder])[0]) == 1, "each once"
    (tmp_path / "hydra").mkdir()
    (tmp_path / "hydra" / "config.yaml").write_text("db: mine\n")
    runs, words = read_runs([tmp_path])
    assert len(runs) == 1 and "not of a run" in words[0]
    broken = write_run(tmp_path, seed=9)
    (broken / "eval.csv").write_text("step,env_steps,mean,std,seconds\n1,8,high,0,1\n")
    assert any("is not a table of evaluations" in word for word in read_runs([tmp_path])[1])


def test_no_runs(tmp_path):
    with pytest.raises(ResultsError, match="no folder"):
        read_runs([tmp_path / "nowhere"])
    with pytest.raises(ResultsError, match="no runs in"):
        read_runs([tmp_path])
    write_run(tmp_path, seed=101)
    with pytest.raises(ResultsError, match="tuning seeds"):
        compare([tmp_path])


def test_comparison(tmp_path):
    found = compare([write_grid(tmp_path)])
    assert found.tasks == [CUP, CARTPOLE] or found.tasks == [CARTPOLE, CUP]
    stale = "curl-sac+algorithm.tau=0.02"
    assert set(found.agents) == {"curl-sac", stale, "rad-sac", "sac", "frozen-sac"}
    assert found.missing == [("curl-sac", CARTPOLE, 5), ("frozen-sac", CUP, 2)]
    assert found.bounds[CARTPOLE] == (0, 1000)
    matrix = found.matrix()
    column = found.tasks.index(CUP)
    assert np.isnan(matrix["rad-sac"][4, column]), "it is not finished"
    assert np.isfinite(matrix["sac"]).all(), "one failed, and counts"
    said = " ".join(found.words)
    for words in (
        "Not begun: 2 runs (curl-sac on dmc/cartpole-swingup, seed 5; frozen-sac on dmc/ball_in_cup-catch, seed 2)",
        "Failed: 1 run (sac on dmc/cartpole-swingup, seed 4: the disk is full)",
        "Not finished: 1 run",
        "Stale: 1 run",
        f"Fewer than 5 seeds: {stale}, frozen-sac",
    ):
        assert words in said
    assert "machine" not in said and "episodes" not in said


def test_protocols_that_differ_are_told(tmp_path):
    write_run(tmp_path, seed=1)
    write_run(tmp_path, "sac", seed=1, overrides={"train.eval_episodes": 3}, revision="abc-dirty", env_steps=80_000)
    said = " ".join(compare([tmp_path]).words)
    assert "On dmc/cartpole-swingup not all runs have the same number of evaluation episodes: 10, 3" in said
    assert "same length in environment steps: 100000, 80000" in said
    assert "not all runs have the same revision" in said.lower() and "not committed" in said


def test_tuning_seeds_and_unknown_tasks_stay_apart(tmp_path):
    write_run(tmp_path, seed=1)
    write_run(tmp_path, seed=101)
    write_run(tmp_path, env="dmc/fish-swim", seed=1)
    found = compare([tmp_path])
    assert [run.seed for run in found.tuning] == [101] and len(found.runs) == 2
    said = " ".join(found.words)
    assert "1 run on tuning seeds" in said and "No normalisation is known for dmc/fish-swim" in said
    assert found.normalised_tasks == [CARTPOLE]
    with pytest.raises(SuiteError, match="none of the tasks"):
        compare([tmp_path], suite="toy")


def test_a_cell_counts_once(tmp_path):
    write_run(tmp_path / "one", seed=1, final=300.0, state="running", evaluations=5)
    write_run(tmp_path / "two", seed=1, final=200.0)
    write_run(tmp_path / "three", seed=1, final=900.0)
    found = compare([tmp_path / "one", tmp_path / "two", tmp_path / "three"])
    # the first that has finished, although a later one is better
    assert [run.last_return for run in found.runs] == [200.0]
    assert sum("was run twice" in word for word in found.words) == 2


def test_task_curves(tmp_path):
    write_run(tmp_path, seed=1, final=100.0)
    write_run(tmp_path, seed=2, final=200.0, state="failed", evaluations=5)
    found = compare([tmp_path])
    one, other = found.on("curl-sac", CARTPOLE)
    curve = found.task_curve("curl-sac", CARTPOLE)
    np.testing.assert_array_equal(curve.x, np.arange(1, 11) * 10_000)
    # the failed run keeps its last return to the end
    held = np.concatenate([other.curve.mean, [other.curve.mean[-1]] * 5])
    np.testing.assert_allclose(curve.point, (one.curve.mean + held) / 2)
    clock = found.task_curve("curl-sac", CARTPOLE, clock=True)
    assert clock.x[0] == pytest.approx(330 / 3600) and clock.x[-1] == pytest.approx(3150 / 3600)
    middle = 0.5 * (np.interp(3600 * clock.x, one.curve.seconds, one.curve.mean))
    middle += 0.5 * np.interp(3600 * clock.x, other.curve.seconds, other.curve.mean)
    np.testing.assert_allclose(clock.point, middle)
    assert found.task_curve("curl-sac", "another") is None


def test_plan(tmp_path):
    """A folder that says what was meant to be run: labels, tasks, scores and what is missing come from it."""
    fields = {"env.kwargs.distractors": 4}
    tasks = (Task("toy/reach", 5, 45, "toy/reach"), Task("toy/reach", 6, 46, "toy/reach-busy", fields))
    suite = Suite("mine", "two tasks", 2000, 500, 10, tasks)
    write_plan(tmp_path, suite, make_grid(suite, ["curl-sac"], [1]))
    write_plan(tmp_path, suite, make_grid(suite, ["sac"], [1, 2]))
    plan = read_plan(tmp_path)
    assert plan.suite == "mine" and len(plan.runs) == 6 and plan.bounds["toy/reach-busy"] == (6, 46)
    busy = suite.overrides(tasks[1])
    write_run(tmp_path, "curl-sac", "toy/reach", 1, 30.0, task="toy/reach-busy", overrides=busy, env_steps=2000)
    found = compare([tmp_path])
    assert found.runs[0].task == "toy/reach-busy" and found.runs[0].differences == []
    assert found.title == "crl bench mine" and found.tasks == ["toy/reach", "toy/reach-busy"]
    assert len(found.missing) == 5 and found.seeds == {"curl-sac": [1], "sac": [1, 2]}
    run = found.runs[0]
    assert json.loads(measured_row(run.path)["set"]) == {**busy, "train.threads": run.config["train"]["threads"]}
    with pytest.raises(PlanError, match="holds runs of the suite mine"):
        write_plan(tmp_path, Suite("other", "", 1, 1, 1, tasks), [])
    (tmp_path / "plan.json").write_text("[")
    with pytest.raises(PlanError, match="cannot be read"):
        compare([tmp_path])


def test_published_numbers():
    rows = {(row.method, row.source): row for row in published(CARTPOLE, 100_000)}
    curl = rows["CURL", "CURL paper v4 Table 1"]
    assert (curl.mean, curl.std, curl.seeds, curl.env_steps) == (582, 146, 10, 100_000)
    assert published(CARTPOLE, 123) == [] and 500_000 in published_lengths(CARTPOLE)
    assert published("toy/reach", 100_000) == []
    pong = {row.method: row.mean for row in published("atari/Pong", 400_000)}
    assert pong["Human"] == 14.6 and pong["Random"] == -20.7 and pong["CURL"] == -16.5
    for file in DATA.glob("*_published.csv"):
        for row in csv.DictReader(file.open()):
            assert row["source"] and float(row["mean"]) is not None
            assert not row["std"] or float(row["std"]) >= 0
    known = {(row["env"].partition("/")[0], row["method"]) for row in csv.DictReader((DATA / "protocols.csv").open())}
    for kind, file in (("dmc", "dmc"), ("atari", "atari100k"), ("crafter", "crafter")):
        methods = {row["method"] for row in csv.DictReader((DATA / f"{file}_published.csv").open())}
        assert {(kind, method) for method in methods} <= known
    scores = {row.method: row.mean for row in published("crafter/reward", 1_000_000, "score")}
    assert scores["AD"] == 21.8 and scores["PPO (Moon2023 ResNet)"] == 15.6 and scores["Random"] == 1.6
    assert "AD" not in {row.method for row in published("crafter/reward", 1_000_000) if row.mean == 21.8}
    # every suite of published tasks has something to be read against
    for name in ("dmc100k", "dmc500k", "dmc-easy", "dmc-medium", "dmc-hard", "atari100k", "crafter1m"):
        suite = load_suite(name)
        for task in suite.tasks:
            assert any(steps <= suite.env_steps for steps in published_lengths(task.env)), (name, task.env)


def test_protocol_differences_are_named(tmp_path):
    write_run(tmp_path, seed=1)
    write_run(tmp_path, seed=1, env="dmc/walker-walk")
    walker, cartpole = sorted((run.config for run in read_runs([tmp_path])[0]), key=lambda c: c["env"]["id"], reverse=True)
    assert "batch 512, ours 128" in protocol_differences("CURL", cartpole)
    assert not any("action repeat" in entry for entry in protocol_differences("CURL", cartpole))
    drqv2 = protocol_differences("DrQ-v2", cartpole)
    assert {"action repeat 2, ours 8", "batch 256, ours 128", "agent steps per update 2, ours 1"} <= set(drqv2)
    assert "batch 512, ours 128" in protocol_differences("DrQ-v2", walker)
    assert protocol_differences("unheard of", cartpole) == ["protocol not known"]


def test_recording(tmp_path):
    table = tmp_path / "data" / "measured.csv"
    row = record(write_run(tmp_path, final=512.34), table)
    assert row["final_return"] == 512.3 and row["revision"] == "abc1234" and json.loads(row["set"]) == {}
    record(write_run(tmp_path, seed=2, overrides={"objective.weight": 0.5}), table)
    record(write_run(tmp_path / "again", final=400.0), table)
    rows = read_measured(table)
    assert [(row["seed"], row["final_return"], row["stale"]) for row in rows] == [("1", "400.0", False), ("2", "500.0", False)]
    assert (tmp_path / "data" / "curves" / f"{curve_name(rows[0])}.csv").read_text().count("\n") == 11
    assert curve_name(rows[0]) != curve_name({**rows[1], "seed": "1"})
    old = write_run(tmp_path, seed=3, change=lambda config: config["algorithm"].update(gone=1))
    record(old, table)
    assert [row["stale"] for row in read_measured(table)] == [False, False, True]
    with pytest.raises(RecordError, match="only finished runs count"):
        measured_row(write_run(tmp_path, seed=4, state="failed", evaluations=3))
    with pytest.raises(RecordError, match="nobody can look up"):
        measured_row(write_run(tmp_path, seed=5, revision="abc-dirty"))


def test_a_grid_is_recorded_at_once(tmp_path):
    out, table = tmp_path / "grid", tmp_path / "data" / "measured.csv"
    for seed in (1, 2):
        write_run(out, seed=seed, final=100.0 * seed)
    write_run(out, seed=3, change=lambda config: config["algorithm"].update(gone=1))
    write_run(out, "sac", seed=1, state="running", evaluations=4)
    write_run(out, "sac", seed=2, revision="abc-dirty")
    write_run(out, "sac", seed=101)
    found = record_all(out, table)
    assert [entry.kept for entry in found] == [True] * 3 + [False] * 3
    assert "stale" in found[2].words and not any("stale" in entry.words for entry in found[:2])
    said = " ".join(entry.words for entry in found[3:])
    assert "running" in said and "nobody can look up" in said and "tuning seed 101" in said
    rows, curves = table.read_text(), {file.name for file in (table.parent / "curves").iterdir()}
    assert rows.count("\n") == 4 and len(curves) == 3
    before = {file: file.stat().st_mtime_ns for file in table.parent.rglob("*.csv")}
    again = record_all(out, table)
    assert all("recorded already" in entry.words for entry in again[:3])
    assert before == {file: file.stat().st_mtime_ns for file in table.parent.rglob("*.csv")}
    next((table.parent / "curves").glob("curl-sac-dmc-cartpole-swingup-seed2-*.csv")).unlink()
    assert "already" not in record_all(out, table)[1].words and table.read_text() == rows
    for r2 in (0.5, 0.7):  # a probe that comes later, and another one after it
        file = found[0].path / "probe" / "step12500" / "probe.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"run": str(out), "representations": {"r2": r2}}))
        assert ["already" in entry.words for entry in record_all(out, table)[:2]] == [False, True]
        assert table.read_text() == rows
        (kept,) = (table.parent / "probes").iterdir()
        assert json.loads(kept.read_text()) == {"representations": {"r2": r2}}, "without where it lay"
    with pytest.raises(RecordError, match="no runs in"):
        record_all(tmp_path / "nowhere", table)


def test_recorded_runs_are_laid_where_a_benchmark_skips_them(tmp_path):
    suite, table = load_suite("swingup100k"), tmp_path / "data" / "measured.csv"
    cells = make_grid(suite, {"curl-sac": [1, 2], "sac": [1]})
    there, here = tmp_path / "there", tmp_path / "here"
    protocol = {"train.eval_every": suite.eval_every, "train.eval_episodes": suite.eval_episodes}
    written = write_run(there, seed=1, final=812.3, probe=0.7, overrides=protocol)
    RunFolder(written).update_summary(peak_memory_gb=2.5)
    record_all(there, table)
    record(write_run(tmp_path / "old", seed=2, change=lambda config: config["algorithm"].update(gone=1)), table)
    assert restore(cells, here, table) == [here / "curl-sac" / "dmc-cartpole-swingup" / "seed1"]
    assert [job.state for job in Bench(cells, here, 1, probe=[]).jobs] == ["finished", "waiting", "waiting"]
    run, old = only(here), only(there)
    for name in ("state", "label", "task", "seed", "budget", "config_hash", "probe", "last_return", "differences"):
        assert getattr(run, name) == getattr(old, name), name
    assert all(np.array_equal(a, b) for a, b in zip(run.curve, old.curve, strict=True)) and not run.stale
    assert measured_row(run.path) == {**measured_row(old.path), "set": "{}"}
    assert measured_row(run.path)["memory_gb"] == 2.5
    assert restore(cells, here, table) == []


def test_recorded_runs_of_other_lengths_and_revisions_keep_their_curves(tmp_path):
    table = tmp_path / "data" / "measured.csv"
    record(write_run(tmp_path / "a", final=300.0, revision="fff1111"), table)
    record(write_run(tmp_path / "b", final=500.0, revision="aaa2222"), table)
    record(write_run(tmp_path / "c", final=800.0, env_steps=500_000), table)
    assert len(list((table.parent / "curves").iterdir())) == 3
    suite = load_suite("dmc100k")
    for steps, last in ((100_000, 500.0), (500_000, 800.0)):
        (cell,) = (c for c in make_grid(suite, ["curl-sac"], [1], ["train.eval_every=10000"]) if c.task.env == CARTPOLE)
        # as the runs that were written: nothing is set but their length
        cell = replace(cell, overrides={"train.env_steps": steps})
        (path,) = restore([cell], tmp_path / str(steps), table)
        run = only(path)
        assert (run.budget, run.last_steps, run.last_return, run.summary["final_return"]) == (steps, steps, last, last)


def test_rows_of_an_older_update_are_stale(tmp_path, monkeypatch):
    """The configuration says nothing of what the code makes of it."""
    table = tmp_path / "data" / "measured.csv"
    record(write_run(tmp_path / "grid", seed=1), table)
    newer = replace(SAC, update=2)
    for module in ("record", "results", "restore", "grid"):
        monkeypatch.setattr(f"crl.benchmark.{module}.family_of", lambda agent: newer)
    assert [row["stale"] for row in read_measured(table)] == [True]
    old = only(tmp_path / "grid")
    assert old.stale and old.differences == ["update: 1 (2)"]
    (cell,) = (c for c in make_grid(load_suite("dmc100k"), ["curl-sac"], [1]) if c.task.env == CARTPOLE)
    assert restore([replace(cell, overrides={})], tmp_path / "restored", table) == []
    assert "update: 1 there, 2 here" in same_run(replace(cell, overrides={}), old.config)
    write_run(tmp_path / "grid", seed=2, update=2)
    assert {run.label for run in read_runs([tmp_path / "grid"])[0]} == {"curl-sac", "curl-sac+update=1"}


def test_a_part_of_a_benchmark_is_read_by_its_plan(tmp_path):
    suite = load_suite("toy")
    cells = make_grid(suite, ["sac", "curl-sac"], [1])
    for cell in cells:
        write_run(
            tmp_path, cell.agent, cell.task.env, 1, 20.0, task=cell.task.label, overrides=dict(cell.overrides), env_steps=2000
        )
    write_plan(tmp_path, suite, cells)
    found = compare([tmp_path / "curl-sac"])
    assert found.tasks == ["toy/reach", "toy/reach-busy"] and found.agents == ["curl-sac"] and not found.missing
    assert found.bounds.keys() == set(found.tasks)


def test_benchmarks_side_by_side_are_read_by_their_plans(tmp_path):
    """A folder with two of them: tasks keep their labels and bounds, and nothing is missing that nobody planned."""
    for name, seeds in (("toy", [1]), ("mine", [1, 2])):
        suite = replace(load_suite("toy"), name=name)
        if name == "mine":
            suite = replace(suite, tasks=(Task("toy/reach", 0, 40, "mine"),))
        cells = make_grid(suite, ["sac"], seeds)
        for cell in cells[:-1] if name == "mine" else cells:
            fields = dict(overrides=dict(cell.overrides), env_steps=2000)
            write_run(tmp_path / name, cell.agent, cell.task.env, cell.seed, 20.0, task=cell.task.label, **fields)
        write_plan(tmp_path / name, suite, cells)
    found = compare([tmp_path])
    assert found.agents == ["sac"] and set(found.tasks) == {"toy/reach", "toy/reach-busy", "mine"}
    assert found.bounds["mine"] == (0, 40) and found.bounds["toy/reach"] == (5, 45)
    assert found.missing == [("sac", "mine", 2)] and found.title == "crl bench mine and toy"


def test_a_return_that_is_no_number_ends_the_run_there(tmp_path):
    for seed in range(1, 6):
        write_run(tmp_path, seed=seed)
    table = tmp_path / "curl-sac" / "dmc-cartpole-swingup" / "seed3" / "eval.csv"
    lines = table.read_text().splitlines()
    broken = lines[8].split(",")
    broken[lines[0].split(",").index("mean")] = "nan"
    table.write_text("\n".join([*lines[:8], ",".join(broken), *lines[9:]]) + "\n")
    found = compare([tmp_path])
    (run,) = (run for run in found.runs if run.seed == 3)
    assert (run.state, run.last_steps) == ("failed", 70_000) and run.counts
    assert any("seed 3: the evaluation at environment step 80000 is no number" in word for word in found.words)


def test_of_two_the_one_that_came_furthest(tmp_path):
    write_run(tmp_path / "a", seed=1, state="failed", evaluations=3)
    write_run(tmp_path / "b", seed=1)
    write_run(tmp_path / "a", seed=2, state="running", evaluations=3)
    write_run(tmp_path / "b", seed=2, state="running", evaluations=9)
    for folders in ("ab", "ba"):
        runs = compare([tmp_path / name for name in folders]).runs
        assert [(run.state, run.last_steps) for run in sorted(runs, key=lambda run: run.seed)] == [
            ("finished", 100_000),
            ("running", 90_000),
        ]


def test_rows_that_crl_ships_are_read():
    rows = read_measured()
    assert rows and all(isinstance(row["stale"], bool) and row["config_hash"] for row in rows)

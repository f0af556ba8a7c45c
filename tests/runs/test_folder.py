"""The run's folder and its tables."""

import json
import subprocess
import sys

import pytest

from crl.runs.folder import RunFolder, RunFolderError, Table
from crl.runs.quickstart import projected_seconds
from crl.runs.run import new_run, resume, train

from .small import FIELDS


def test_table_grows_in_both_directions(tmp_path):
    table = Table(tmp_path / "t.csv")
    for row in ({"step": 1, "a": 2}, {"step": 2, "b": 3}, {"step": 3, "a": 4}):
        table.append(row)
    assert table.rows() == [
        {"step": "1", "a": "2", "b": ""},
        {"step": "2", "a": "", "b": "3"},
        {"step": "3", "a": "4", "b": ""},
    ]
    table.cut("step", 2)
    assert [row["step"] for row in table.rows()] == ["1", "2"]


def test_a_row_that_was_cut_off_is_dropped(tmp_path):
    table = Table(tmp_path / "t.csv")
    table.append({"step": 1000, "a": 2})
    with table.path.open("a") as file:
        file.write("20")  # of 2000
    table.cut("step", 1500)
    table.append({"step": 1500, "a": 3})
    assert [row["step"] for row in table.rows()] == ["1000", "1500"]


def test_one_process_at_a_time(tmp_path):
    folder = new_run("curl-sac", "toy/reach", FIELDS, seed=3, out=tmp_path / "run", steps=5)
    code = "import sys; from crl.runs.folder import RunFolder\nwith RunFolder(sys.argv[1]).held(): print('held'); input()"
    other = subprocess.Popen(
        [sys.executable, "-u", "-c", code, str(folder.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert other.stdout.readline() == b"held\n"
    with pytest.raises(RunFolderError, match="by another process"):
        resume(folder, show_progress=False)
    other.kill()
    other.wait()
    assert folder.config_file.exists(), "it is the other's run"
    with pytest.raises(RunFolderError, match="holds a run already"):
        new_run("curl-sac", "toy/reach", FIELDS, seed=3, out=folder.path)
    assert resume(folder, show_progress=False)["state"] == "finished"


def test_discard_takes_its_own_alone(tmp_path):
    (tmp_path / "a").mkdir()
    folder = RunFolder(tmp_path / "a" / "b" / "c")
    folder.create({})
    folder.discard()
    assert [path.name for path in tmp_path.rglob("*")] == ["a"]
    folder.create({})
    (tmp_path / "a" / "b" / "note").touch()
    folder.discard()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "b", "note"]


def test_summary_that_cannot_be_read(tmp_path):
    folder = RunFolder(tmp_path)
    folder.summary_file.write_text('{"state": "runn')
    assert folder.summary() == {}
    folder.update_summary(state="failed")
    assert json.loads(folder.summary_file.read_text()) == {"state": "failed"}


def test_damaged_checkpoints_push_no_sound_one_out(tmp_path):
    """A resumed run writes anew what comes after the checkpoint from which it goes on."""
    folder = new_run("curl-sac", "toy/reach", FIELDS, seed=3, out=tmp_path / "run", steps=70, checkpoint_every=40)
    train(folder, show_progress=False)
    folder.update_summary(state="running")
    (folder.checkpoints / "step000000000070" / "manifest.json").write_text("{")
    (folder.checkpoints / ".writing-step000000000099").mkdir()
    (folder.checkpoints / "step000000000099").mkdir()
    (folder.checkpoints / "step000000000099" / "manifest.json").write_text("null")
    resume(folder, show_progress=False)
    names = sorted(path.name for path in folder.checkpoints.iterdir())
    assert names == ["frames", "step000000000040", "step000000000070"]
    assert json.loads((folder.checkpoints / names[-1] / "manifest.json").read_text())["step"] == 70


def test_projected_time():
    config = {"algorithm": {"learning_starts": 1000, "gradient_steps": 1, "train_freq": 1}, "run": {"steps": 12500}}
    assert projected_seconds(config, 2500, 400.0, 4.0) == 2500
    assert projected_seconds(config, 500, 20.0, 0.0) == 480
    assert projected_seconds(config, 12500, 400.0, 4.0) == 0

"""A run that fails says why, and leaves a checkpoint that can be used."""

import errno
import json

import numpy as np
import pytest
import torch as th

from crl.runs import checkpoint as checkpoint_module
from crl.runs import run as run_module
from crl.runs.folder import RunFolder
from crl.runs.run import RunError, new_run, resume, train

from .small import FIELDS


def make(tmp_path, steps=120):
    overrides = {**FIELDS, "train.eval_every": "1000"}
    return new_run("curl-sac", "toy/reach", overrides, seed=3, out=tmp_path / "run", steps=steps, checkpoint_every=30)


def summary(folder):
    return json.loads(folder.summary_file.read_text())


def test_environment_that_raises(tmp_path, monkeypatch):
    folder = make(tmp_path)
    from crl.envs.toy import ToyReach

    step, count = ToyReach.step, [0]

    def failing(self, action):
        count[0] += 1
        if count[0] == 75:
            raise ConnectionError("the simulator is gone")
        return step(self, action)

    monkeypatch.setattr(ToyReach, "step", failing)
    with pytest.raises(RunError, match="ConnectionError: the simulator is gone .*last checkpoint: step000000000060"):
        train(folder, show_progress=False)
    assert summary(folder)["state"] == "failed" and "simulator is gone" in summary(folder)["error"]
    assert "Traceback" in (folder.path / "error.txt").read_text()
    monkeypatch.undo()
    resume(folder, show_progress=False)
    assert summary(folder)["state"] == "finished" and summary(folder)["error"] is None


def test_full_disk(tmp_path, monkeypatch):
    folder = make(tmp_path)
    save = checkpoint_module.th.save
    calls = []

    def full(obj, file, *args, **kwargs):
        calls.append(file)
        if [getattr(call, "name", "") for call in calls].count("state.pt") == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return save(obj, file, *args, **kwargs)

    monkeypatch.setattr(checkpoint_module.th, "save", full)
    with pytest.raises(RunError, match="No space left on device"):
        train(folder, show_progress=False)
    names = sorted(path.name for path in folder.checkpoints.iterdir())
    assert names == ["frames", "step000000000030"], "the half-written one is gone, the one before it is whole"
    monkeypatch.undo()
    resume(folder, show_progress=False)
    assert summary(folder)["state"] == "finished"


def test_nan_loss(tmp_path, monkeypatch):
    folder = make(tmp_path, steps=400)
    build = run_module._build

    def poisoned(config, env):
        model, callbacks = build(config, env)
        update, count = model.train, [0]

        def training(*args, **kwargs):
            count[0] += 1
            if count[0] == 60:
                with th.no_grad():
                    model.objective.weight.fill_(float("nan"))
            update(*args, **kwargs)

        model.train = training
        return model, callbacks

    monkeypatch.setattr(run_module, "_build", poisoned)
    with pytest.raises(RunError):
        train(folder, show_progress=False)
    assert summary(folder)["state"] == "failed"
    assert summary(folder)["error"]


def test_environment_without_a_state(tmp_path, monkeypatch, capsys):
    """It cannot be taken up inside an episode: the episode begins anew, the replay gets a boundary, and that is said."""
    from crl.envs.toy import ToyReach

    monkeypatch.delattr(ToyReach, "get_state")
    folder = make(tmp_path)
    monkeypatch.setattr(run_module.RunCallback, "evaluate", lambda self: 0.0)
    save = run_module.RunCallback.save

    class Killed(BaseException):
        pass

    def dying(self):
        save(self)
        raise Killed

    monkeypatch.setattr(run_module.RunCallback, "save", dying)
    with pytest.raises(Killed):
        train(folder, show_progress=False)
    monkeypatch.setattr(run_module.RunCallback, "save", save)
    models = []
    learn = run_module._learn
    monkeypatch.setattr(run_module, "_learn", lambda *a: models.append(a[2]) or learn(*a))
    resume(folder, show_progress=False)
    assert "cannot restore an episode" in capsys.readouterr().err
    assert models[0].replay_buffer.cut[29].all() and models[0].replay_buffer.cut.sum() == 1


def test_old_frames_are_removed_and_new_ones_appended(tmp_path, monkeypatch):
    """A buffer that turns over: files of the log that no kept checkpoint needs go, and what is kept can be loaded."""
    monkeypatch.setattr("crl.runs.frame_log._FRAMES_PER_FILE", 16)
    overrides = {**FIELDS, "algorithm.buffer_size": "40"}
    folder = new_run("curl-sac", "toy/reach", overrides, seed=3, out=tmp_path / "run", steps=150, checkpoint_every=20)
    train(folder, show_progress=False)
    names = sorted(path.name for path in (folder.checkpoints / "frames").iterdir())
    assert names[0] != "env0-000000.u8" and len(names) < 8
    model = run_module.load_model(folder)
    assert model.replay_buffer.full and model.num_timesteps == 150
    np.random.seed(0)
    assert model.replay_buffer.sample(16).observations.shape == (16, 9, 32, 32)


def test_config_and_summary(tmp_path):
    folder = make(tmp_path, steps=25)
    train(folder, show_progress=False)
    config = RunFolder(folder.path).config()
    assert config["run"]["versions"]["torch"] == th.__version__ and config["run"]["seed"] == 3
    assert config["run"]["precision"] == "fp32" and config["objective"]["name"] == "curl"
    keys = {"state", "steps", "env_steps", "updates_per_second", "final_return", "weights_sha256", "eval_episodes"}
    assert keys <= set(summary(folder))
    assert list((folder.path / "tensorboard").glob("events*"))

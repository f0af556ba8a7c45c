"""A run that fails says why, and leaves a checkpoint that can be used."""

import errno
import json
from pathlib import Path

import numpy as np
import pytest
import torch as th

from crl.agents import PixelSAC
from crl.cli import main
from crl.runs import run as run_module
from crl.runs.folder import RunFolder
from crl.runs.run import RunError, UnusableConfigError, new_run, resume, train

from .small import FIELDS, arguments, crl


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
    write, calls = Path.write_bytes, []

    def full(self, data):
        calls.append(self.name)
        if calls.count("state.pt") == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(RunError, match="No space left on device.*checkpoints/step000000000060"):
        train(folder, show_progress=False)
    names = sorted(path.name for path in folder.checkpoints.iterdir())
    assert names == ["frames", "step000000000030"], "the half-written one is gone, the one before it is whole"
    monkeypatch.undo()
    resume(folder, show_progress=False)
    assert summary(folder)["state"] == "finished"


def test_no_room_for_the_reason_either(tmp_path, monkeypatch):
    """summary.json says failed all the same: the bytes of the old one are there to be written to."""
    folder = make(tmp_path, steps=250)

    def full(path, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("crl.runs.folder.write_atomically", full)
    monkeypatch.setattr("crl.runs.run_callback.TableWriter.write", lambda *args: full(None, None))
    with pytest.raises(RunError, match="No space left on device"):
        train(folder, show_progress=False)
    assert summary(folder)["state"] == "failed" and "No space left" in summary(folder)["error"]


def test_files_that_may_not_grow(tmp_path):
    """The real thing, as far as a test can have it: the system refuses what goes past a limit."""
    resource = pytest.importorskip("resource", reason="not on Windows")

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))

    more = ("--set", "algorithm.buffer_size=300", "--set", "policy.features_dim=4")
    result = crl(*arguments(tmp_path / "run", *more), preexec_fn=limit)
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert "File too large" in result.stderr and "last checkpoint: step0" in result.stderr
    assert summary(RunFolder(tmp_path / "run"))["state"] == "failed"
    result = crl("resume", tmp_path / "run")
    assert result.returncode == 0, result.stderr


def test_nan_loss(tmp_path, monkeypatch):
    folder = make(tmp_path, steps=400)
    update, count = PixelSAC.train, [0]

    def training(self, *args, **kwargs):
        count[0] += 1
        if count[0] == 60:
            with th.no_grad():
                self.objective.weight.fill_(float("nan"))
        update(self, *args, **kwargs)

    monkeypatch.setattr(PixelSAC, "train", training)
    with pytest.raises(RunError, match="training diverged: .*not finite.*lower the learning rate.*last checkpoint: step0"):
        train(folder, show_progress=False)
    assert summary(folder)["state"] == "failed"
    assert "training diverged" in summary(folder)["error"]
    monkeypatch.undo()
    weights = run_module.load_model(folder).policy.state_dict().values()
    assert all(value.isfinite().all() for value in weights), "what diverged is not saved"


def test_what_cannot_be_made(tmp_path, monkeypatch):
    """Wrong input leaves nothing behind; anything else says why, and the run can be begun again."""
    folder = new_run("curl-sac", "gym/CartPole-v1", {}, seed=3, out=tmp_path / "a" / "run", steps=10)
    pytest.importorskip("pygame", reason="CartPole draws with it")
    with pytest.raises(UnusableConfigError, match="curl-sac on gym/CartPole-v1: .*Discrete"):
        train(folder, show_progress=False)
    assert not list(tmp_path.iterdir())
    folder = make(tmp_path, steps=25)

    def without(*args, **kwargs):
        raise ImportError("DeepMind Control needs the extra 'dmc': pip install 'crl[dmc]'")

    monkeypatch.setattr(run_module, "make_vec_env", without)
    with pytest.raises(RunError, match=r"pip install 'crl\[dmc\]'"):
        train(folder, show_progress=False)
    assert summary(folder)["state"] == "failed"
    monkeypatch.undo()
    resume(folder, show_progress=False)
    assert summary(folder)["state"] == "finished"


def test_a_gpu_that_is_not_there():
    with pytest.raises(UnusableConfigError, match="--device cuda:97: there is"):
        new_run("curl-sac", "toy/reach", {}, seed=3, out="never", device="cuda:97")
    assert not Path("never").exists()


def test_every_checkpoint_damaged(tmp_path, capsys):
    folder = make(tmp_path, steps=25)
    train(folder, show_progress=False)
    folder.update_summary(state="running")
    for manifest in folder.checkpoints.glob("step*/manifest.json"):
        manifest.write_text("null")
    with pytest.raises(RunError, match="no sound checkpoint.*begin anew"):
        resume(folder, show_progress=False)
    assert summary(folder)["state"] == "failed"
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        main(["resume", str(folder.path)])
    told = capsys.readouterr().err
    assert left.value.code == 1 and "begin anew in another folder" in told and "crl resume" not in told


def test_environment_without_a_state(tmp_path, monkeypatch, capsys):
    """It cannot be taken up inside an episode: the episode begins anew, the replay gets a boundary, and that is said."""
    from crl.envs.toy import ToyReach

    monkeypatch.delattr(ToyReach, "get_state")
    folder = make(tmp_path)
    monkeypatch.setattr(run_module.RunCallback, "evaluate", lambda self, final=False: 0.0)
    save = run_module.RunCallback.save

    class Killed(BaseException):
        pass

    def dying(self):
        save(self)
        if self.model.num_timesteps == 60:
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
    assert models[0].replay_buffer.cut[59].all() and models[0].replay_buffer.cut.sum() == 1
    # steps 0 to 49 were the first episode; the second is begun anew at 60, and the third at 110
    assert models[0].env.get_attr("episode") == [3]


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

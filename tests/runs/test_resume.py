"""A run that was killed ends as one that was never stopped, bit by bit."""

import json
import signal
import time

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from crl.runs.folder import Table

from .small import arguments, crl, start, wait_for


def summary(path):
    return json.loads((path / "summary.json").read_text())


@pytest.fixture(scope="module", params=[1, 2], ids=["1 env", "2 envs"])
def reference(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("reference") / "run"
    more = ("--set", f"train.n_envs={request.param}")
    result = crl(*arguments(path, *more))
    assert result.returncode == 0, result.stderr
    return path, more


@pytest.mark.parametrize("delay", [0.0, 0.4])
def test_killed_at_any_moment(reference, delay, tmp_path):
    path, more = reference
    run = tmp_path / "run"
    process = start(*arguments(run, *more))
    # 40 and 80 lie inside of episodes of 50 steps; how far the run gets after the checkpoint is left to chance
    wait_for(run / "checkpoints" / "step000000000080" / "manifest.json", process)
    time.sleep(delay)
    process.kill()
    process.wait()
    assert summary(run)["state"] == "running"
    result = crl("resume", run)
    assert result.returncode == 0, result.stderr
    assert "going on with" in result.stderr
    assert summary(run)["weights_sha256"] == summary(path)["weights_sha256"]
    strip = lambda rows: [{k: v for k, v in row.items() if k != "seconds"} for row in rows]  # noqa: E731
    assert strip(Table(run / "eval.csv").rows()) == strip(Table(path / "eval.csv").rows())
    steps = [float(row["step"]) for row in Table(run / "progress.csv").rows()]
    assert steps == sorted(set(steps))
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    shown = [event.step for event in events.Scalars("rollout/ep_rew_mean")]
    assert shown == steps, "events of the part that was lost are not shown"


def test_sigterm_saves_and_resume_goes_on(reference, tmp_path):
    path, more = reference
    run = tmp_path / "run"
    process = start(*arguments(run, *more, every=0))
    wait_for(run / "eval.csv", process)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and f"crl resume {run}" in err
    assert summary(run)["stopped_by"] == "SIGTERM" and summary(run)["steps"] >= 60
    assert crl("resume", run).returncode == 0
    assert summary(run)["weights_sha256"] == summary(path)["weights_sha256"]
    assert summary(run)["state"] == "finished" and summary(run)["stopped_by"] is None


def test_a_second_signal_is_not_waited_for(tmp_path):
    """While it is still starting, too: a line, and no traceback."""
    run = tmp_path / "run"
    process = start(*arguments(run))
    wait_for(run / "config.yaml", process)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in err and "crl resume" in err


def test_resume_of_a_finished_run_says_so(reference):
    path, _ = reference
    result = crl("resume", path)
    assert result.returncode == 0 and "is finished" in result.stdout


def test_damaged_checkpoint_is_passed_over(reference, tmp_path):
    path, more = reference
    run = tmp_path / "run"
    process = start(*arguments(run, *more))
    wait_for(run / "checkpoints" / "step000000000080" / "manifest.json", process)
    process.kill()
    process.wait()
    newest = sorted((run / "checkpoints").glob("step*"))[-1]
    data = bytearray((newest / "model.zip").read_bytes())
    data[len(data) // 2] ^= 1
    (newest / "model.zip").write_bytes(data)
    (run / "checkpoints" / ".writing-step000000000999").mkdir()
    result = crl("resume", run)
    assert result.returncode == 0, result.stderr
    assert f"{newest.name} is damaged" in result.stderr
    assert summary(run)["weights_sha256"] == summary(path)["weights_sha256"]


def test_eval_repeats_and_does_not_depend_on_the_moment(reference):
    path, _ = reference
    one, two = crl("eval", path, "--episodes", 2), crl("eval", path, "--episodes", 2)
    assert (one.returncode == 0 and one.stdout == two.stdout and "over 2 episodes" in one.stdout) or "2 episodes" in one.stdout


def test_video(reference):
    path, _ = reference
    result = crl("eval", path, "--episodes", 1, "--video")
    assert result.returncode == 0, result.stderr
    (film,) = (path / "video").glob("*.mp4")
    assert film.stat().st_size > 1000

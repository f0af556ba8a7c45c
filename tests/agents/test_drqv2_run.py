"""A run of ``drqv2`` that was stopped ends as one that was never stopped, bit by bit."""

import pytest

from crl.runs.run import Stopped, new_run, resume, train

from ..runs.small import FIELDS


def test_resume(tmp_path):
    fields = {**FIELDS, "algorithm.train_freq": "2", "algorithm.std_steps": "100"}

    def make(name):
        return new_run("drqv2", "toy/reach", fields, seed=2, out=tmp_path / name, steps=110, checkpoint_every=0)

    whole = train(make("whole"), show_progress=False)
    assert whole["state"] == "finished" and whole["steps"] == 110
    folder = make("stopped")
    with pytest.raises(Stopped):
        train(folder, show_progress=False, pause_at=72)  # inside an episode of 50 steps
    assert folder.summary()["state"] == "running" and folder.summary()["steps"] == 72
    assert resume(folder, show_progress=False)["weights_sha256"] == whole["weights_sha256"]

"""Runs of PPO on a chain of sub-goals: stopped and taken up again they end as if they had never been stopped."""

import json

import pytest

from crl.runs.folder import RunFolder, Table
from crl.runs.run import Stopped, load_model, new_run, resume, train

FIELDS = {
    "policy.filters": [2, 3],
    "policy.hidden_dim": 4,
    "policy.features_dim": 4,
    "algorithm.n_steps": 8,
    "algorithm.batch_size": 8,
    "algorithm.n_epochs": 1,
    "env.kwargs.items": 2,
    "env.kwargs.length": 13,
    "train.n_envs": 2,
    "train.eval_every": 32,
    "train.eval_episodes": 1,
    "train.threads": 1,
}


def begin(out, env_id="toy/chain", steps=96, **fields):
    fields = {**FIELDS, **fields}
    if env_id != "toy/chain":
        del fields["env.kwargs.items"]
    return new_run("ppo-crafter-small", env_id, fields, seed=4, out=out, steps=steps, device="cpu")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = begin(tmp_path_factory.mktemp("whole") / "run")
    train(folder, show_progress=False)
    return folder


def rows(folder, name):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in Table(folder.path / name).rows()]


def test_resumed_bit_by_bit(whole, tmp_path):
    folder = begin(tmp_path / "run")
    with pytest.raises(Stopped):
        train(folder, show_progress=False, pause_at=32)  # episodes of 13 steps are under way
    assert folder.summary()["steps"] == 32
    end = resume(folder, show_progress=False)
    assert end["state"] == "finished" and end["weights_sha256"] == whole.summary()["weights_sha256"]
    assert end["peak_memory_gb"] > 0.1
    assert rows(folder, "eval.csv") == rows(whole, "eval.csv")
    assert (folder.path / "subgoals.csv").read_text() == (whole.path / "subgoals.csv").read_text()


def test_whole_rollouts_are_said(tmp_path, capfd):
    folder = begin(tmp_path / "run", steps=33)
    assert train(folder, show_progress=False)["steps"] == 48
    assert "48 agent steps instead of 33: PixelPPO learns from whole rollouts of 16" in capfd.readouterr().err
    folder = begin(tmp_path / "even", steps=32)
    assert train(folder, show_progress=False)["steps"] == 32
    assert "whole rollouts" not in capfd.readouterr().err


def test_crafter_too(tmp_path):
    pytest.importorskip("crafter")
    ends = []
    for name, pause_at in (("whole", None), ("stopped", 48)):
        folder = begin(tmp_path / name, "crafter/reward", **{"train.eval_every": 1000})
        if pause_at is not None:
            with pytest.raises(Stopped):
                train(folder, show_progress=False, pause_at=pause_at)
            resume(folder, show_progress=False)
        else:
            train(folder, show_progress=False)
        ends.append((folder.summary()["weights_sha256"], (folder.path / "subgoals.csv").read_text()))
    assert ends[0] == ends[1] and len(ends[0][1].split()) == 7, "a head and six episodes of 13 steps"


def test_the_run_tells_of_sub_goals(whole):
    episodes = rows(whole, "subgoals.csv")
    assert list(episodes[0]) == ["step", "env", "length", "return", "item_0", "item_1"]
    lengths = [sum(int(row["length"]) for row in episodes if row["env"] == env) for env in "01"]
    assert all(35 <= length <= 48 for length in lengths), "no episode is lost"
    assert all(float(row["return"]) == int(row["item_0"]) + int(row["item_1"]) for row in episodes)
    last = rows(whole, "progress.csv")[-1]
    assert {"subgoals/score", "subgoals/item_0", "train/value_loss"} <= set(last)
    assert json.loads((whole.path / "summary.json").read_text())["state"] == "finished"


def test_the_agent_is_loaded_from_its_run(whole):
    model = load_model(RunFolder(whole.path))
    try:
        assert model.num_timesteps == 96 and model.policy.value_normalizer.weight > 0
    finally:
        model.env.close()


@pytest.mark.slow
def test_processes_of_their_own_give_the_same(whole, tmp_path):
    folder = begin(tmp_path / "run", **{"train.subprocess": True})
    assert train(folder, show_progress=False)["weights_sha256"] == whole.summary()["weights_sha256"]

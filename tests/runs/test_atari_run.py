"""A run on Atari: taken up bit by bit in the middle of a game, evaluated on whole games, normalised."""

import pytest

from crl.envs import make_vec_env
from crl.envs.atari_scores import human_normalised
from crl.runs.evaluation import evaluate
from crl.runs.folder import Table
from crl.runs.run import Stopped, load_model, new_run, resume, train
from crl.runs.state import capture_envs, capture_episodes, restore_envs

FIELDS = {
    "algorithm.learning_starts": "20",
    "algorithm.batch_size": "4",
    "algorithm.n_steps": "3",
    "train.eval_every": "100",
    "train.eval_episodes": "1",
    "train.final_episodes": "3",
    "train.eval_envs": "2",
    "train.threads": "1",
    "env.kwargs.max_frames": "100",
}


def run(path, **kwargs):
    return new_run("der", "atari/Breakout", FIELDS, seed=3, out=path, steps=60, **kwargs)


def test_a_run_that_was_stopped_in_the_middle_of_a_game(tmp_path):
    whole, folder = run(tmp_path / "whole"), run(tmp_path / "run")
    want = train(whole, show_progress=False)
    with pytest.raises(Stopped):
        train(folder, show_progress=False, pause_at=40)
    got = resume(folder, show_progress=False)
    assert got["weights_sha256"] == want["weights_sha256"]
    rows = [Table(f.eval_file).rows() for f in (whole, folder)]
    assert [row["episodes"] for row in rows[0]] == ["1", "1", "3"] and rows[0][-1]["env_steps"] == "240"
    assert [row["mean"] for row in rows[0]] == [row["mean"] for row in rows[1]]
    assert want["env_steps"] == 240 and want["eval_episodes"] == 3
    assert want["human_normalised"] == human_normalised("atari/Breakout", want["final_return"])
    result = evaluate(load_model(folder), folder.config(), 3)
    assert result.mean == want["final_return"] and result.lengths == [25] * 3, "whole games, as far as frames allow"


class Agent:
    """As much as restoring environments asks of one."""

    def __init__(self, env):
        self.env = env


def test_native_games_begin_anew():
    """They have no state to save, and say so; the replay buffer sees a jump."""
    env, other = (make_vec_env("atari/Pong", seed=seed, n_envs=2, native=True) for seed in (3, 4))
    env.reset()
    first = env.reset()
    assert capture_envs(env) is None and capture_episodes(env) == [(3, 2), (3, 2)]
    other.reset()
    agent = Agent(other)
    assert restore_envs(agent, None, capture_episodes(env)) is False
    assert (agent._last_obs == first).all() and agent._last_episode_starts.all()
    env.close(), other.close()

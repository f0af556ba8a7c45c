"""ale-py's own vector environment behind SB3's interface, against single environments."""

import sys

import numpy as np
import pytest
from stable_baselines3.common.evaluation import evaluate_policy

from crl.envs import make_vec_env
from crl.envs.atari_vector import AtariVecEnv
from crl.envs.episode_seeds import episode_seed


@pytest.mark.skipif(sys.platform != "linux", reason="C++ libraries draw no-ops each in their own way")
@pytest.mark.parametrize(
    "game, options, evaluation",
    [
        ("Breakout", {}, False),
        ("Breakout", dict(size=40, n_stack=2, action_repeat=3, max_frames=400), True),
        ("Frostbite", dict(protocol="v5", max_frames=300, noop_max=5), False),
    ],
)
def test_equal_to_single_environments(game, options, evaluation):
    """Observations, rewards, ends, lives, games: bit by bit, no-ops and sticky actions included."""
    make = lambda native: make_vec_env(  # noqa: E731
        f"atari/{game}", seed=5, n_envs=2, evaluation=evaluation, native=native, **options
    )
    single, vector = make(False), make(True)
    assert isinstance(vector, AtariVecEnv) and not isinstance(single, AtariVecEnv)
    assert vector.observation_space == single.observation_space and vector.action_space == single.action_space
    a, b = single.reset(), vector.reset()
    rng, ends, games = np.random.default_rng(0), 0, 0
    for _ in range(170):
        assert (a == b).all() and a.dtype == b.dtype
        action = rng.integers(0, single.action_space.n, 2)
        a, rewards, dones, infos = single.step(action)
        b, other_rewards, other_dones, other_infos = vector.step(action)
        assert (rewards == other_rewards).all() and rewards.dtype == other_rewards.dtype and (dones == other_dones).all()
        for mine, other, done in zip(other_infos, infos, dones, strict=True):
            assert mine["lives"] == other["lives"] and mine["TimeLimit.truncated"] == other["TimeLimit.truncated"]
            assert ("episode" in mine) == ("episode" in other)
            if done:
                ends += 1
                # see AtariVecEnv: of a game's very end the newest frame is another
                upto = -1 if "episode" in mine else None
                assert (mine["terminal_observation"][:upto] == other["terminal_observation"][:upto]).all()
            if "episode" in mine:
                games += 1
                assert {k: mine["episode"][k] for k in "rl"} == {k: other["episode"][k] for k in "rl"}
    assert ends >= 2 and games >= 1 and (game == "Frostbite" or evaluation or ends > games)
    assert vector.get_attr("episode") == single.get_attr("episode")
    vector.close()


def test_seeds():
    """Of each game by itself: a run can be taken up at any of them, and SB3's seed= replaces the run's."""
    env, other = (make_vec_env("atari/Pong", seed=seed, n_envs=2, native=True) for seed in (1, 2))
    first = env.reset()
    env.reset()
    assert env.get_attr("run_seed") == [1, 1] and env.get_attr("episode") == [2, 2] and env.get_attr("episode", [1]) == [2]
    other.env_method("begin_at", 1, 0, indices=0)
    got = other.reset()
    assert (got[0] == first[0]).all() and other.get_attr("episode") == [1, 1] and other.get_attr("run_seed") == [1, 2]
    other.seed(1)
    seeded = other.reset()
    single = make_vec_env("atari/Pong", n_envs=2)
    single.seed(1)
    assert (seeded == single.reset()).all() and other.get_attr("run_seed") == single.get_attr("run_seed")
    assert episode_seed(1, 0, 0) != episode_seed(1, 0, 0, evaluation=True)
    with pytest.raises(AttributeError, match="no get_state"):
        env.env_method("get_state")
    with pytest.raises(NotImplementedError):
        env.set_attr("episode", 3)
    env.close(), other.close()


class Right:
    """Loses."""

    def predict(self, obs, state=None, episode_start=None, deterministic=False):
        self.t = getattr(self, "t", 0) + 1
        return np.full(len(obs), 1 + self.t % 2), state


def test_sb3_evaluates_whole_games_in_it():
    env = make_vec_env("atari/Breakout", n_envs=2, evaluation=True)
    assert isinstance(env, AtariVecEnv), "several games for evaluation"
    returns, lengths = evaluate_policy(Right(), env, n_eval_episodes=2, return_episode_rewards=True, warn=True)
    assert len(returns) == 2 and min(lengths) > 80, "five lives"
    env.close()

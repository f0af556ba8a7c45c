import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.logger import configure
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

from crl.runs.folder import Table
from crl.runs.subgoal_score import SubgoalScore, crafter_score, success_rates


class Script(gym.Env):
    """Episodes of three steps, whose unlocks are written down."""

    observation_space = gym.spaces.Box(0, 1, (2,))
    action_space = gym.spaces.Discrete(2)
    subgoal_names = ("a", "b", "c")

    def __init__(self, episodes):
        self.episodes, self.number = episodes, -1

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.number, self.t = self.number + 1, 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        unlocked = self.episodes[self.number % len(self.episodes)].get(self.t, "")
        self.t += 1
        report = np.array([name in unlocked for name in self.subgoal_names])
        return np.zeros(2, np.float32), float(report.sum()), self.t == 3, False, {"subgoals": report}


class Unaware(Script):
    subgoal_names = ()

    def step(self, action):
        return (*super().step(action)[:4], {})


EPISODES = ([{0: "a", 2: "b"}, {0: "a"}], [{0: "ab"}, {}])


def learn(folder, steps, callback, model=None):
    if model is None:
        env = DummyVecEnv([lambda script=script: Script(script) for script in EPISODES])
        model = PPO("MlpPolicy", env, n_steps=4, batch_size=8, n_epochs=1, device="cpu")
        model.set_logger(configure(str(folder), ["csv"]))
    model.learn(steps, callback=callback, reset_num_timesteps=model.num_timesteps == 0)
    return model


def test_score_of_known_rates():
    assert crafter_score([100.0] * 22) == pytest.approx(100)
    assert crafter_score([100.0] + [0.0] * 21) == pytest.approx(0.2334, abs=1e-4)
    assert crafter_score([0.0] * 22) == 0
    # of the 22 rates of a random agent as published: 1.6 %
    random = [0, 0, 9.32, 0, 50.19, 0.01, 24.38, 0.02, 0.14, 0.38, 0.01, 0, 0, 0, 0, 0.32, 0.32, 0, 44.61, 0.01, 4.36, 93.60]
    assert crafter_score(random) == pytest.approx(1.6, abs=0.05)
    for wrong in ([], [-1.0], [101.0], [float("nan")]):
        with pytest.raises(ValueError, match="0 to 100"):
            crafter_score(wrong)


def test_every_episode_counts_once(tmp_path):
    callback = SubgoalScore()
    learn(tmp_path, 24, callback)  # 12 steps of each environment: episodes 1, 2, 1, 2 of both scripts
    assert callback.episodes == 8 and callback.successes.tolist() == [6, 4, 0]
    assert callback.success_rates.tolist() == [75, 50, 0]
    assert callback.score == pytest.approx((76 * 51 * 1) ** (1 / 3) - 1)
    rows = Table(tmp_path / "subgoals.csv").rows()
    assert [int(row["step"]) for row in rows] == [6, 6, 12, 12, 18, 18, 24, 24]
    first = [{key: float(value) for key, value in row.items()} for row in rows[:4]]
    assert first[0] == {"step": 6, "env": 0, "length": 3, "return": 2, "a": 1, "b": 1, "c": 0}
    assert [row["a"] + row["b"] + row["c"] for row in first] == [2, 2, 1, 0]
    assert success_rates(tmp_path / "subgoals.csv") == {"a": 75, "b": 50, "c": 0}
    assert success_rates(tmp_path / "subgoals.csv", after=18) == {"a": 50, "b": 0, "c": 0}
    with pytest.raises(ValueError, match="no episode"):
        success_rates(tmp_path / "subgoals.csv", after=24)
    (*_, last) = Table(tmp_path / "progress.csv").rows()
    assert float(last["subgoals/a"]) == 75 and float(last["subgoals/episodes"]) == 8
    assert float(last["subgoals/reached"]) == 1.25 and float(last["subgoals/score"]) == pytest.approx(callback.score)


def test_episodes_that_are_going_on_survive_a_stop(tmp_path):
    """Stopped after 8 of 24 steps, in the middle of episodes, with one row written that the resumed run writes anew."""
    whole, first, second = SubgoalScore(), SubgoalScore(), SubgoalScore()
    learn(tmp_path / "whole", 24, whole)
    model = learn(tmp_path / "stopped", 8, first)
    assert first._lengths.tolist() == [1, 1] and first._reached.any()
    state = first.state_dict()
    with (tmp_path / "stopped" / "subgoals.csv").open("a") as file:
        file.write("10,0,9,9.0,1,1,1\n12,1,9,9")
    second.load_state_dict(state)
    learn(tmp_path / "stopped", 16, second, model)
    assert second.episodes == whole.episodes and (second.successes == whole.successes).all()
    texts = [(tmp_path / name / "subgoals.csv").read_text().split() for name in ("whole", "stopped")]
    assert texts[0] == texts[1]


def test_episodes_that_begin_anew_after_a_stop_are_forgotten(tmp_path):
    """Environments that cannot be restored: what the lost episode had reached was not reached in the new one."""
    first, second = SubgoalScore(), SubgoalScore()
    envs = DummyVecEnv([lambda script=script: Monitor(Script(script)) for script in EPISODES])
    model = PPO("MlpPolicy", envs, n_steps=4, batch_size=8, n_epochs=1, device="cpu")
    model.set_logger(configure(str(tmp_path), []))
    model.learn(8, callback=first)
    assert first._reached.any()
    second.load_state_dict(first.state_dict())
    kept = SubgoalScore()
    kept.load_state_dict(first.state_dict())
    for callback, begins_anew in ((kept, False), (second, True)):
        if begins_anew:
            model._last_obs = model.env.reset()
        callback.init_callback(model)
        callback.on_training_start({}, {})
        assert callback._lengths.tolist() == ([0, 0] if begins_anew else [1, 1])
        assert callback._reached.any() != begins_anew and callback.episodes == 2


def test_a_new_training_counts_anew(tmp_path):
    callback = SubgoalScore(path=tmp_path / "here.csv", recent=1)
    learn(tmp_path, 8, callback)
    learn(tmp_path, 8, callback)
    assert callback.episodes == 2 and len(Table(tmp_path / "here.csv").rows()) == 2


def test_environments_that_report_nothing_are_refused(tmp_path):
    env = DummyVecEnv([lambda: Unaware([{}])])
    model = PPO("MlpPolicy", env, n_steps=4, batch_size=4, n_epochs=1, device="cpu")
    with pytest.raises(ValueError, match="is empty"):
        model.learn(4, callback=SubgoalScore())
    with pytest.raises(ValueError, match="recent=0"):
        SubgoalScore(recent=0)


def test_processes_that_lack_the_name_are_asked_without_harm():
    from crl.envs.subgoals import reports_subgoals

    env = SubprocVecEnv([lambda: gym.make("CartPole-v1")], start_method="fork")
    try:
        assert not reports_subgoals(env)
        assert env.reset().shape == (1, 4), "still there"
    finally:
        env.close()

"""Evaluation, its diagnostics, and what a run writes down."""

import csv
import time
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from crl.envs.episode_seeds import episode_seed
from crl.runs import run_callback
from crl.runs.evaluation import EVALUATION_SEED, EvaluationStopped, _compare, _picture, evaluate, write_curve
from crl.runs.folder import Table
from crl.runs.run import Stopped, load_model, new_run, resume, train

from .small import FIELDS


class Critic:
    """Q is ten times the observation's only number, twice over, plus the action."""

    action_space = spaces.Box(-2.0, 2.0, (1,))
    device, gamma = "cpu", 0.5

    def __init__(self):
        self.policy = self

    def set_training_mode(self, mode):
        pass

    def scale_action(self, action):
        return action / 2.0

    def obs_to_tensor(self, obs):
        return th.as_tensor(obs, dtype=th.float32), True

    def critic(self, obs, actions):
        return 10 * obs + actions, 10 * obs + actions


@pytest.mark.parametrize("terminated", [False, True])
def test_q_values_against_monte_carlo_returns(terminated):
    observations = [np.array([float(i)]) for i in range(5)]
    actions, rewards = [np.array([1.0])] * 5, [1.0, 2.0, 4.0, 8.0]
    q, came = _compare(Critic(), observations, actions, rewards, terminated)
    tail = 0.0 if terminated else 40.5
    from_step_1 = 2 + 0.5 * (4 + 0.5 * (8 + 0.5 * tail))
    # of the first half of the episode: steps 0 and 1
    assert q == pytest.approx((0.5 + 10.5) / 2)
    assert came == pytest.approx((1 + 0.5 * from_step_1 + from_step_1) / 2)


@pytest.mark.parametrize(
    "obs, want",
    [
        (np.arange(9 * 12 * 12).reshape(9, 12, 12), (12, 12, 3)),
        (np.zeros((12, 12, 3)), (12, 12, 3)),
        (np.zeros((4, 12, 12)), (12, 12, 3)),
        ({"place": np.zeros(2), "image": np.zeros((12, 12, 3))}, (12, 12, 3)),
    ],
)
def test_pictures_of_observations(obs, want):
    picture = _picture(obs)
    assert picture.shape == want
    if not isinstance(obs, dict) and obs.shape[0] == 9:
        assert (picture == obs[-3:].transpose(1, 2, 0)).all(), "the newest frame"


def scalars(folder):
    events = EventAccumulator(str(folder.path / "tensorboard"))
    events.Reload()
    return {tag: [event.step for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_diagnostics_have_names(tmp_path):
    """Every standard one, in TensorBoard and in the tables; the last evaluation too."""
    overrides = {**FIELDS, "algorithm.metrics_interval": "5"}
    folder = new_run("curl-sac", "toy/reach", overrides, seed=3, out=tmp_path / "run", steps=230)
    train(folder, show_progress=False)
    wanted = {
        *("repr/rl_grad_norm", "repr/objective_grad_norm", "repr/grad_cosine", "repr/effective_rank"),
        *("repr/dormant_filters", "train/dormant_q_units", "train/q_mean", "train/alpha", "train/replay_ratio"),
    }
    logged = scalars(folder)
    assert wanted <= set(logged)
    with folder.progress_file.open() as file:
        assert wanted <= set(csv.DictReader(file).fieldnames)
    for tag in ("eval/mean_reward", "eval/q_mean", "eval/mc_return"):
        assert logged[tag] == [60, 120, 180, 230]
    rows = Table(folder.eval_file).rows()
    assert [row["step"] for row in rows] == ["60", "120", "180", "230"]
    assert all(np.isfinite(float(row[key])) for row in rows for key in ("q_mean", "mc_return"))
    assert write_curve(rows, tmp_path / "curve.png", "toy").stat().st_size > 1000


def test_evaluation_leaves_no_trace(tmp_path):
    """The same weights whatever is evaluated in between."""
    sums = []
    for name, every in (("often", "10"), ("never", "100000")):
        overrides = {**FIELDS, "train.eval_every": every}
        folder = new_run("curl-sac", "toy/reach", overrides, seed=3, out=tmp_path / name, steps=60)
        sums.append(train(folder, show_progress=False)["weights_sha256"])
    assert sums[0] == sums[1]


def test_evaluation_can_be_ended(tmp_path):
    folder = new_run("curl-sac", "toy/reach", FIELDS, seed=3, out=tmp_path / "run", steps=25)
    train(folder, show_progress=False)
    asked = []
    with pytest.raises(EvaluationStopped):
        evaluate(load_model(folder), folder.config(), 1, stop=lambda: asked.append(1) or len(asked) == 7)


@pytest.mark.parametrize("at", [60, 150], ids=["on the way", "at the end"])
def test_a_signal_during_an_evaluation(tmp_path, monkeypatch, at):
    """It is not waited for; the resumed run evaluates at that step, and ends as one never stopped."""
    whole = new_run("curl-sac", "toy/reach", FIELDS, seed=3, out=tmp_path / "whole", steps=150, checkpoint_every=60)
    want = train(whole, show_progress=False)
    folder = new_run("curl-sac", "toy/reach", FIELDS, seed=3, out=tmp_path / "run", steps=150, checkpoint_every=0)
    evaluation = run_callback.RunCallback.evaluate

    def signalled(self, **kwargs):
        if self.model.num_timesteps == at:
            self.stop.note(2)
        return evaluation(self, **kwargs)

    monkeypatch.setattr(run_callback.RunCallback, "evaluate", signalled)
    with pytest.raises(Stopped, match="SIGINT"):
        train(folder, show_progress=False)
    monkeypatch.undo()
    assert folder.summary()["steps"] == at and folder.summary()["state"] == "running"
    assert at not in [int(row["step"]) for row in Table(folder.eval_file).rows()]
    assert resume(folder, show_progress=False)["weights_sha256"] == want["weights_sha256"]
    strip = lambda rows: [{k: v for k, v in row.items() if k != "seconds"} for row in rows]  # noqa: E731
    assert strip(Table(folder.eval_file).rows()) == strip(Table(whole.eval_file).rows())


def test_pause_and_go_on(tmp_path):
    """What the quickstart does: the whole run is configured, and stopped early."""
    whole = new_run("curl-sac", "toy/reach", FIELDS, seed=3, out=tmp_path / "whole", steps=90)
    want = train(whole, show_progress=False)
    folder = new_run("curl-sac", "toy/reach", FIELDS, seed=3, out=tmp_path / "run", steps=90)
    with pytest.raises(Stopped, match="step 70"):
        train(folder, show_progress=False, pause_at=70)
    assert folder.summary()["steps"] == 70 and folder.summary()["updates_per_second"] > 0
    assert resume(folder, show_progress=False)["weights_sha256"] == want["weights_sha256"]


class Lengths(gym.Env):
    """Each episode is as long as its seed says, and tells by its return which one it was."""

    observation_space = spaces.Box(0, 255, (3, 36, 36), np.uint8)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.length = 0, int(self.np_random.integers(2, 40))
        self.value = float(self.np_random.integers(1_000_000))
        return np.zeros((3, 36, 36), np.uint8), {}

    def step(self, action):
        self.t += 1
        over = self.t == self.length
        return np.full((3, 36, 36), self.t, np.uint8), self.value * over, over, False, {}


class Nobody:
    """What evaluate asks of a model."""

    observation_space, action_space = Lengths.observation_space, Lengths.action_space
    device = th.device("cpu")

    def predict(self, obs, state=None, episode_start=None, deterministic=False):
        return np.zeros((len(obs), 1), np.float32), state


@pytest.mark.parametrize("n_envs, episodes", [(1, 3), (4, 10), (4, 3)])
def test_every_environment_has_its_share_of_episodes(n_envs, episodes):
    """Of each its first ones, however long they are and whoever ends first."""
    gym.register("crl-test/Lengths-v0", entry_point=Lengths, disable_env_checker=True)
    try:
        config = {"env": {"id": "crl-test/Lengths-v0", "kwargs": {}}, "train": {"eval_envs": n_envs}}
        found = evaluate(Nobody(), config, episodes)
        want = []
        for index in range(min(n_envs, episodes)):
            env = Lengths()
            for episode in range(len(range(index, episodes, n_envs))):
                env.reset(seed=episode_seed(EVALUATION_SEED, index, episode, evaluation=True))
                want.append((env.value, env.length))
        assert len(want) == episodes and list(zip(found.returns, found.lengths, strict=True)) == want
    finally:
        del gym.registry["crl-test/Lengths-v0"]


def test_the_last_evaluation_is_longer_and_its_time_is_apart(tmp_path):
    overrides = {**FIELDS, "train.final_episodes": "3", "train.eval_envs": "2"}
    folder = new_run("curl-sac", "toy/reach", overrides, seed=3, out=tmp_path / "run", steps=130)
    summary = train(folder, show_progress=False)
    rows = Table(folder.eval_file).rows()
    assert [row["episodes"] for row in rows] == ["1", "1", "3"] and summary["eval_episodes"] == 3
    assert summary["final_return"] == float(rows[-1]["mean"])
    assert summary["evaluation_seconds"] > 0 and "human_normalised" not in summary
    assert summary["training_seconds"] + summary["evaluation_seconds"] == pytest.approx(summary["seconds"], abs=0.11)


def test_evaluations_slow_no_updates_down(tmp_path):
    """In what is reported: a minute of them in the middle changes nothing."""
    folder = new_run("curl-sac", "toy/reach", FIELDS, seed=3, out=tmp_path / "run", steps=25)
    own = run_callback.RunCallback(folder, folder.config(), None, [], 25, 1, 0, 60, 1, show_progress=False)
    own.model = SimpleNamespace(_n_updates=50)
    own._first_updates = 10, time.monotonic() - 64.0
    own._leave_out(60.0)
    assert own.updates_per_second == pytest.approx(10.0, rel=0.01)


class Grey(gym.Env):
    """Images of a user's own, channels last."""

    observation_space = spaces.Box(0, 255, (36, 36, 3), np.uint8)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self._obs(), {}

    def _obs(self):
        return np.full((36, 36, 3), self.t, np.uint8)

    def step(self, action):
        self.t += 1
        return self._obs(), 1.0, self.t == 30, False, {}


def test_a_registered_environment_of_ones_own(tmp_path):
    gym.register("crl-test/Grey-v0", entry_point=Grey)
    try:
        overrides = {**FIELDS, "replay.n_stack": "1"}
        folder = new_run("curl-sac", "crl-test/Grey-v0", overrides, seed=3, out=tmp_path / "run", steps=40)
        assert train(folder, show_progress=False)["final_return"] == 30
        assert evaluate(load_model(folder), folder.config(), 1, film=True).frames[5].max() == 5
    finally:
        del gym.registry["crl-test/Grey-v0"]

"""PPO with achievement distillation by name: what its controls change, and runs that stop, go on, are evaluated and filmed."""

import csv
import signal

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv

from crl.agents import build, resolve
from crl.agents.fields import FieldValueError
from crl.agents.recipes import flatten
from crl.callbacks import AchievementPhases
from crl.callbacks.acting_env import acting_env
from crl.callbacks.find_encoders import find_encoders
from crl.envs import make_env, make_vec_env
from crl.envs.toy_chain import _COLOURS, CELL, MIDDLE, MOVES, ROWS
from crl.objectives.goal_memory import GoalMemory, SingleGoalMemory
from crl.probe.episodes import collect
from crl.runs.evaluation import evaluate
from crl.runs.run import Stopped, UnusableConfigError, load_model, new_run, resume, train
from crl.runs.run_callback import RunCallback
from crl.runs.state import weights_sha256
from crl.runs.stop import StopRequest

from ..fakes import FakeImages


class Reporting(gym.Wrapper):
    """Names sub-goals."""

    subgoal_names = tuple(f"goal{k}" for k in range(22))


SMALL = {
    "env.kwargs.length": 30,
    "policy.filters": [4, 4],
    "policy.hidden_dim": 16,
    "policy.features_dim": 16,
    "algorithm.n_steps": 48,
    "algorithm.batch_size": 48,
    "algorithm.n_epochs": 1,
    "distillation.epochs": 1,
    "train.n_envs": 2,
    "train.eval_every": 10_000,
    "train.eval_episodes": 1,
}
EVERY = {"distillation.every": 2}


def agent(name="ppo-ad-small", seed=0, **more):
    config = resolve(name, "toy/chain", {**SMALL, **more})
    env = make_vec_env("toy/chain", seed=seed, n_envs=2, **config["env"]["kwargs"])
    return config, *build(config, env, seed=seed, device="cpu")


@pytest.mark.parametrize("env_id", ["crafter/reward", "toy/chain"])
@pytest.mark.parametrize(
    ("name", "parent", "field", "values"),
    [
        ("ppo-ad", "ppo-crafter", "distillation.every", (8, None)),
        ("ppo-ad-small", "ppo-crafter-small", "distillation.every", (8, None)),
        ("ppo-ad-small-no-memory", "ppo-ad-small", "distillation.memory", (False, True)),
        ("ppo-ad-small-intra", "ppo-ad-small-no-memory", "distillation.matching", (False, True)),
        ("ppo-ad-small-control", "ppo-ad-small", "distillation.contrast", (False, True)),
    ],
)
def test_one_field_apart(env_id, name, parent, field, values):
    a, b = (flatten(resolve(agent, env_id)) for agent in (name, parent))
    assert {key: (a[key], b[key]) for key in a if a[key] != b[key] and key != "agent"} == {field: values}


def test_published_values():
    config = flatten(resolve("ppo-ad", "crafter/reward"))
    want = dict(every=8, epochs=6, prediction=True, matching=True, memory=True, contrast=True, temperature=0.1)
    want |= dict(regularisation=0.05, threshold=0.5, targets=16, batch_size=512, learning_rate=3e-4)
    want |= dict(policy_weight=1.0, value_weight=1.0)
    assert {key.partition(".")[2]: value for key, value in config.items() if key.startswith("distillation.")} == want


@pytest.mark.parametrize("name, total", [("ppo-crafter", 3_948_309), ("ppo-ad", 9_234_231)])
def test_as_many_parameters_as_published(name, total):
    """Policy, value function with its running statistics, and the heads of the contrasts; on Crafter's images and actions."""
    env = DummyVecEnv([lambda: Reporting(FakeImages(spaces.Discrete(17), shape=(3, 64, 64)))])
    config = resolve(name, "crafter/reward", {"train.n_envs": 1})
    model, callbacks = build(config, env, seed=0, device="cpu")
    parts = [model.policy]
    for callback in callbacks:
        if isinstance(callback, AchievementPhases):
            callback.init_callback(model)
            parts.append(callback.objective)
    assert sum(p.numel() for part in parts for p in [*part.parameters(), *part.buffers()]) == total


def test_phases_without_a_contrast_are_refused():
    with pytest.raises(FieldValueError, match="leave nothing to a phase"):
        resolve("ppo-ad-small-intra", "toy/chain", {"distillation.prediction": False})


def test_fields_reach_the_callback():
    fields = dict(every=3, epochs=2, contrast=False, temperature=0.2, regularisation=0.1, threshold=0.6, targets=5)
    fields |= dict(batch_size=7, learning_rate=1e-4, policy_weight=2.0, value_weight=0.5, matching=False)
    _, model, (callback,) = agent(**{f"distillation.{key}": value for key, value in fields.items()})
    objective = callback.objective
    assert (callback.window.size, objective.temperature, objective.regularisation, objective.threshold) == (3, 0.2, 0.1, 0.6)
    for key in ("epochs", "contrast", "targets", "batch_size", "learning_rate", "policy_weight", "value_weight", "matching"):
        assert getattr(callback, key) == fields[key]
    assert isinstance(model.env, GoalMemory) and model.policy.action_net.in_features == 2 * 16
    _, model, _ = agent("ppo-ad-small-no-memory")
    assert not isinstance(model.env, GoalMemory) and model.policy.action_net.in_features == 16


def test_a_fresh_agent_beside_a_trained_one():
    """As crl probe builds it, on the trained one's environment: each looks through its own encoder."""
    config, model, _ = agent()
    other, _ = build(config, model.env, seed=1, device="cpu")
    assert isinstance(other.env, GoalMemory) and other.env.venv is model.env.venv
    for one in (model, other):
        assert one.env.goals.encoder.extractor is one.policy.features_extractor.extractors["image"]


def test_without_phases_it_is_plain_ppo():
    finals = []
    for name, more in (("ppo-crafter-small", {}), ("ppo-ad-small-no-memory", {"distillation.every": None})):
        _, model, callbacks = agent(name, **more)
        assert callbacks == []
        model.learn(2 * 96)
        finals.append(model.policy.state_dict())
    assert all(th.equal(finals[0][key], finals[1][key]) for key in finals[0])


def towards_the_next_item(image):
    """From the picture alone: one step to the item whose turn it is."""
    centres = image[:, 1::CELL, 1::CELL].transpose(1, 2, 0)
    collected = int(centres[ROWS].any(-1).sum())
    (item,) = np.argwhere((centres[:ROWS] == _COLOURS[collected]).all(-1))
    dx, dy = np.sign(item[::-1] - MIDDLE)
    return MOVES.index((dx, 0) if dx else (0, dy))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of five rollouts, with phases after the second and the fourth."""
    folder = new_run(
        "ppo-ad-small", "toy/chain", {**SMALL, **EVERY}, 0, tmp_path_factory.mktemp("whole") / "run", 480, "cpu", 96
    )
    return folder, train(folder, show_progress=False)


@pytest.mark.parametrize("pause_at", [96, 192, 288])
def test_a_run_that_was_stopped_ends_as_one_that_never_was(whole, pause_at, tmp_path):
    """Before a phase, with a rollout that waits; right after one; and in between."""
    folder = new_run("ppo-ad-small", "toy/chain", {**SMALL, **EVERY}, 0, tmp_path / "run", 480, "cpu", 96)
    with pytest.raises(Stopped):
        train(folder, show_progress=False, pause_at=pause_at)
    assert resume(folder, show_progress=False)["weights_sha256"] == whole[1]["weights_sha256"]
    assert len(folder.eval_file.read_text().splitlines()) == len(whole[0].eval_file.read_text().splitlines())


@pytest.mark.parametrize("phase, at", [(1, 3), (2, 1)])
def test_a_signal_in_a_phase_stops_there_and_loses_nothing(whole, phase, at, tmp_path, monkeypatch):
    """Within the first phase, and in the last one, which falls into the end of the training and has a single step."""
    fields = {**SMALL, **EVERY}
    folder = new_run("ppo-ad-small", "toy/chain", fields, 0, tmp_path / "run", 480 if phase == 1 else 384, "cpu", 96)
    stop, plain, asked = StopRequest(), RunCallback._in_phase, []

    def in_phase(self, phases):
        if self.model.num_timesteps == 192 * phase:
            asked.append(phases.n_updates)
            if len(asked) == at:
                stop.note(signal.SIGTERM)
        return plain(self, phases)

    monkeypatch.setattr(RunCallback, "_in_phase", in_phase)
    with pytest.raises(Stopped, match="SIGTERM"):
        train(folder, show_progress=False, stop=stop)
    assert len(asked) == at and folder.summary()["steps"] == 192 * phase
    monkeypatch.undo()
    found = resume(folder, show_progress=False)
    other = whole[1]
    if phase == 2:
        other = train(new_run("ppo-ad-small", "toy/chain", fields, 0, tmp_path / "other", 384, "cpu", 96), show_progress=False)
    assert found["weights_sha256"] == other["weights_sha256"] and found["phase_updates"] == other["phase_updates"]
    assert weights_sha256(load_model(folder)) == found["weights_sha256"], "what the last phase did is saved"


def test_its_agent_acts_elsewhere_with_its_memory(whole):
    """Evaluated, filmed and probed in environments around which there is a memory."""
    folder, _ = whole
    config, model = folder.config(), load_model(folder)
    config["env"]["kwargs"] = {}
    seen, predict = [], model.predict

    def look(obs, **kwargs):
        seen.append(np.array(obs["memory"]))
        predict(obs, **kwargs)  # the agent can act on it; items are reached by somebody who knows how
        return np.array([towards_the_next_item(image) for image in obs["image"]]), None

    model.predict = look
    result = evaluate(model, config, 2, film=True)
    model.predict = predict
    assert result.returns == [8.0, 8.0], "the walker reaches all items"
    assert len(result.frames) == result.lengths[0] and result.frames[0].shape == (32, 32, 3)
    lengths = [round(float(np.linalg.norm(memory)), 4) for memory in seen]
    assert set(lengths) == {0.0, 1.0} and lengths[0] == lengths[result.lengths[0]] == 0.0
    assert len(np.unique(np.array(seen).round(5), axis=0)) > 12, "none, and each item's in both episodes"
    data = collect(model, config, 4)
    assert data.images.shape[1:] == (3, 32, 32)
    env = make_env("toy/chain")
    assert isinstance(acting_env(model, env), SingleGoalMemory)
    _, plain, _ = agent("ppo-crafter-small")
    assert acting_env(plain, env) is env


def test_it_distils(whole):
    rows = list(csv.DictReader(whole[0].progress_file.open()))
    # after the second rollout, written with the fourth; and after that one, at the end
    first, last = (int(float(row["achievement/n_updates"])) for row in rows)
    assert last > first > 0 and all(float(row["achievement/prediction_loss"]) > 0 for row in rows)
    summary = whole[1]
    assert summary["phase_updates"] == last and 0 < summary["phase_seconds"] < summary["training_seconds"]


def test_environments_without_sub_goals_are_refused_at_once(tmp_path):
    fields = {key: value for key, value in {**SMALL, **EVERY}.items() if not key.startswith("env.")}
    folder = new_run("ppo-ad-small", "toy/reach-discrete", fields, 0, tmp_path / "run", 480)
    with pytest.raises(UnusableConfigError, match="toy/reach-discrete: .* reports none: take crafter/reward"):
        train(folder, show_progress=False)
    assert not folder.path.exists()


def test_a_loaded_agents_environment_looks_with_its_encoder(whole):
    model = load_model(whole[0])
    assert model.get_env().goals.encoder.extractor is find_encoders(model)[0].encoder.extractor


def test_crafter_is_evaluated_as_it_is_published():
    assert resolve("ppo-ad", "crafter/reward")["train"]["eval_deterministic"] is False
    assert resolve("ppo-ad", "toy/chain")["train"]["eval_deterministic"] is True

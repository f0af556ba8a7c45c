"""Recipes of Rainbow and of SB3's algorithms with discrete actions: values, controls, what they build, runs taken up again."""

import subprocess
import sys

import numpy as np
import pytest
import torch as th
import yaml
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv

from crl.agents import Rainbow, build, resolve
from crl.agents.fields import ConfigError, FieldValueError, UnknownFieldError
from crl.agents.rainbow_family import RAINBOW
from crl.agents.recipes import RECIPES, family_of, flatten, parse
from crl.agents.sb3_family import SB3_DQN, SB3_PPO, SB3_QRDQN
from crl.envs import make_vec_env
from crl.runs.run import Stopped, new_run, resume, train

from ..fakes import FakeImages

TOY = "toy/reach-discrete"
ENVS = ["atari/Pong", "atari/Assault", TOY, "MyGame-v0"]
OF_RAINBOW = [name for name in RECIPES if family_of(name) is RAINBOW]
OF_SB3 = [name for name in RECIPES if family_of(name) in (SB3_DQN, SB3_QRDQN, SB3_PPO)]


def difference(a, b):
    a, b = flatten(a), flatten(b)
    return {key for key in a.keys() | b.keys() if a.get(key) != b.get(key)} - {"agent"}


def test_the_list():
    assert set(OF_RAINBOW) == {"curl-rainbow", "der", "der-dopamine", "drq-eps", "spr", "spr-no-prediction"}
    assert set(OF_SB3) == {"dqn", "curl-dqn", "atc-dqn", "qrdqn", "curl-qrdqn", "ppo", "curl-ppo", "atc-ppo"}


@pytest.mark.parametrize("env_id", ENVS)
def test_controls_differ_in_exactly_one_named_field(env_id):
    controls = {name: RECIPES[name].parent for name in (*OF_RAINBOW, *OF_SB3) if RECIPES[name].parent}
    assert controls.keys() == {"der", "spr-no-prediction", "dqn", "atc-dqn", "qrdqn", "ppo", "atc-ppo"}
    for name, parent in controls.items():
        field = "objective.name" if name.startswith("atc") else "objective.weight"
        assert difference(resolve(name, env_id), resolve(parent, env_id)) == {field}


@pytest.mark.parametrize("env_id", ENVS)
def test_yaml_round_trip(env_id):
    for agent in (*OF_RAINBOW, *OF_SB3):
        config = resolve(agent, env_id)
        assert yaml.safe_load(yaml.safe_dump(config)) == config
        parse(config)


def holds(agent, published, env_id="atari/Assault"):
    flat = flatten(resolve(agent, env_id))
    assert {key: flat[key] for key in published} == published


def test_published_values_of_curl():
    published = {
        "algorithm.learning_rate": 1e-4, "algorithm.adam_eps": 1.5e-4, "algorithm.batch_size": 32,
        "algorithm.buffer_size": 100_000, "algorithm.learning_starts": 1600, "algorithm.random_start": False,
        "algorithm.train_freq": 1, "algorithm.gradient_steps": 1, "algorithm.gamma": 0.99, "algorithm.n_steps": 20,
        "algorithm.target_update_interval": 2000, "algorithm.double": True, "algorithm.prioritized": True,
        "algorithm.priority_exponent": 0.5, "algorithm.priority": "loss", "algorithm.beta_start": 0.4,
        "algorithm.beta_end": 1.0, "algorithm.exploration_initial_eps": 0.0, "algorithm.evaluation_eps": 0.001,
        "algorithm.max_grad_norm": 10.0, "algorithm.clip": "joint", "algorithm.reset_every": None,
        "policy.encoder": "rainbow", "policy.net_arch": [256], "policy.shared_arch": [], "policy.n_atoms": 51,
        "policy.v_min": -10.0, "policy.v_max": 10.0, "policy.dueling": True, "policy.noisy": True, "policy.sigma0": 0.1,
        "replay.augment": "none", "replay.n_stack": 4, "objective.weight": 1.0, "objective.tau": 0.001,
        "objective.crop": 80, "objective.pad": 4, "objective.size": 84, "objective.scale": 0.1, "objective.hidden": 256,
        "objective.width": 128, "train.env_steps": 400_000, "train.final_episodes": 100,
    }  # fmt: skip
    holds("curl-rainbow", published)


@pytest.mark.parametrize("game, weight", [
    ("Pong", 0.01), ("Boxing", 0.01), ("PrivateEye", 0.01), ("Freeway", 0.01), ("Krull", 1.0), ("Frostbite", 1.0),
])  # fmt: skip
def test_weight_of_the_contrast_by_game(game, weight):
    assert resolve("curl-rainbow", f"atari/{game}")["objective"]["weight"] == weight
    assert resolve("der", f"atari/{game}")["objective"]["weight"] == 0


def test_published_values_of_dopamine():
    both = {
        "algorithm.buffer_size": 1_000_000, "algorithm.n_steps": 10, "algorithm.exploration_initial_eps": 1.0,
        "algorithm.exploration_final_eps": 0.01, "algorithm.evaluation_eps": 0.001, "algorithm.max_grad_norm": None,
        "algorithm.learning_starts": 1600, "algorithm.learning_rate": 1e-4, "algorithm.adam_eps": 1.5e-4,
        "policy.encoder": "nature", "policy.padding": "same", "policy.init": "xavier", "policy.shared_arch": [512],
        "policy.net_arch": [], "policy.dueling": True, "algorithm.double": True, "objective.weight": 0.0,
    }  # fmt: skip
    holds("der-dopamine", {
        **both, "algorithm.target_update_interval": 2000, "algorithm.exploration_steps": 2000, "algorithm.beta_start": 0.5,
        "algorithm.beta_end": 0.5, "policy.noisy": True, "policy.sigma0": 0.1, "policy.n_atoms": 51, "replay.augment": "none",
    })  # fmt: skip
    holds("drq-eps", {
        **both, "algorithm.target_update_interval": 1, "algorithm.exploration_steps": 5000, "algorithm.prioritized": False,
        "policy.noisy": False, "policy.n_atoms": 1, "replay.augment": "shift_intensity", "replay.pad": 4,
        "replay.intensity": 0.05,
    })  # fmt: skip


def test_published_values_of_spr():
    holds("spr", {
        "objective.name": "spr", "objective.weight": 5.0, "objective.k": 5, "objective.tau": 1.0,
        "algorithm.gradient_steps": 2, "algorithm.learning_starts": 2000, "algorithm.random_start": True,
        "algorithm.n_steps": 10, "algorithm.target_update_interval": 1, "algorithm.priority": "kl",
        "algorithm.priority_exponent": 0.5, "algorithm.beta_start": 0.4, "algorithm.beta_end": 1.0,
        "algorithm.clip": "separate", "algorithm.max_grad_norm": 10.0, "algorithm.exploration_final_eps": 0.0,
        "algorithm.evaluation_eps": 0.001, "policy.encoder": "nature", "policy.padding": "valid", "policy.rescale": True,
        "policy.net_arch": [256], "policy.sigma0": 0.5, "policy.grad_scale": 2**-0.5, "replay.augment": "shift_intensity",
    })  # fmt: skip


def test_values_of_rl_zoo3():
    zoo = pytest.importorskip("rl_zoo3")
    for agent, file in (("dqn", "dqn"), ("qrdqn", "qrdqn"), ("ppo", "ppo")):
        flat = flatten(resolve(agent, "atari/Pong"))
        with open(f"{zoo.__path__[0]}/hyperparams/{file}.yml") as text:
            values = yaml.safe_load(text)["atari"]
        for name, value in values.items():
            mine = flat.get(f"algorithm.{name}", flat.get(f"train.{name}"))
            if mine is not None:
                assert float(str(value).removeprefix("lin_")) == mine, name
        assert flat["train.env_steps"] == 4 * float(values["n_timesteps"])


@pytest.mark.parametrize(("env_id", "what"), [
    ("dmc/cheetah-run", "has continuous actions"), ("toy/reach", "has continuous actions"),
    ("lbf/8x8-2p-2f", "shows vectors"), ("mpe/simple_tag", "shows vectors"),
])  # fmt: skip
def test_other_environments_are_refused(env_id, what):
    for agent in ("curl-rainbow", "spr", "dqn", "qrdqn", "ppo"):
        with pytest.raises(ConfigError, match=rf"{env_id} {what} and .*: atari/<Game> \(atari/Pong\), crafter/reward"):
            resolve(agent, env_id)


@pytest.mark.parametrize("agent", ["curl-rainbow", "curl-dqn", "curl-ppo"])
def test_any_pictures_with_discrete_actions_will_do(agent, tmp_path):
    """toy/chain shows one frame, where the other toys stack three."""
    folder = new_run(agent, "toy/chain", small(agent), seed=2, out=tmp_path / "run", steps=60, checkpoint_every=0)
    assert np.isfinite(train(folder, show_progress=False)["final_return"])
    assert parse(resolve(agent, "crafter/reward")).env.id == "crafter/reward"


@pytest.mark.parametrize("agent, overrides, error, message", [
    ("der", {"algorithm.tau": 1}, UnknownFieldError, "no field"),
    ("der", {"algorithm.n_steps": 0}, FieldValueError, "at least 1"),
    ("der", {"algorithm.reset_every": 0}, FieldValueError, "at least 1"),
    ("der", {"policy.encoder": "pixel"}, FieldValueError, "needs both numbers"),
    ("der", {"policy.filters": 8}, FieldValueError, "take none"),
    ("der", {"policy.padding": "same"}, FieldValueError, "policy.encoder=nature"),
    ("der", {"policy.v_min": 10}, FieldValueError, "low before high"),
    ("der", {"algorithm.beta_end": 0.1}, FieldValueError, "low before high"),
    ("der", {"algorithm.batch_size": 64, "algorithm.buffer_size": 32}, FieldValueError, "larger than"),
    ("der", {"env.kwargs.n_stack": 2}, FieldValueError, "both alike"),
    ("spr", {"policy.n_atoms": 1}, FieldValueError, "compares distributions"),
    ("spr", {"replay.augment": "none"}, FieldValueError, "predicts augmented views"),
    ("curl-rainbow", {"objective.size": 100}, FieldValueError, "larger than what is left"),
    ("dqn", {"policy.encoder": "pixel"}, FieldValueError, "needs both numbers"),
    ("dqn", {"env.kwargs.n_stack": 2}, FieldValueError, "both alike"),
    ("ppo", {"algorithm.batch_size": 100}, FieldValueError, "no multiple of"),
])  # fmt: skip
def test_bad_input(agent, overrides, error, message):
    with pytest.raises(error, match=message):
        resolve(agent, "atari/Assault", overrides)


def test_continuous_actions_are_refused_when_the_agent_is_built():
    env = make_vec_env("toy/reach")
    for agent in ("der", "dqn", "ppo"):
        config = resolve(agent, TOY)
        with pytest.raises(ConfigError, match="needs discrete actions"):
            build(config, env, seed=0, device="cpu")


def test_resolving_loads_neither_torch_nor_sb3():
    code = (
        "import sys; from crl.agents import resolve; [resolve(a, 'atari/Pong') for a in ('spr', 'dqn', 'ppo', 'qrdqn')];"
        "sys.exit(any(name in sys.modules for name in ('torch', 'stable_baselines3', 'gymnasium', 'numpy')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---- what is built

SMALL = {
    "policy.filters": 4,
    "policy.layers": 2,
    "policy.net_arch": "16",
    "algorithm.batch_size": 8,
    "algorithm.learning_starts": 20,
    "algorithm.buffer_size": 200,
    "train.eval_every": 1000,
    "train.eval_episodes": 1,
    "train.threads": 1,
}
PPO_LIKE = {
    **{key: value for key, value in SMALL.items() if key not in ("algorithm.learning_starts", "algorithm.buffer_size")},
    "train.n_envs": 2,
    "algorithm.n_steps": 16,
    "algorithm.n_epochs": 1,
}


def small(agent):
    return PPO_LIKE if family_of(agent) is SB3_PPO else SMALL


@pytest.mark.parametrize("agent", OF_RAINBOW)
def test_rainbow_is_built_as_resolved(agent):
    config = resolve(agent, TOY, {**SMALL, "replay.augment": "none"} if agent == "der" else SMALL)
    model, callbacks = build(config, make_vec_env(TOY, seed=0), seed=3, device="cpu")
    assert type(model) is Rainbow and callbacks == []
    elsewhere = ("train_freq", "adam_eps", "priority_exponent")
    for name, value in config["algorithm"].items():
        if name not in elsewhere:
            assert getattr(model, name) == value, name
    assert config["algorithm"]["adam_eps"] == (1e-8 if agent.startswith("spr") else 1.5e-4)
    assert all(group["eps"] == config["algorithm"]["adam_eps"] for group in model.policy.optimizer.param_groups)
    for name in ("n_atoms", "v_min", "v_max", "dueling", "noisy", "sigma0", "shared_arch", "grad_scale"):
        assert getattr(model.q_net, name) == config["policy"][name], name
    weight = config["objective"]["weight"]
    assert (model.objective is None) == (weight == 0) and model.objective_weight == weight
    wanted = {"none": "None", "random_shift": "RandomShift(", "shift_intensity": "Compose("}[config["replay"]["augment"]]
    assert repr(model.replay_buffer.augment).startswith(wanted)
    before = [p.detach().clone() for p in model.q_net.parameters()]
    model.learn(24)
    assert model._n_updates == 4 * config["algorithm"]["gradient_steps"]
    assert all(not th.equal(a, b) for a, b in zip(before, model.q_net.parameters(), strict=True))


def test_networks_on_atari():
    """Widths of features and layers at 84x84, and whether streams fork before or behind the first dense layer."""
    env = DummyVecEnv([lambda: FakeImages(spaces.Discrete(4), (4, 84, 84), channels=1)])
    for agent, features, shapes in (
        ("der", 576, [(256, 576), (204, 256), (256, 576), (51, 256)]),
        ("der-dopamine", 7744, [(512, 7744), (204, 512), (51, 512)]),
        ("drq-eps", 7744, [(512, 7744), (4, 512), (1, 512)]),
        ("spr", 3136, [(256, 3136), (204, 256), (256, 3136), (51, 256)]),
    ):
        config = resolve(agent, "atari/Pong", {"algorithm.buffer_size": 100, "replay.n_stack": 4})
        model, _ = build(config, env, seed=0, device="cpu")
        assert model.q_net.features_dim == features
        dense = [m for m in model.q_net.modules() if hasattr(m, "in_features")]
        assert [(m.out_features, m.in_features) for m in dense] == shapes
    spr = model.objective
    assert spr.predictor.weight.shape == (512, 512) and spr.encoder.features_dim == 512
    assert spr.transition.layers[0].weight.shape == (64, 64 + 4, 3, 3)


#: the others are these without a part
QUICK = ("curl-rainbow", "der-dopamine", "drq-eps", "spr", "curl-dqn", "curl-qrdqn", "atc-ppo")


@pytest.mark.parametrize(
    "agent",
    [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in (*OF_RAINBOW, *OF_SB3)],
)
def test_a_run_that_was_stopped_ends_as_one_that_was_not(agent, tmp_path):
    steps, pause = (96, 64) if family_of(agent) is SB3_PPO else (60, 37)

    def make(name):
        return new_run(agent, TOY, small(agent), seed=2, out=tmp_path / name, steps=steps, checkpoint_every=0)

    whole = train(make("whole"), show_progress=False)
    folder = make("stopped")
    with pytest.raises(Stopped):
        train(folder, show_progress=False, pause_at=pause)
    again = resume(folder, show_progress=False)
    assert again["weights_sha256"] == whole["weights_sha256"]
    assert again["final_return"] == whole["final_return"] and np.isfinite(again["final_return"])
    assert again["steps"] == steps


@pytest.mark.slow
@pytest.mark.parametrize("agent, steps, bound", [
    ("der", 4000, 20), ("curl-rainbow", 6000, 20), ("drq-eps", 4000, 20), ("spr", 2500, 15),
])  # fmt: skip
def test_learns_the_toy(agent, steps, bound, tmp_path):
    """Random actions return about 9 of 50, and 100 episodes tell a mean to about 1."""
    folder = new_run(
        agent, TOY, {"train.final_episodes": 100}, seed=101, out=tmp_path / "run", steps=steps, checkpoint_every=0
    )
    assert train(folder, show_progress=False)["final_return"] > bound

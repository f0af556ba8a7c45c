"""Recipes: what they resolve to, what distinguishes controls, bad input, what they build."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch as th
import yaml

import crl.agents
from crl.agents import build, list_recipes, resolve
from crl.agents.drqv2_family import DRQV2
from crl.agents.fields import ConfigError, FieldValueError, UnknownFieldError
from crl.agents.recipes import RECIPES, UnknownRecipeError, family_of, flatten, parse
from crl.agents.sac_family import SAC
from crl.envs import make_vec_env

ENVS = ["dmc/cartpole-swingup", "dmc/cheetah-run", "toy/reach", "gym/Pendulum-v1", "Anything-v0"]
#: the families of this file; others have files of their own
CONTINUOUS = [name for name in RECIPES if family_of(name) in (SAC, DRQV2)]
CONTROLS = [name for name in CONTINUOUS if RECIPES[name].parent]


def difference(a, b):
    a, b = flatten(a), flatten(b)
    return {key for key in a.keys() | b.keys() if a.get(key) != b.get(key)} - {"agent"}


def test_the_list():
    of_sac = {"curl-sac", "curl-sac-paper", "rad-sac", "sac", "contrast-sac", "frozen-sac", "drq-sac"}
    assert set(CONTINUOUS) == of_sac | {"drqv2", "drqv2-paper"}
    assert all(text and "\n" not in text for text in list_recipes().values())


@pytest.mark.parametrize("env_id", ENVS)
def test_controls_differ_in_exactly_one_named_field(env_id):
    expected = {
        "rad-sac": ("curl-sac", "objective.weight"),
        "sac": ("rad-sac", "replay.augment"),
        "contrast-sac": ("curl-sac", "policy.encoder_gradient"),
        "frozen-sac": ("contrast-sac", "objective.weight"),
    }
    assert set(CONTROLS) == set(expected)
    for name, (parent, field) in expected.items():
        assert RECIPES[name].parent == parent
        assert difference(resolve(name, env_id), resolve(parent, env_id)) == {field}


def test_frozen_is_random_and_nothing_else():
    assert difference(resolve("frozen-sac", ENVS[0]), resolve("rad-sac", ENVS[0])) == {"policy.encoder_gradient"}


def test_columns_are_the_only_difference_of_the_published_recipe():
    for env_id in ENVS[:2]:
        for agent in ("curl-sac", "drqv2"):
            found = difference(resolve(agent, env_id), resolve(f"{agent}-paper", env_id))
            assert found == set(family_of(agent).columns)


def test_published_values():
    flat = flatten(resolve("curl-sac-paper", "dmc/cartpole-swingup"))
    published = {
        "algorithm.batch_size": 512,
        "algorithm.learning_rate": 1e-3,
        "algorithm.learning_starts": 1000,
        "algorithm.buffer_size": 100_000,
        "algorithm.gamma": 0.99,
        "algorithm.tau": 0.01,
        "algorithm.encoder_tau": 0.05,
        "algorithm.actor_period": 2,
        "algorithm.target_period": 2,
        "algorithm.gradient_steps": 1,
        "algorithm.train_freq": 1,
        "algorithm.ent_coef": "auto_0.1",
        "algorithm.ent_coef_learning_rate": 1e-4,
        "algorithm.ent_coef_beta1": 0.5,
        "algorithm.ent_coef_loss": "alpha",
        "algorithm.critic_before_actor": True,
        "algorithm.critic_loss_factor": 1.0,
        "algorithm.joint": False,
        "policy.net_arch": [1024, 1024],
        "policy.log_std_bounds": [-10.0, 2.0],
        "policy.features_dim": 50,
        "policy.head": "layer_norm",
        "policy.crop": 84,
        "policy.precision": "fp32",
        "replay.crop_inclusive": False,
        "objective.keys": "target",
        "objective.weight": 1.0,
        "env.kwargs.size": 100,
    }
    assert {key: flat[key] for key in published} == published
    assert flatten(resolve("curl-sac-paper", "dmc/cheetah_run"))["algorithm.learning_rate"] == 2e-4


def test_published_values_of_drq():
    flat = flatten(resolve("drq-sac", "dmc/cheetah-run"))
    published = {
        "algorithm.learning_rate": 1e-3,
        "algorithm.online_views": 2,
        "algorithm.target_views": 2,
        "algorithm.tau": 0.01,
        "algorithm.encoder_tau": 0.01,
        "algorithm.ent_coef_learning_rate": None,
        "algorithm.ent_coef_beta1": 0.9,
        "algorithm.critic_loss_factor": 1.0,
        "policy.head": "tanh",
        "policy.init": "orthogonal",
        "replay.augment": "random_shift",
        "replay.pad": 4,
        "env.kwargs.size": 84,
        "objective.weight": 0.0,
    }
    assert {key: flat[key] for key in published} == published
    assert "env.kwargs.size" not in flatten(resolve("drq-sac", "toy/reach"))


def test_published_values_of_drqv2():
    flat = flatten(resolve("drqv2-paper", "dmc/cheetah-run"))
    published = {
        "algorithm.learning_rate": 1e-4,
        "algorithm.batch_size": 256,
        "algorithm.buffer_size": 1_000_000,
        "algorithm.learning_starts": 2000,
        "algorithm.train_freq": 2,
        "algorithm.gradient_steps": 1,
        "algorithm.gamma": 0.99,
        "algorithm.tau": 0.01,
        "algorithm.n_steps": 3,
        "algorithm.std_start": 1.0,
        "algorithm.std_end": 0.1,
        "algorithm.std_steps": 500_000,
        "algorithm.noise_clip": 0.3,
        "policy.head": "tanh",
        "policy.init": "orthogonal",
        "policy.pixel_offset": 0.5,
        "policy.features_dim": 50,
        "policy.net_arch": [1024, 1024],
        "policy.crop": None,
        "policy.precision": "fp32",
        "replay.augment": "random_shift",
        "replay.pad": 4,
        "replay.n_stack": 3,
        "env.kwargs.size": 84,
        "env.kwargs.action_repeat": 2,
        "train.env_steps": 3_100_000,
    }
    assert {key: flat[key] for key in published} == published


@pytest.mark.parametrize(
    ("env_id", "changed"),
    [
        ("dmc/hopper-hop", {}),
        ("dmc/swimmer-swimmer6", {}),
        ("dmc/ball_in_cup-catch", {"algorithm.std_steps": 100_000, "train.env_steps": 1_100_000}),
        ("dmc/cartpole-balance_sparse", {"algorithm.std_steps": 100_000, "train.env_steps": 1_100_000}),
        ("dmc/cartpole-swingup_sparse", {}),
        ("dmc/walker-run", {"algorithm.batch_size": 512, "algorithm.n_steps": 1}),
        (
            "dmc/walker-walk",
            {
                "algorithm.std_steps": 100_000,
                "train.env_steps": 1_100_000,
                "algorithm.batch_size": 512,
                "algorithm.n_steps": 1,
            },
        ),
        (
            "dmc/humanoid-run",
            {
                "algorithm.std_steps": 2_000_000,
                "train.env_steps": 30_100_000,
                "algorithm.learning_rate": 8e-5,
                "policy.features_dim": 100,
            },
        ),
        ("dmc/quadruped-run", {"algorithm.buffer_size": 100_000}),
    ],
)
def test_tasks_of_drqv2(env_id, changed):
    medium, flat = flatten(resolve("drqv2-paper", "dmc/cheetah-run")), flatten(resolve("drqv2-paper", env_id))
    assert {key: value for key, value in flat.items() if value != medium[key]} == {"env.id": env_id, **changed}


def test_overrides_win_and_strings_are_read_as_the_fields_type():
    overrides = {
        "objective.weight": "0.5",
        "algorithm.buffer_size": "1e4",
        "algorithm.joint": "false",
        "objective.balance": "none",
        "policy.net_arch": "256, 128",
        "policy.log_std_bounds": "none",
        "policy.pool_size": "2",
        "env.kwargs.shadow_size": "512",
        "replay.folder": "frames",
    }
    config = flatten(resolve("curl-sac", "dmc/walker-walk", overrides))
    expected = [0.5, 10_000, False, None, [256, 128], None, 2, 512, "frames"]
    for path, value in zip(overrides, expected, strict=True):
        assert config[path] == value and type(config[path]) is type(value)
    typed = {path: config[path] for path in overrides}
    assert resolve("curl-sac", "dmc/walker-walk", typed) == resolve("curl-sac", "dmc/walker-walk", overrides)


@pytest.mark.parametrize("agent", CONTINUOUS)
@pytest.mark.parametrize("env_id", ENVS)
def test_yaml_round_trip(agent, env_id):
    config = resolve(agent, env_id)
    text = yaml.safe_dump(config)
    assert yaml.safe_load(text) == config
    parse(yaml.safe_load(text))


@pytest.mark.parametrize(
    ("agent", "overrides", "error", "message"),
    [
        ("curl-sax", {}, UnknownRecipeError, "curl-sac, curl-sac-paper"),
        ("sac", {"batch_size": 3}, UnknownFieldError, "Nearest: algorithm.batch_size"),
        ("sac", {"algorithm.batchsize": 3}, UnknownFieldError, "Nearest: algorithm.batch_size"),
        ("sac", {"algorithms.batch_size": 3}, UnknownFieldError, "Nearest: algorithm.batch_size"),
        ("sac", {"algorithm.batch_size.x": 3}, UnknownFieldError, "algorithm.batch_size"),
        ("sac", {"algorithm": 3}, UnknownFieldError, "group of fields"),
        ("sac", {"algorithm.batch_size": "x"}, FieldValueError, "whole number"),
        ("sac", {"algorithm.batch_size": 1.5}, FieldValueError, "whole number"),
        ("sac", {"algorithm.batch_size": True}, FieldValueError, "whole number"),
        ("sac", {"algorithm.batch_size": 1}, FieldValueError, "at least 2"),
        ("sac", {"algorithm.tau": 2}, FieldValueError, "at most 1"),
        ("sac", {"algorithm.learning_rate": 0}, FieldValueError, "above 0"),
        ("sac", {"algorithm.learning_rate": "nan"}, FieldValueError, "a number"),
        ("sac", {"algorithm.joint": "maybe"}, FieldValueError, "true or false"),
        ("sac", {"algorithm.ent_coef": "auto_x"}, FieldValueError, "auto_<start>"),
        ("sac", {"policy.precision": "fp16"}, FieldValueError, "choose one of fp32, bf16, auto; did you mean"),
        ("sac", {"policy.net_arch": "64,x"}, FieldValueError, "whole number"),
        ("sac", {"policy.log_std_bounds": "1"}, FieldValueError, "2 numbers"),
        ("sac", {"policy.log_std_bounds": "2,1"}, FieldValueError, "low before high"),
        ("sac", {"policy.encoder": "nature"}, FieldValueError, "policy.filters=none"),
        ("sac", {"policy.crop": 101}, FieldValueError, "at most 100"),
        ("curl-sac-paper", {"policy.crop": 100}, FieldValueError, "at most 99"),
        ("curl-sac", {"policy.crop": None}, FieldValueError, "needs policy.crop"),
        ("curl-sac", {"replay.augment": "none"}, FieldValueError, "leaves none"),
        ("curl-sac", {"env.kwargs.n_stack": 4}, FieldValueError, "both alike"),
        ("curl-sac", {"policy.encoder_gradient": "actor"}, FieldValueError, "joint=false"),
        ("curl-sac-paper", {"objective.balance": 0.5}, FieldValueError, "joint=true"),
        ("sac", {"env.id": "toy/reach"}, FieldValueError, "named on its own"),
        ("sac", {"algorithm.batch_size": 200, "algorithm.buffer_size": 100}, FieldValueError, "larger than"),
        ("drqv3", {}, UnknownRecipeError, "drqv2"),
        ("drqv2", {"std_step": 3}, UnknownFieldError, "Nearest: algorithm.std_steps"),
        ("drqv2", {"objective.weight": 0}, UnknownFieldError, "no field 'objective.weight'"),
        ("drqv2", {"algorithm.actor_period": 2}, UnknownFieldError, "no field"),
        ("drqv2", {"algorithm.n_steps": 0}, FieldValueError, "at least 1"),
        ("drqv2", {"policy.pixel_offset": 2}, FieldValueError, "at most 1"),
        ("drqv2", {"replay.augment": "random_crop"}, FieldValueError, "needs policy.crop"),
        ("drqv2", {"algorithm.batch_size": 200, "algorithm.buffer_size": 100}, FieldValueError, "larger than"),
    ],
)
def test_bad_input(agent, overrides, error, message):
    with pytest.raises(error, match=message):
        resolve(agent, "dmc/walker-walk", overrides)
    assert issubclass(error, ValueError)


def test_discrete_actions_are_refused():
    for agent, name in (("sac", "SAC"), ("drqv2", "DrQ-v2")):
        with pytest.raises(ConfigError, match=f"{name} needs continuous"):
            resolve(agent, "toy/reach-discrete")


def test_a_configuration_from_before_a_field_was_added():
    config = resolve("sac", "toy/reach")
    del config["train"]["final_episodes"], config["train"]["eval_envs"], config["objective"]["temperature"]
    assert parse(config) == parse(resolve("sac", "toy/reach"))
    config = resolve("drqv2", "toy/reach")  # which has no objective
    del config["train"]["eval_envs"]
    assert parse(config) == parse(resolve("drqv2", "toy/reach"))


def test_a_damaged_configuration_is_refused():
    config = resolve("sac", "toy/reach")
    del config["algorithm"]["tau"]
    with pytest.raises(ConfigError, match=r"lacks algorithm\.tau"):
        parse(config)
    with pytest.raises(ConfigError, match="lacks agent"):
        parse({})
    with pytest.raises(UnknownRecipeError, match="Nearest: sac"):
        parse({**config, "agent": "sacc"})


def test_resolving_loads_neither_torch_nor_sb3():
    code = (
        "import sys; from crl.agents import resolve, list_recipes; list_recipes(); resolve('curl-sac', 'dmc/cheetah-run');"
        "resolve('drqv2', 'dmc/cheetah-run');"
        "sys.exit(any(name in sys.modules for name in ('torch', 'stable_baselines3', 'gymnasium', 'numpy')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("agent", CONTINUOUS)
def test_built_as_resolved(agent):
    th.set_num_threads(1)
    small = {
        "policy.filters": 4,
        "policy.net_arch": "16",
        "algorithm.batch_size": 8,
        "algorithm.learning_starts": 10,
        "algorithm.buffer_size": 100,
    }
    config = resolve(agent, "toy/reach", small)
    model, callbacks = build(config, make_vec_env("toy/reach", seed=0), seed=3, device="cpu")
    assert callbacks == []
    for name, value in config["algorithm"].items():
        if name != "train_freq":
            assert getattr(model, name) == value, name
    if "objective" in config:
        assert model.objective_weight == config["objective"]["weight"]
        assert (model.objective is None) == (config["objective"]["weight"] == 0)
        assert model.encoder_gradient == config["policy"]["encoder_gradient"]
    assert model.encoder.precision == config["policy"]["precision"]
    assert model.encoder.pixel_offset == config["policy"].get("pixel_offset", 0)
    assert repr(model.replay_buffer.augment) == ("None" if agent == "sac" else "RandomShift(pad=2)")
    before = {name: value.clone() for name, value in model.encoder.body.state_dict().items()}
    model.learn(14, callback=callbacks)
    assert model._n_updates == 4
    moved = any(not th.equal(value, model.encoder.body.state_dict()[name]) for name, value in before.items())
    assert moved == (agent != "frozen-sac")


def test_a_temperature_asks_for_cosines():
    th.set_num_threads(1)
    small = {"policy.filters": 4, "policy.net_arch": "16", "algorithm.buffer_size": 1000}
    env = make_vec_env("toy/reach", seed=0)
    for temperature in (None, 0.5):
        config = resolve("curl-sac", "toy/reach", {**small, "objective.temperature": temperature})
        model, _ = build(config, env, seed=3, device="cpu")
        head = model.objective.head
        assert (head is None) == (temperature is None), "without one: the bilinear product, as published"
        if head is not None:
            assert head.pair.name == "info_nce" and head.pair.parameters_of_loss == {"temperature": 0.5}
            assert model.objective.keys == "target"
    with pytest.raises(FieldValueError, match=r"objective\.temperature"):
        resolve("curl-sac", "toy/reach", {"objective.temperature": 0})


def test_the_published_crop_is_off_by_one():
    from crl.agents.assemble import augmentation

    for agent, largest in (("curl-sac-paper", 15), ("curl-sac", 16)):
        config = parse(resolve(agent, "dmc/walker-walk"))
        crop = augmentation(config.replay, config.policy.crop)
        offsets = crop.draw(th.zeros(3000, 1, 100, 100), th.Generator().manual_seed(0))["offsets"]
        assert offsets.min() == 0 and offsets.max() == largest


def test_no_module_hides_a_public_name():
    """Importing crl.agents.build, say, would put a module where the function of that name is looked for."""
    folder = Path(crl.agents.__file__).parent
    assert not {path.stem for path in folder.glob("*.py")} & set(crl.agents.__all__)


@pytest.mark.parametrize("agent", ["curl-sac", "drqv2"])
def test_several_environments_keep_the_replay_ratio(agent):
    th.set_num_threads(1)
    small = {"policy.filters": 4, "policy.net_arch": "16", "algorithm.batch_size": 8, "algorithm.learning_starts": 8}
    updates = []
    for n_envs in (1, 2, 4):
        env = make_vec_env("toy/reach", seed=0, n_envs=n_envs)
        model, _ = build(resolve(agent, "toy/reach", small), env, seed=0, device="cpu")
        model.learn(24)
        updates.append(model._n_updates)
    assert updates == [updates[0]] * 3 and updates[0] > 0


def test_discrete_actions_are_refused_in_words():
    env = make_vec_env("toy/reach-discrete", seed=0)
    with pytest.raises(ConfigError, match=r"curl-sac needs continuous actions .* has Discrete\(5\)"):
        build(resolve("curl-sac", "toy/reach"), env, seed=0, device="cpu")

"""An agent that is somebody's plain function goes through the same runs."""

import pytest

from crl.agents.call_function import load_function
from crl.agents.fields import ConfigError
from crl.agents.recipes import parse, resolve
from crl.runs.evaluation import evaluate
from crl.runs.run import RunError, Stopped, UnusableConfigError, load_model, new_run, resume, train

SOURCE = """
from stable_baselines3 import DQN, PPO
from crl import CURL, AuxiliaryLossCallback, RandomShift


def ppo(env, seed, device, n_steps=32):
    model = PPO("CnnPolicy", env, n_steps=n_steps, batch_size=16, n_epochs=1, seed=seed, device=device,
                policy_kwargs=dict(normalize_images=True, net_arch=[8], features_extractor_kwargs=dict(features_dim=8)))
    return model, [AuxiliaryLossCallback(CURL(augment=RandomShift(2)))]


def nothing(env, seed, device):
    return 3


def other_signature(env):
    return None
"""


@pytest.fixture
def mine(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(SOURCE.replace("features_extractor_kwargs=dict(features_dim=8)", "features_extractor_class=Small").replace(
        "def ppo", "from crl import PixelEncoder\n\n\nclass Small(PixelEncoder):\n    def __init__(self, space):\n"
        "        super().__init__(space, filters=4, layers=2, features_dim=8)\n\n\ndef ppo"
    ))  # fmt: skip
    return path


FIELDS = {"train.eval_every": "10000", "train.eval_episodes": "1", "train.threads": "1"}


def test_train_stop_resume_evaluate(mine, tmp_path):
    agent = f"{mine}:ppo"
    whole = new_run(agent, "toy/reach-discrete", FIELDS, seed=4, out=tmp_path / "whole", steps=128)
    want = train(whole, show_progress=False)
    assert want["state"] == "finished" and want["steps"] == 128
    folder = new_run(agent, "toy/reach-discrete", FIELDS, seed=4, out=tmp_path / "run", steps=128)
    with pytest.raises(Stopped):
        train(folder, show_progress=False, pause_at=64)
    assert resume(folder, show_progress=False)["weights_sha256"] == want["weights_sha256"]
    model = load_model(folder)
    assert type(model).__name__ == "PPO" and evaluate(model, folder.config(), 1).mean == want["final_return"]


def test_arguments_are_fields(mine, tmp_path):
    config = resolve(f"{mine}:ppo", "toy/reach-discrete", {"kwargs.n_steps": "48", "train.n_envs": "2"})
    assert config["kwargs"] == {"n_steps": 48} and parse(config).kwargs == {"n_steps": 48}
    assert resolve("crl.agents.recipes:build", "toy/reach")["kwargs"] == {}, "a module does as well"
    with pytest.raises(ConfigError, match=r"no field 'algorithm.gamma'"):
        resolve(f"{mine}:ppo", "toy/reach", {"algorithm.gamma": "0.9"})


@pytest.mark.parametrize(
    "agent, words",
    [
        ("{}:pppo", "defines no pppo; it has __init__, ppo, nothing, other_signature|it has ppo"),
        ("nowhere.py:make", "no file nowhere.py"),
        ("nowhere.at_all:make", "no module nowhere.at_all"),
        ("{}:", "write file.py:function"),
        (":make", "write file.py:function"),
    ],
)
def test_wrong_functions_before_anything_is_built(mine, agent, words):
    with pytest.raises(ConfigError, match=words):
        resolve(agent.format(mine), "toy/reach")


def test_a_file_that_is_no_python(tmp_path):
    (tmp_path / "bad.py").write_text("def make(:")
    with pytest.raises(ConfigError, match="cannot be read as Python"):
        resolve(f"{tmp_path / 'bad.py'}:make", "toy/reach")


@pytest.mark.parametrize(
    "name, words", [("nothing", "returned int: return an SB3 model"), ("other_signature", "called as make")]
)
def test_functions_that_do_not_do(mine, tmp_path, name, words):
    folder = new_run(f"{mine}:{name}", "toy/reach", FIELDS, seed=1, out=tmp_path / "run", steps=10)
    with pytest.raises((UnusableConfigError, RunError), match=words):
        train(folder, show_progress=False)


def test_names_of_a_module_that_is_imported(mine):
    assert load_function("crl.agents.recipes:resolve") is resolve

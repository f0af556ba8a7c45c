"""Wrong words get one clear message, exit code 2, no traceback, and no heavy import."""

import subprocess
import sys
import time

import pytest

from ..runs.small import arguments, crl


@pytest.mark.parametrize(
    "args, words",
    [
        (["train", "curl-sc", "toy/reach"], ["no agent 'curl-sc'", "curl-sac"]),
        (["train", "curl-sac", "toy/raech"], ["no environment 'toy/raech'", "toy/reach"]),
        (["train", "curl-sac", "dmc/cartpole-swing"], ["dmc/cartpole-swingup"]),
        (["train", "curl-sac", "toy/reach", "--set", "objective.wieght=1"], ["no field", "objective.weight"]),
        (["train", "curl-sac", "toy/reach", "--set", "objective.weight=much"], ["objective.weight", "a number"]),
        (["train", "curl-sac", "toy/reach", "--set", "objective.weight=-1"], ["at least 0"]),
        (["train", "curl-sac", "toy/reach", "--set", "objective.weight"], ["write field=value"]),
        (["train", "curl-sac", "toy/reach", "--precision", "fp8"], ["policy.precision", "bf16"]),
        (["train", "curl-sac", "toy/reach", "--steps", "0"], ["--steps 0", "at least 1"]),
        (["train", "curl-sac", "toy/reach", "--steps", "5", "--env-steps", "5"], ["give one"]),
        (["train", "curl-sac", "toy/reach", "--steps", "many"], ["steps"]),
        (["train", "curl-sac", "toy/reach", "--device", "tpu"], ["--device tpu", "cuda"]),
        (["train", "curl-sac", "toy/reach", "--seed", "-1"], ["--seed -1"]),
        (["train", "curl-sac", "toy/reach", "--sed", "1"], ["--seed"]),
        (["train", "curl-sac"], ["env"]),
        (["trian", "curl-sac", "toy/reach"], ["train"]),
        (["resume", "nowhere"], ["no folder nowhere"]),
        (["resume", "."], ["is no run"]),
        (["eval", "nowhere"], ["no folder nowhere"]),
        (["doctor", "--agent", "curl"], ["no agent 'curl'"]),
    ],
)
def test_wrong_usage(args, words, tmp_path):
    result = crl(*args, cwd=tmp_path)
    assert result.returncode == 2, result.stderr
    text = result.stdout + result.stderr
    assert "Traceback" not in text
    for word in words:
        assert word in text
    assert not list(tmp_path.iterdir()), "nothing is created for a run that does not begin"


def test_a_run_is_not_overwritten(tmp_path):
    assert crl(*arguments(tmp_path / "run", steps=22)).returncode == 0
    result = crl(*arguments(tmp_path / "run", steps=22))
    assert result.returncode == 2 and "crl resume" in result.stderr


def test_run_folder_below(tmp_path):
    assert crl(*arguments(tmp_path / "a" / "run", steps=22)).returncode == 0
    result = crl("eval", tmp_path)
    assert result.returncode == 2 and str(tmp_path / "a" / "run") in result.stderr


LOADED = """
import sys
try:
    {code}
except SystemExit:
    pass
print([name for name in ("torch", "stable_baselines3") if name in sys.modules])
"""


def loaded_by(code):
    command = [sys.executable, "-c", LOADED.format(code=code)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1]


@pytest.mark.parametrize(
    "args", [["--help"], ["train", "--help"], ["list"], ["train", "curl-sc", "toy/reach"], ["train", "curl-sac", "nowhere"]]
)
def test_answers_load_nothing_heavy(args):
    assert loaded_by(f"from crl.cli import main; main({args})") == "[]"


def test_help_is_quick():
    def seconds():
        started = time.perf_counter()
        crl("--help")
        return time.perf_counter() - started

    assert min(seconds() for _ in range(5)) < 0.5


def test_list():
    result = crl("list")
    assert result.returncode == 0
    for word in ("curl-sac-paper", "toy/reach", "cartpole-swingup", "curl"):
        assert word in result.stdout

"""Wrong words get one clear message, exit code 2, no traceback, and no heavy import."""

import os
import subprocess
import sys

import pytest
import yaml

from crl.compute import resolve_precision

from ..runs.small import arguments, crl

TUNE = ["tune", "sac", "toy/reach", "--search", "algorithm.tau=0.1,0.2"]


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
        (["train", "curl-sac", "toy/reach", "--threads", "0"], ["train.threads=0", "at least 1"]),
        (["train", "curl-sac", "toy/reach", "--env-steps", "0"], ["train.env_steps=0", "at least 1"]),
        (["train", "curl-sac", "toy/reach", "--checkpoint-every", "-1"], ["--checkpoint-every -1"]),
        (["train", "curl-sac", "toy/reach", "--device", "cuda:97"], ["--device cuda:97", "cpu always works"]),
        (["train", "curl-sac", "toy/reach", "--out", "/dev/null/run"], ["/dev/null is a file", "--out"]),
        (["train", "curl-sac", "toy/reach", "--set", "env.kwargs.size=64"], ["no option size", "render_mode"]),
        (["train", "curl-sac", "dmc/cartpole-swingup", "--set", "env.kwargs.size=big"], ["size='big'", "a whole number"]),
        (["train", "curl-sac", "dmc/cartpole-swingup", "--set", "env.kwargs.camera=9"], ["camera=9", "cameras 0 to"]),
        (["train", "curl-sac", "toy/reach-discrete"], ["discrete actions", "toy/reach"]),
        (["resume", "nowhere"], ["no folder nowhere"]),
        (["resume", "."], ["is no run"]),
        (["eval", "nowhere"], ["no folder nowhere"]),
        (["doctor", "--agent", "curl"], ["no agent 'curl'"]),
        (["train", "sac", "my_envs:Blob-v0"], ["no module my_envs", "Blob-v0", "current folder"]),
        (["bench", "toy", "--agents", "sac", "--out", "/dev/null/x"], ["/dev/null is a file", "--out"]),
        (["bench", "toy", "--agents", "sac", "--device", "cuda:97"], ["--device cuda:97", "cpu always works"]),
        (["tune", "sac", "toy/reach", "--search", "algorithm.tau=0.1,0.2", "--out", "/dev/null/x"], ["/dev/null is a file"]),
        (
            ["tune", "sac", "toy/reach", "--search", "algorithm.tau=0.1,0.2", "--checkpoint-every", "-5"],
            ["--checkpoint-every -5"],
        ),
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


def test_wrong_run_folders(tmp_path):
    """Another program's config.yaml, a broken one, a wrong field, a run without checkpoint; near ones are named."""
    assert crl(*arguments(tmp_path / "runs" / "right", steps=22)).returncode == 0
    whole = (tmp_path / "runs" / "right" / "config.yaml").read_text()
    cases = {
        "hydra": ("db: {user: me}\n", ["hydra/config.yaml is not of a run", "lacks run, env"]),
        "broken": ("a: [", ["broken/config.yaml cannot be read"]),
        "field": (whole.replace("gamma: 0.99", "gamma: much"), ["algorithm.gamma='much'", "a number"]),
        "fresh": (whole, ["has no checkpoint yet"]),
    }
    for name, (text, words) in cases.items():
        (tmp_path / "runs" / name).mkdir()
        (tmp_path / "runs" / name / "config.yaml").write_text(text)
        result = crl("eval", f"runs/{name}", cwd=tmp_path)
        assert result.returncode == 2 and "Traceback" not in result.stderr
        assert all(word in result.stderr for word in words), result.stderr
    result = crl("resume", "runs/rihgt", cwd=tmp_path)
    assert result.returncode == 2 and "no folder runs/rihgt" in result.stderr and "Nearest runs: runs/right" in result.stderr


def test_a_run_is_not_overwritten(tmp_path):
    assert crl(*arguments(tmp_path / "run", steps=22)).returncode == 0
    result = crl(*arguments(tmp_path / "run", steps=22))
    assert result.returncode == 2 and "crl resume" in result.stderr
    # the default folder, too, before anything heavy is imported
    (tmp_path / "run").rename(tmp_path / "seed1")
    default = tmp_path / "runs" / "adhoc" / "curl-sac" / "toy-reach"
    default.mkdir(parents=True)
    (tmp_path / "seed1").rename(default / "seed1")
    assert loaded_by("from crl.cli import main; main(['train', 'curl-sac', 'toy/reach'])", cwd=tmp_path) == "[]"
    result = crl("train", "curl-sac", "toy/reach", cwd=tmp_path)
    assert result.returncode == 2 and "crl resume runs/adhoc/curl-sac/toy-reach/seed1" in result.stderr


def test_options_are_recorded(tmp_path):
    """What each option of ``train`` does, in the run's configuration."""
    more = ("--seed", 7, "--device", "cpu", "--threads", 1, "--precision", "bf16", "--set", "objective.weight=0.5")
    result = crl(*arguments(tmp_path / "run", *more, steps=22, every=11))
    assert result.returncode == 0, result.stderr
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    run = config["run"]
    assert (run["seed"], run["steps"], run["device"], run["checkpoint_every"]) == (7, 22, "cpu", 11)
    assert config["policy"]["precision"] == "bf16" and config["train"]["threads"] == 1
    assert run["precision"] == resolve_precision("bf16", "cpu")
    assert config["objective"]["weight"] == 0.5
    names = {path.name for path in (tmp_path / "run" / "checkpoints").glob("step*")}
    assert names == {"step000000000011", "step000000000022"}


def test_environment_steps_count_the_action_repeat(tmp_path):
    from crl.runs.run import new_run

    folder = new_run("curl-sac", "dmc/cartpole-swingup", {"train.env_steps": 4000}, seed=1, out=tmp_path / "run")
    assert folder.config()["run"]["steps"] == 500 and folder.config()["run"]["action_repeat"] == 8


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


def loaded_by(code, **kwargs):
    command = [sys.executable, "-c", LOADED.format(code=code)]
    return subprocess.run(command, capture_output=True, text=True, check=True, **kwargs).stdout.splitlines()[-1]


@pytest.mark.parametrize(
    "args",
    [
        ["--help"],
        ["train", "--help"],
        ["list"],
        ["train", "curl-sc", "toy/reach"],
        ["train", "curl-sac", "nowhere"],
        ["train", "curl-sac", "dmc/cartpole-swingup", "--set", "env.kwargs.sise=3"],
        ["train", "curl-sac", "toy/reach", "--set", "objective.weight=much"],
        ["resume", "nowhere"],
        ["eval", "."],
    ],
)
def test_answers_load_nothing_heavy(args):
    assert loaded_by(f"from crl.cli import main; main({args})") == "[]"


def test_allocator_is_set_before_torch_loads():
    code = (
        "import crl.compute as c; c.tune_allocator = lambda: print('tuned', 'torch' in sys.modules)\n"
        "    from crl.cli import main; main(['resume', '.'])"
    )
    for args in (["train", "curl-sac", "toy/reach", "--device", "cuda:97"], ["doctor", "--env", "toy/reach"]):
        out = subprocess.run(
            [sys.executable, "-c", LOADED.format(code=code.replace("['resume', '.']", str(args)))],
            **dict(capture_output=True, text=True, check=True),
        ).stdout
        assert out.splitlines()[0] == "tuned False"
        assert "'torch'" in out.splitlines()[-1]


def test_help_is_quick():
    def seconds():
        """Of the processor: others that keep it busy make nothing slower that this test is about."""
        before = os.times()
        crl("--help")
        after = os.times()
        return sum(after[k] - before[k] for k in (2, 3))

    assert 0.0 < min(seconds() for _ in range(5)) < 0.5


def test_list():
    result = crl("list")
    assert result.returncode == 0
    for word in ("curl-sac-paper", "toy/reach", "cartpole-swingup", "curl"):
        assert word in result.stdout


def test_several_fields_after_one_set(capsys):
    from crl.cli import _spread, main

    words = ["--set", "a.b=1", "c.d=2", "--set=e.f=3", "g.h=4", "--seed", "3", "x=1"]
    assert _spread(words) == ["--set", "a.b=1", "--set", "c.d=2", "--set=e.f=3", "g.h=4", "--seed", "3", "x=1"]
    assert _spread(["--out", "a=b", "--set", "a.yaml", "b.c=1"]) == ["--out", "a=b", "--set", "a.yaml", "--set", "b.c=1"]
    with pytest.raises(SystemExit):
        main(["train", "curl-sac", "toy/reach", "--set", "objective.weight=0.5", "objective.wieght=1"])
    assert "no field 'objective.wieght'" in capsys.readouterr().err


def test_modules_in_the_current_folder_are_found(tmp_path):
    """By the installed script as by ``python -m crl``: its own folder is the first that Python looks into, not this one."""
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "my_agents.py").write_text("def tiny(env, seed, device):\n    raise NotImplementedError\n")
    (tmp_path / "script.py").write_text("from crl.cli import main\n\nmain()\n")
    command = [sys.executable, str(tmp_path / "script.py"), "bench", "toy", "--agents", "my_agents:tiny", "--dry-run"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path / "work")
    assert result.returncode == 0, result.stderr
    assert "10 runs, 10 left" in result.stdout

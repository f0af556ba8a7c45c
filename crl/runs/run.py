"""Training a run, and going on with one."""

from __future__ import annotations

import platform
import subprocess
import sys
import traceback
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger, TensorBoardOutputFormat
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import VecEnv

from crl.agents import build, resolve
from crl.callbacks import AuxiliaryLossCallback
from crl.compute import resolve_precision, set_threads
from crl.envs import make_vec_env
from crl.envs.dmc import default_action_repeat, split_id
from crl.runs.checkpoint import Checkpoints, NoCheckpointError
from crl.runs.evaluation import evaluate
from crl.runs.folder import RunFolder, Table
from crl.runs.run_callback import RunCallback, Stopped, TableWriter
from crl.runs.state import weights_sha256

_PACKAGES = ("crl", "torch", "stable-baselines3", "gymnasium", "numpy", "kornia", "dm-control", "mujoco", "shimmy")


class RunError(RuntimeError):
    """A run that failed, in words; the run's folder holds a usable last checkpoint where one was written."""


def action_repeat(config: dict[str, Any]) -> int:
    """Environment steps in one agent step."""
    repeat = config["env"]["kwargs"].get("action_repeat")
    if repeat is not None:
        return int(repeat)
    env_id = config["env"]["id"]
    return default_action_repeat(split_id(env_id)[0]) if env_id.startswith("dmc/") else 1


def new_run(
    agent: str,
    env_id: str,
    overrides: dict[str, Any],
    seed: int,
    out: str | Path | None = None,
    steps: int | None = None,
    device: str = "auto",
    checkpoint_every: int = 2500,
    suite: str = "adhoc",
) -> RunFolder:
    """
    Resolve a configuration and make the run's folder; nothing is trained yet.

    :param agent: recipe
    :param env_id: environment
    :param overrides: fields by dotted path
    :param seed: of the run
    :param out: folder; None takes ``runs/<suite>/<agent>/<env>/seed<k>``
    :param steps: agent steps; None takes the recipe's ``train.env_steps``
    :param device: of the model
    :param checkpoint_every: agent steps between checkpoints
    :param suite: in the default folder's name
    :raises ValueError: for anything wrong, before anything is built
    """
    config = resolve(agent, env_id, overrides)
    repeat = action_repeat(config)
    total = steps if steps is not None else max(1, config["train"]["env_steps"] // repeat)
    config["run"] = {
        "seed": seed,
        "steps": total,
        "action_repeat": repeat,
        "device": device,
        "precision": resolve_precision(config["policy"]["precision"], "cpu" if device == "auto" else device),
        "checkpoint_every": checkpoint_every,
        "versions": _versions(),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()} {platform.processor()}".strip(),
        "revision": _revision(),
    }
    folder = RunFolder(out if out is not None else RunFolder.default_path(suite, agent, env_id, seed))
    folder.create(config)
    folder.update_summary(state="running", agent=agent, env=env_id, seed=seed, steps=0)
    return folder


def train(folder: RunFolder, show_progress: bool = True) -> dict[str, Any]:
    """
    Train a new run to its end.

    :param folder: from :func:`new_run`
    :param show_progress: draw a progress bar
    :return: the summary
    :raises Stopped: after a signal; the run has been saved
    :raises RunError: when something went wrong; says what
    """
    config = folder.config()
    set_threads(config["train"]["threads"])
    set_random_seed(config["run"]["seed"])
    env = _make_env(config)
    model, callbacks = _build(config, env)
    return _learn(folder, config, model, callbacks, Checkpoints(folder.checkpoints), None, show_progress)


def resume(folder: RunFolder, show_progress: bool = True) -> dict[str, Any]:
    """
    Go on from the last sound checkpoint; a run that died before its first one begins anew.

    :param folder: of a run
    :param show_progress: draw a progress bar
    :return: the summary
    :raises Stopped: after a signal; the run has been saved
    :raises RunError: when something went wrong; says what
    """
    config = folder.config()
    if folder.summary().get("state") == "finished":
        return folder.summary()
    set_threads(config["train"]["threads"])
    set_random_seed(config["run"]["seed"])
    env = _make_env(config)
    model, callbacks = _build(config, env)
    checkpoints = Checkpoints(folder.checkpoints)
    if not checkpoints.found():
        _say(f"{folder.path} has no checkpoint yet: beginning anew")
        for table in (folder.progress_file, folder.eval_file):
            Table(table).cut("step", -1)
        return _learn(folder, config, model, callbacks, checkpoints, None, show_progress)
    problems: list[str] = []
    try:
        model, found = checkpoints.load_last(type(model), env, config["run"]["device"], problems)
    except NoCheckpointError as error:
        raise RunError(str(error)) from error
    for line in problems:
        _say(line)
    if not found["episodes_go_on"]:
        _say(f"{config['env']['id']} cannot restore an episode: it begins anew, and the run differs from one never stopped")
    for callback, state in zip(
        (c for c in callbacks if isinstance(c, AuxiliaryLossCallback)), found["auxiliary"], strict=False
    ):
        callback.load_state_dict(state)
    for path in (folder.progress_file, folder.eval_file):
        Table(path).cut("step", model.num_timesteps)
    _say(f"going on with {folder.path} at step {model.num_timesteps} of {config['run']['steps']}")
    return _learn(folder, config, model, callbacks, checkpoints, found["extra"], show_progress)


def load_model(folder: RunFolder) -> BaseAlgorithm:
    """
    The agent of a run's last sound checkpoint, for evaluation.

    :raises RunError: when there is none
    """
    config = folder.config()
    env = _make_env(config)
    model, _ = _build(config, env)
    problems: list[str] = []
    try:
        model, _ = Checkpoints(folder.checkpoints).load_last(type(model), env, config["run"]["device"], problems)
    except NoCheckpointError as error:
        raise RunError(str(error)) from error
    for line in problems:
        _say(line)
    return model


def _make_env(config: dict[str, Any]) -> VecEnv:
    run, train_fields = config["run"], config["train"]
    return make_vec_env(config["env"]["id"], seed=run["seed"], n_envs=train_fields["n_envs"], **config["env"]["kwargs"])


def _build(config: dict[str, Any], env: VecEnv) -> tuple[BaseAlgorithm, list[BaseCallback]]:
    recipe = {key: value for key, value in config.items() if key != "run"}
    return build(recipe, env, seed=config["run"]["seed"], device=config["run"]["device"])


def _learn(
    folder: RunFolder,
    config: dict[str, Any],
    model: BaseAlgorithm,
    callbacks: list[BaseCallback],
    checkpoints: Checkpoints,
    counters: dict[str, Any] | None,
    show_progress: bool,
) -> dict[str, Any]:
    run, fields = config["run"], config["train"]
    writers = [TableWriter(Table(folder.progress_file)), TensorBoardOutputFormat(str(folder.path / "tensorboard"))]
    model.set_logger(Logger(str(folder.path), writers))
    own = RunCallback(
        folder,
        config,
        checkpoints,
        callbacks,
        total_steps=run["steps"],
        action_repeat=run["action_repeat"],
        checkpoint_every=run["checkpoint_every"],
        eval_every=max(1, fields["eval_every"] // run["action_repeat"]),
        eval_episodes=fields["eval_episodes"],
        show_progress=show_progress,
        counters=counters,
    )
    folder.update_summary(state="running", error=None)
    left = run["steps"] - model.num_timesteps
    try:
        # the run's own callback comes last: objectives have caught up by then
        model.learn(left, callback=[*callbacks, own], reset_num_timesteps=model.num_timesteps == 0, log_interval=4)
        final = own.evaluate()
        own.save()
    except Stopped as stop:
        folder.update_summary(state="running", stopped_by=str(stop))
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        _note_failure(folder, reason, model.num_timesteps)
        raise RunError(f"{reason} (at step {model.num_timesteps}; {_last(checkpoints)})") from error
    finally:
        own.close()
        if model.env is not None:
            model.env.close()
    folder.update_summary(
        state="finished",
        steps=model.num_timesteps,
        env_steps=model.num_timesteps * run["action_repeat"],
        seconds=round(own.seconds, 1),
        updates_per_second=round(own.updates_per_second, 3),
        final_return=final,
        eval_episodes=fields["eval_episodes"],
        weights_sha256=weights_sha256(model),
    )
    return folder.summary()


def _note_failure(folder: RunFolder, reason: str, step: int) -> None:
    (folder.path / "error.txt").write_text(traceback.format_exc())
    folder.update_summary(state="failed", error=reason, failed_at_step=step)


def _last(checkpoints: Checkpoints) -> str:
    found = checkpoints.found()
    return f"last checkpoint: {found[-1].name}" if found else "no checkpoint was written yet"


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue  # an extra that is not installed
    return found


def _revision() -> str | None:
    """Of the source tree that crl runs from; None for an installed copy."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    result = subprocess.run(
        ["git", "-C", str(root), "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return result.stdout.strip() or None


def _say(line: str) -> None:
    print(line, file=sys.stderr)


__all__ = ["RunError", "Stopped", "evaluate", "load_model", "new_run", "resume", "train"]

"""Training a run, and going on with one."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
import traceback
import warnings
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.utils import get_device, set_random_seed
from stable_baselines3.common.vec_env import VecEnv

from crl.agents import build, resolve
from crl.agents.function_family import changed_source, is_function, source_hash
from crl.agents.recipes import family_of
from crl.callbacks.achievement_phases import AchievementPhases, bind_memory
from crl.callbacks.find_encoders import find_encoders
from crl.callbacks.stateful import StatefulCallback
from crl.compute import processor, resolve_precision, set_threads
from crl.envs import make_vec_env
from crl.envs.atari_scores import human_normalised
from crl.envs.subgoals import reports_subgoals
from crl.limits import peak_memory
from crl.objectives.memory_extractor import memory_width
from crl.runs.checkpoint import Checkpoints, NoCheckpointError
from crl.runs.evaluation import EvaluationStopped, evaluate
from crl.runs.folder import RunFolder, Table
from crl.runs.lengths import action_repeat, agent_steps, final_episodes, never_learns
from crl.runs.run_callback import EventWriter, RunCallback, Stopped, TableWriter
from crl.runs.state import check_finite, weights_sha256
from crl.runs.stop import StopRequest
from crl.runs.subgoal_score import SubgoalScore

_PACKAGES = ("crl", "torch", "stable-baselines3", "gymnasium", "numpy", "kornia", "dm-control", "mujoco", "shimmy", "ale-py")


class UnusableConfigError(ValueError):
    """A configuration that only the environment or the agent could tell is wrong; the message is theirs."""


class RunError(RuntimeError):
    """
    A run that failed, in words; the run's folder holds a usable last checkpoint where one was written.

    :param message: what went wrong
    :param can_go_on: resuming is worth a try
    """

    def __init__(self, message: str, can_go_on: bool = True) -> None:
        super().__init__(message)
        self.can_go_on = can_go_on


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
    check_device(device)
    config = resolve(agent, env_id, overrides)
    repeat = action_repeat(config)
    total = steps if steps is not None else agent_steps(config)
    wasted = never_learns(config, total)
    if wasted:
        warnings.warn(wasted, stacklevel=2)
    precision = config.get("policy", {}).get("precision", "fp32")
    config["run"] = {
        "seed": seed,
        "steps": total,
        "action_repeat": repeat,
        "device": device,
        "precision": resolve_precision(precision, get_device(device)),
        "checkpoint_every": checkpoint_every,
        "versions": _versions(),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {processor()}",
        "revision": _revision(),
        "update": family_of(agent).update,
    }
    if is_function(agent):
        config["run"]["source"] = source_hash(agent)
    folder = RunFolder(out if out is not None else RunFolder.default_path(suite, agent, env_id, seed))
    folder.create(config)
    folder.update_summary(state="running", agent=agent, env=env_id, seed=seed, steps=0)
    return folder


def check_device(device: str) -> None:
    """
    :param device: as torch and SB3 take it
    :raises UnusableConfigError: for a GPU that is not there (SB3 would silently compute on the CPU)
    """
    if not device.startswith("cuda"):
        return
    index, count = int(device.partition(":")[2] or 0), th.cuda.device_count()
    if index >= count:
        there = f"cuda:0 to cuda:{count - 1}" if count else "no GPU that this torch can use"
        raise UnusableConfigError(f"--device {device}: there is {there}; auto takes what there is, cpu always works")


def train(
    folder: RunFolder, show_progress: bool = True, pause_at: int | None = None, stop: StopRequest | None = None
) -> dict[str, Any]:
    """
    Train a new run to its end.

    :param folder: from :func:`new_run`
    :param show_progress: draw a progress bar
    :param pause_at: agent step at which to save and stop, as if by a signal; None runs to the end
    :param stop: listens to signals already; None listens from here on
    :return: the summary
    :raises Stopped: after a signal; the run has been saved
    :raises RunError: when something went wrong; says what
    :raises ValueError: when the environment or the agent cannot be made as configured; the run's folder is removed
    """
    config, stop = folder.config(), stop or StopRequest()
    with folder.held(), stop:
        try:
            model, callbacks = _begin(config)
        except ValueError:
            folder.discard()
            raise
        except Exception as error:
            _note_failure(folder, _reason(error), 0)
            raise RunError(_reason(error)) from error
        checkpoints = Checkpoints(folder.checkpoints)
        return _learn(folder, config, model, callbacks, checkpoints, None, stop, show_progress, pause_at)


def resume(folder: RunFolder, show_progress: bool = True, stop: StopRequest | None = None) -> dict[str, Any]:
    """
    Go on from the last sound checkpoint; a run that died before its first one begins anew.

    :param folder: of a run
    :param show_progress: draw a progress bar
    :param stop: listens to signals already; None listens from here on
    :return: the summary
    :raises Stopped: after a signal; the run has been saved
    :raises RunError: when something went wrong; says what
    :raises ValueError: when the environment or the agent cannot be made as configured
    """
    config, stop = folder.config(), stop or StopRequest()
    if folder.summary().get("state") == "finished":
        return folder.summary()
    with folder.held(), stop:
        try:
            model, callbacks = _begin(config)
        except ValueError:
            raise
        except Exception as error:
            _note_failure(folder, _reason(error), folder.summary().get("steps", 0))
            raise RunError(_reason(error)) from error
        return _go_on(folder, config, model, callbacks, stop, show_progress)


def _go_on(
    folder: RunFolder,
    config: dict[str, Any],
    model: BaseAlgorithm,
    callbacks: list[BaseCallback],
    stop: StopRequest,
    show_progress: bool,
) -> dict[str, Any]:
    checkpoints = Checkpoints(folder.checkpoints)
    if not checkpoints.found():
        _say(f"{folder.path} has no checkpoint yet: beginning anew")
        for table in (folder.progress_file, folder.eval_file):
            Table(table).cut("step", -1)
        return _learn(folder, config, model, callbacks, checkpoints, None, stop, show_progress)
    problems: list[str] = []
    env = model.env
    assert env is not None
    try:
        model, found = checkpoints.load_last(type(model), env, config["run"]["device"], problems)
    except NoCheckpointError as error:
        env.close()
        _note_failure(folder, str(error), folder.summary().get("steps", 0))
        raise RunError(f"{error}. Nothing is left to go on from: begin anew in another folder", can_go_on=False) from error
    _let_memory_see(model)
    changed = changed_source(config["agent"], config["run"])
    if changed:
        _say(f"{config['agent']} has changed since the run began ({changed}): it goes on with what stands there now")
    for line in problems:
        _say(line)
    checkpoints.drop_later(found["path"])
    if not found["episodes_go_on"]:
        _say(f"{config['env']['id']} cannot restore an episode: it begins anew, and the run differs from one never stopped")
    for callback, state in zip((c for c in callbacks if isinstance(c, StatefulCallback)), found["auxiliary"], strict=False):
        callback.load_state_dict(state)
    Table(folder.progress_file).cut("step", model.num_timesteps)
    # an evaluation at the checkpoint's own step is made again, unless the checkpoint knows of it
    Table(folder.eval_file).cut("step", found["extra"]["last_eval"])
    _say(f"going on with {folder.path} at step {model.num_timesteps} of {config['run']['steps']}")
    return _learn(folder, config, model, callbacks, checkpoints, found["extra"], stop, show_progress)


def load_model(folder: RunFolder) -> BaseAlgorithm:
    """
    The agent of a run's last sound checkpoint, for evaluation.

    :raises RunError: when there is none, or its environment cannot be made
    :raises ValueError: when the environment or the agent cannot be made as configured
    """
    config = folder.config()
    try:
        model, _ = _begin(config)
    except ValueError:
        raise
    except Exception as error:
        raise RunError(_reason(error)) from error
    problems: list[str] = []
    assert model.env is not None
    try:
        model, _ = Checkpoints(folder.checkpoints).load_last(type(model), model.env, config["run"]["device"], problems)
    except NoCheckpointError as error:
        raise RunError(str(error)) from error
    _let_memory_see(model)
    for line in problems:
        _say(line)
    return model


def _let_memory_see(model: BaseAlgorithm) -> None:
    """A goal memory in the environment looks with the encoder of the model that was made first, before it was loaded."""
    if memory_width(model.observation_space):
        bind_memory(model.get_env(), find_encoders(model)[0].encoder)


def _begin(config: dict[str, Any]) -> tuple[BaseAlgorithm, list[BaseCallback]]:
    """
    Environment and agent.

    :raises UnusableConfigError: for what only they can tell is wrong
    """
    check_device(config["run"]["device"])
    set_threads(config["train"]["threads"])
    set_random_seed(config["run"]["seed"])
    try:
        return _build(config, _make_env(config))
    except (ValueError, AssertionError) as error:  # SB3 asserts that it knows the spaces
        raise UnusableConfigError(f"{config['agent']} on {config['env']['id']}: {error}") from error


def _make_env(config: dict[str, Any]) -> VecEnv:
    run, train_fields = config["run"], config["train"]
    return make_vec_env(
        config["env"]["id"],
        seed=run["seed"],
        n_envs=train_fields["n_envs"],
        subprocess=train_fields.get("subprocess", False),
        **config["env"]["kwargs"],
    )


def _build(config: dict[str, Any], env: VecEnv) -> tuple[BaseAlgorithm, list[BaseCallback]]:
    recipe = {key: value for key, value in config.items() if key != "run"}
    model, callbacks = build(recipe, env, seed=config["run"]["seed"], device=config["run"]["device"])
    # of any agent: what it reached is a fact about the training, not about the method
    return model, [*callbacks, SubgoalScore()] if reports_subgoals(env) else callbacks


def _say_rounding(model: BaseAlgorithm, steps: int) -> None:
    """On-policy agents learn from whole rollouts, so they take more steps than they were told to where those do not fit."""
    if not isinstance(model, OnPolicyAlgorithm) or steps <= model.num_timesteps:
        return
    rollout = model.n_steps * model.n_envs
    total = model.num_timesteps - (model.num_timesteps - steps) // rollout * rollout
    if total != steps:
        _say(f"{total} agent steps instead of {steps}: {type(model).__name__} learns from whole rollouts of {rollout}")


def _learn(
    folder: RunFolder,
    config: dict[str, Any],
    model: BaseAlgorithm,
    callbacks: list[BaseCallback],
    checkpoints: Checkpoints,
    counters: dict[str, Any] | None,
    stop: StopRequest,
    show_progress: bool,
    pause_at: int | None = None,
) -> dict[str, Any]:
    run, fields = config["run"], config["train"]
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
        pause_at=pause_at,
        stop=stop,
    )
    left = run["steps"] - model.num_timesteps
    _say_rounding(model, run["steps"])
    try:
        writers = [
            TableWriter(Table(folder.progress_file)),
            EventWriter(str(folder.path / "tensorboard"), model.num_timesteps),
        ]
        model.set_logger(Logger(str(folder.path), writers))
        folder.update_summary(state="running", error=None, stopped_by=None)
        # the run's own callback comes last: objectives have caught up by then
        phases = [callback for callback in callbacks if isinstance(callback, AchievementPhases)]
        model.learn(left, callback=[*callbacks, own], reset_num_timesteps=model.num_timesteps == 0, log_interval=4)
        # a run that was stopped in its last phase has no steps left and that phase still to do
        if left > 0 or any(callback.n_updates > 0 for callback in phases):
            own.save()  # before the last evaluation, which a signal may end
        final = own.evaluate(final=True)
        score = human_normalised(config["env"]["id"], final)
        folder.update_summary(
            state="finished",
            steps=model.num_timesteps,
            env_steps=model.num_timesteps * run["action_repeat"],
            seconds=round(own.seconds, 1),
            training_seconds=round(own.seconds - own.eval_seconds, 1),
            evaluation_seconds=round(own.eval_seconds, 1),
            updates_per_second=round(own.updates_per_second, 3),
            final_return=final,
            eval_episodes=final_episodes(config),
            **_peak(folder),
            **({} if score is None else {"human_normalised": score}),
            **{key: value for callback in phases for key, value in callback.summary().items()},
            weights_sha256=weights_sha256(model),
        )
    except (Stopped, EvaluationStopped) as stop:
        rate = round(own.updates_per_second, 3)
        folder.update_summary(state="running", stopped_by=own.reason, updates_per_second=rate, **_peak(folder))
        raise Stopped(own.reason) from stop
    except Exception as error:
        reason = _reason(_cause(error, model))
        _note_failure(folder, reason, model.num_timesteps)
        raise RunError(f"{reason} (at step {model.num_timesteps}; {_last(checkpoints)})") from error
    finally:
        own.close()
        if model.env is not None:
            model.env.close()
    return folder.summary()


def _peak(folder: RunFolder) -> dict[str, float]:
    """For the summary: the most memory that this process or an earlier one of the run has had, in GB."""
    most = peak_memory()
    return {} if most is None else {"peak_memory_gb": max(round(most / 1e9, 2), folder.summary().get("peak_memory_gb", 0.0))}


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _cause(error: Exception, model: BaseAlgorithm) -> Exception:
    """What has diverged shows itself anywhere: SB3 says of actions that they are no parameters of a distribution."""
    try:
        check_finite(model)
    except FloatingPointError as diverged:
        return diverged
    return error


def _note_failure(folder: RunFolder, reason: str, step: int) -> None:
    with suppress(OSError):  # the reason may be that the disk is full
        folder.update_summary(state="failed", error=reason, failed_at_step=step)
    with suppress(OSError):
        (folder.path / "error.txt").write_text(traceback.format_exc())


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
    if not (root / ".git").exists() or shutil.which("git") is None:
        return None
    result = subprocess.run(
        ["git", "-C", str(root), "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return result.stdout.strip() or None


def _say(line: str) -> None:
    print(line, file=sys.stderr)


__all__ = [
    "RunError",
    "Stopped",
    "UnusableConfigError",
    "check_device",
    "evaluate",
    "load_model",
    "new_run",
    "resume",
    "train",
]

"""What ``scripts/quickstart`` does once crl is installed: the toy solved, then minutes of DeepMind Control."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from crl.compute import tune_allocator

#: mean return of toy/reach over 20 episodes; random actions stay around 5, the best possible is near 45
TOY_THRESHOLD = 20.0
TOY_STEPS = 3500
DMC_SECONDS = 180


def main() -> int:
    """Exit code 0 when all went well."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, help="agent steps of the DeepMind Control part, instead of three minutes")
    parser.add_argument("--toy-only", action="store_true")
    args = parser.parse_args()
    tune_allocator()
    from crl.runs.run import RunError, Stopped

    try:
        toy()
        if not args.toy_only:
            dmc(args.steps)
    except Stopped as stop:
        print(f"quickstart: stopped by {stop}", file=sys.stderr)
        return 130
    except RunError as error:
        print(f"quickstart: {error}", file=sys.stderr)
        return 1
    return 0


def _fresh(path: Path) -> Path:
    """A quickstart begins anew each time; only its own folders are removed."""
    shutil.rmtree(path, ignore_errors=True)
    return path


def toy() -> None:
    """Train on the toy until it is solved; fails when it is not."""
    from crl.runs.run import new_run, train

    print(f"== toy/reach: {TOY_STEPS} steps from 32x32 pixels", flush=True)
    started = time.monotonic()
    overrides = {"train.eval_every": 10**9, "train.threads": min(2, os.cpu_count() or 1)}
    folder = new_run("rad-sac", "toy/reach", overrides, seed=1, out=_fresh(Path("runs/quickstart/toy")), steps=TOY_STEPS)
    summary = train(folder)
    score = summary["final_return"]
    print(f"   return {score:.1f} (solved from {TOY_THRESHOLD:.0f}) in {time.monotonic() - started:.0f} s")
    if score < TOY_THRESHOLD:
        raise SystemExit(f"quickstart: toy/reach was not solved: return {score:.1f}, expected at least {TOY_THRESHOLD}")


def dmc(steps: int | None) -> None:
    """Three minutes (or so many steps) of cartpole-swingup, then evaluation, curve and video."""
    from crl.runs.evaluation import evaluate, write_curve, write_video
    from crl.runs.folder import Table
    from crl.runs.run import Stopped, load_model, new_run, train

    print("== dmc/cartpole-swingup: curl-sac from pixels", flush=True)
    path = _fresh(Path("runs/quickstart/cartpole-swingup"))
    overrides: dict[str, Any] = {"train.eval_every": 5000}
    # the whole run is configured, and paused early: crl resume goes on with it
    folder = new_run("curl-sac", "dmc/cartpole-swingup", overrides, seed=1, out=path, checkpoint_every=500)
    config = folder.config()
    timer = threading.Timer(DMC_SECONDS, lambda: os.kill(os.getpid(), signal.SIGINT))
    if steps is None:
        timer.start()
    started = time.monotonic()
    try:
        train(folder, pause_at=steps)
    except Stopped:
        pass  # the time is up: the run has been saved and can go on
    finally:
        timer.cancel()
    seconds = time.monotonic() - started
    model = load_model(folder)
    result = evaluate(model, config, 3, film=True)
    env_steps = model.num_timesteps * config["run"]["action_repeat"]
    row = {"step": model.num_timesteps, "env_steps": env_steps, "mean": result.mean, "std": result.std, "episodes": 3}
    table = Table(folder.eval_file)
    if not any(float(old["step"]) == model.num_timesteps for old in table.rows()):
        table.append({**row, "seconds": round(seconds, 1)})
    curve = write_curve(table.rows(), path / "curve.png", "curl-sac on dmc/cartpole-swingup")
    video = write_video(result.frames, folder.video / f"step{model.num_timesteps}.mp4")
    share = env_steps / config["train"]["env_steps"]
    print(
        f"   return {result.mean:.1f} over 3 episodes, {env_steps} environment steps: {100 * share:.1f} % of the "
        f"{config['train']['env_steps'] // 1000}k budget"
    )
    print(f"   curve {curve}, video {video}")
    if share < 1:
        summary = folder.summary()
        rate = summary.get("updates_per_second", 0.0)
        left = projected_seconds(config, model.num_timesteps, seconds, rate)
        words = "about" if rate > 0 else "far more than"  # nothing was learned yet
        print(f"   the whole budget would take {words} {left / 60:.0f} more minutes on this machine:")
        print(f"   .venv/bin/crl resume {path}")


def projected_seconds(config: dict[str, Any], steps: int, seconds: float, updates_per_second: float) -> float:
    """
    :param config: of the run
    :param steps: agent steps done
    :param seconds: that they took
    :param updates_per_second: since the first update; 0 when there was none, and then the simulation alone tells: too little
    :return: seconds that the rest of the run will take
    """
    first, total = config["algorithm"]["learning_starts"], config["run"]["steps"]
    if updates_per_second == 0:
        return (total - steps) * seconds / max(steps, 1)
    per_step = config["algorithm"]["gradient_steps"] / config["algorithm"]["train_freq"] / updates_per_second
    return max(0, total - max(steps, first)) * per_step


if __name__ == "__main__":
    sys.exit(main())

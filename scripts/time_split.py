"""
Where the time of a recipe goes: environments, acting, the agent's own updates, callbacks (objectives, phases, encoders), rest.

The recipe is trained as ``crl train`` builds it, without evaluations and checkpoints, after a warm-up that is not counted.
What a part calls counts as that part's, so shares add up to one. For recipes with phases, take as many steps as a whole cycle
has (achievement distillation: 8 rollouts of 4096 steps, and the phase begins with the next)::

    python scripts/time_split.py ppo-crafter-small crafter/reward --env-steps 32768
    python scripts/time_split.py ppo-ad-small crafter/reward --env-steps 32768 --out split.csv
    python scripts/time_split.py curl-sac dmc/cartpole-swingup --warm-up 1200 --env-steps 400

One thread, unless ``--threads`` says more; on-policy recipes round up to whole rollouts.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from crl.agents import build, resolve
from crl.envs import make_vec_env
from crl.runs.folder import Table
from crl.runs.settings import settings

PARTS = ("environments", "acting", "updates", "callbacks", "rest")
FIELDS = ["agent", "env", "env_steps", "threads", "part", "seconds", "cpu_seconds", "share", "steps_per_second"]


class Clock:
    """Wall-clock and CPU seconds of named parts; what runs inside of a part is that part's."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self.cpu_seconds = dict.fromkeys(PARTS, 0.0)
        self._inside = False

    def time(self, owner: Any, name: str, part: str) -> None:
        """Have ``owner.name(...)`` counted as ``part``."""
        function: Callable[..., Any] = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            if self._inside:
                return function(*args, **kwargs)
            self._inside, began, cpu = True, time.perf_counter(), time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                self._inside = False
                self.seconds[part] += time.perf_counter() - began
                self.cpu_seconds[part] += time.process_time() - cpu

        setattr(owner, name, timed)

    def watch(self, model: BaseAlgorithm, callbacks: list[BaseCallback]) -> None:
        """Count the parts of an agent that will not be saved: methods of these very objects are replaced."""
        assert model.env is not None
        self.time(model.env, "step", "environments")
        if isinstance(model, OnPolicyAlgorithm):
            for name in ("forward", "predict_values"):
                self.time(model.policy, name, "acting")
        else:
            self.time(model, "predict", "acting")
        self.time(model, "train", "updates")
        for callback in callbacks:
            for event in ("on_rollout_start", "on_step", "on_rollout_end", "on_training_end"):
                self.time(callback, event, "callbacks")

    def finish(self, seconds: float, cpu_seconds: float) -> None:
        """:param seconds: of everything, of which the parts are taken off"""
        self.seconds["rest"] = seconds - sum(self.seconds.values())
        self.cpu_seconds["rest"] = cpu_seconds - sum(self.cpu_seconds.values())


def split(agent: str, env_id: str, changes: dict[str, Any], warm_up: int, env_steps: int, seed: int) -> tuple[Clock, int]:
    """Train, and tell the clock and the environment steps that were taken."""
    config = resolve(agent, env_id, changes)
    env = make_vec_env(env_id, config["train"]["n_envs"], seed, **config["env"]["kwargs"])
    model, callbacks = build(config, env, seed=seed, device="auto")
    if warm_up:
        model.learn(warm_up, callback=callbacks, log_interval=None)
    before = model.num_timesteps
    clock = Clock()
    clock.watch(model, callbacks)
    began, cpu = time.perf_counter(), time.process_time()
    model.learn(env_steps, callback=callbacks, log_interval=None, reset_num_timesteps=False)
    clock.finish(time.perf_counter() - began, time.process_time() - cpu)
    return clock, model.num_timesteps - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("agent", help="recipe")
    parser.add_argument("env", help="id")
    parser.add_argument("--env-steps", type=int, required=True, help="to be timed, of the agent (not counting action repeats)")
    parser.add_argument("--warm-up", type=int, default=0, help="steps before them")
    parser.add_argument("--seed", type=int, default=101)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--set", nargs="+", default=[], metavar="FIELD=VALUE", help="fields of the recipe")
    parser.add_argument("--out", type=Path, help="CSV that rows are appended to")
    args = parser.parse_args()
    th.set_num_threads(args.threads)
    clock, steps = split(args.agent, args.env, settings(args.set), args.warm_up, args.env_steps, args.seed)
    total = sum(clock.seconds.values())
    print(f"{args.agent} on {args.env}: {steps} steps in {total:.1f} s, {steps / total:.1f} a second")
    for part in PARTS:
        seconds, cpu = clock.seconds[part], clock.cpu_seconds[part]
        print(f"  {part:13} {seconds:9.1f} s {seconds / total:6.1%}  {cpu:9.1f} CPU s")
        cells = [args.agent, args.env, steps, args.threads, part, round(seconds, 1), round(cpu, 1), round(seconds / total, 3)]
        if args.out is not None:
            Table(args.out).append(dict(zip(FIELDS, [*cells, round(steps / total, 1)], strict=True)))


if __name__ == "__main__":
    main()

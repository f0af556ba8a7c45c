"""
Does the lean update learn as well? bf16, the joint pass, and both, against fp32 with separate steps, on ``toy/reach``; and
both with a head on globally averaged features, which do without the largest matrix.

Each arm is CURL's SAC with two fields set; each seed gives the area under its evaluation curve, in percent of the reference's
mean area. An arm is *not inferior* when the lower one-sided 90 % bound of its mean difference, seed by seed, lies above -10 %;
*inferior* when the upper bound lies below it; else the seeds do not tell: *inconclusive*. Rows are appended as they come, what
is there is skipped::

    python scripts/noninferiority.py --out runs/noninferiority.csv
    python scripts/noninferiority.py --out runs/noninferiority.csv --summary
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch as th
from missing_rows import fill, on_one_thread
from scipy import stats
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from toy_ablation import SETTINGS

from crl.agents import build, resolve
from crl.envs import make_vec_env

STEPS, EVERY, EPISODES = 4000, 500, 20
#: of the mean area of the reference
MARGIN = 0.10
SEPARATE = {"algorithm.joint": False, "objective.balance": None}
JOINT = {"algorithm.joint": True, "objective.balance": 0.1}
ARMS: dict[str, dict[str, Any]] = {
    "reference": {**SEPARATE, "policy.precision": "fp32"},
    "bf16": {**SEPARATE, "policy.precision": "bf16"},
    "joint": {**JOINT, "policy.precision": "fp32"},
    "both": {**JOINT, "policy.precision": "bf16"},
    # not a way to compute the same: another, smaller head
    "both, pooled": {**JOINT, "policy.precision": "bf16", "policy.pool_size": 1},
}
FIELDS = ["arm", "seed", "area", "final", "steps", "seconds"]


class Curve(BaseCallback):
    """Mean returns of evaluations at equal distances, between rollouts."""

    def __init__(self) -> None:
        super().__init__()
        self.returns: list[float] = []
        self.env = make_vec_env("toy/reach", seed=20_000)

    def _on_rollout_start(self) -> None:
        if self.num_timesteps and self.num_timesteps % EVERY == 0 and len(self.returns) < self.num_timesteps // EVERY:
            self.evaluate()

    def evaluate(self) -> None:
        """One point."""
        random = th.get_rng_state(), np.random.get_state()  # noqa: NPY002
        mean, _ = evaluate_policy(self.model, self.env, n_eval_episodes=EPISODES)
        th.set_rng_state(random[0])
        np.random.set_state(random[1])  # noqa: NPY002
        self.returns.append(float(mean))  # type: ignore[arg-type]

    def _on_step(self) -> bool:
        return True


def run(arm: str, seed: int, steps: int) -> dict[str, Any]:
    """One row of the table."""
    started = time.time()
    env = make_vec_env("toy/reach", seed=seed)
    model, callbacks = build(resolve("curl-sac", "toy/reach", {**SETTINGS, **ARMS[arm]}), env, seed=seed, device="cpu")
    curve = Curve()
    model.learn(steps, callback=[*callbacks, curve])
    curve.evaluate()
    row = {"area": np.mean(curve.returns), "final": curve.returns[-1], "seconds": time.time() - started}
    return {"arm": arm, "seed": seed, "steps": steps, **{key: round(float(value), 3) for key, value in row.items()}}


def verdict(differences: np.ndarray, margin: float = MARGIN) -> tuple[float, float, str]:
    """
    :param differences: of an arm from the reference, one a seed, in units of the reference
    :param margin: how much less would still do
    :return: one-sided 90 % bounds of the mean (Student's t), and what follows
    """
    mean, error = differences.mean(), differences.std(ddof=1) / np.sqrt(len(differences))
    reach = stats.t.ppf(0.9, len(differences) - 1) * error
    low, high = mean - reach, mean + reach
    word = "not inferior" if low > -margin else "inferior" if high < -margin else "inconclusive"
    return float(low), float(high), word


def summary(path: Path) -> None:
    """Print the table and the verdicts over the seeds that every arm has."""
    rows = list(csv.DictReader(path.open()))
    areas = {arm: {int(row["seed"]): float(row["area"]) for row in rows if row["arm"] == arm} for arm in ARMS}
    seeds = sorted(set.intersection(*(set(by_seed) for by_seed in areas.values())))
    if len(seeds) < 2:
        sys.exit(f"{path}: two seeds of every arm are needed, there are {len(seeds)}")
    reference = np.array([areas["reference"][seed] for seed in seeds])
    print(f"seeds {', '.join(map(str, seeds))}; margin {MARGIN:.0%} of the reference's mean area {reference.mean():.2f}\n")
    print("| arm | area | difference | one-sided 90 % bounds | verdict |\n|---|---|---|---|---|")
    for arm in ARMS:
        values = np.array([areas[arm][seed] for seed in seeds])
        differences = (values - reference) / reference.mean()
        if arm == "reference":
            print(f"| {arm} | {values.mean():.2f} | | | |")
            continue
        low, high, word = verdict(differences)
        print(f"| {arm} | {values.mean():.2f} | {differences.mean():+.1%} | {low:+.1%}, {high:+.1%} | {word} |")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/noninferiority.csv"))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(1, 11)))
    parser.add_argument("--steps", type=int, default=STEPS, help=f"a multiple of {EVERY}")
    parser.add_argument("--summary", action="store_true", help="print the table of what is there")
    args = parser.parse_args()
    if args.summary:
        return summary(args.out)
    if args.steps < EVERY or args.steps % EVERY:
        parser.error(f"--steps {args.steps}: a multiple of {EVERY}")
    on_one_thread()
    experiments = [{"arm": arm, "seed": seed} for seed in args.seeds for arm in ARMS]
    fill(args.out, FIELDS, experiments, partial(run, steps=args.steps), ("steps", args.steps), parser.error)
    return None


if __name__ == "__main__":
    main()

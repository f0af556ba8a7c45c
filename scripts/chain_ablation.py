"""
What does achievement distillation add, part by part? The paper's ablation (Moon et al. 2023, arXiv:2307.03486) on
``toy/chain``, where items are to be stepped on in one order that is shown nowhere.

Every arm trains for every seed with equally many steps:

- ``ppo``: no auxiliary phases;
- ``intra``: phases with the contrast within episodes; ``cross``: and the one between episodes; ``memory``: and the last
  sub-goal as an input of the policy, which is the whole method;
- ``control``: the whole method with as many steps in its phases, of policy and value distillation alone.

Asked of each: ``reached``, sub-goals of a training episode, the mean over those that ended in the last fifth of the steps,
and ``deepest``, the most in one. And of the encoder's output, on held-out episodes of somebody who knows the way, half of
whose steps are random: ``next_item``, how often a linear probe tells which item is next (guessing gets ``chance``), and
``where_next``, R2 of a ridge probe of where that item lies, seen from the player. ``random`` is an encoder that never
learned. Rows are appended as they come, what is there is skipped::

    python scripts/chain_ablation.py --out runs/chain_ablation.csv --seeds 1 2 3 4 5
    python scripts/chain_ablation.py --out runs/chain_ablation.csv --summary
"""

from __future__ import annotations

import argparse
import csv
import os
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch as th
from missing_rows import fill, on_one_thread
from toy_ablation import interval

from crl.agents import build, resolve
from crl.callbacks import AchievementPhases
from crl.callbacks.find_encoders import find_encoders
from crl.envs import make_env, make_vec_env
from crl.envs.toy_chain import LENGTH, MOVES
from crl.probe.features import output_features
from crl.probe.labels import linear_hits
from crl.probe.linear import ridge_r2
from crl.runs.subgoal_score import SubgoalScore, success_rates

STEPS = 40_960
PROBE_EPISODES = 120
#: recipes by arm
ARMS = {
    "random": "ppo-crafter-small",
    "ppo": "ppo-crafter-small",
    "intra": "ppo-ad-small-intra",
    "cross": "ppo-ad-small-no-memory",
    "memory": "ppo-ad-small",
    "control": "ppo-ad-small-control",
}
#: a fifth of it is an episode of each of 8 environments
SHORTEST = 5 * 8 * LENGTH
FIELDS = ["arm", "seed", "steps", "reached", "deepest", "next_item", "chance", "where_next"]
FIELDS += ["updates", "phase_updates", "seconds", "phase_seconds"]
#: entries of ``info["state"]``
_WAY = slice(1, 3)

Probe = tuple[th.Tensor, np.ndarray, np.ndarray, np.ndarray]


def probe_data(episodes: int = PROBE_EPISODES) -> Probe:
    """Observations, which item is next, where it lies, and episode numbers; the same for every arm and seed."""
    env = make_env("toy/chain", seed=10_000)
    rng = np.random.default_rng(10_000)
    images, labels, places, numbers = [], [], [], []
    for episode in range(episodes):
        image, info = env.reset()
        over = False
        while not over:
            images.append(image)
            labels.append(info["labels"]["next_item"])
            places.append(info["state"][_WAY])
            numbers.append(episode)
            action = int(rng.integers(len(MOVES))) if rng.random() < 0.5 else towards_the_next(info["state"])
            image, _, terminated, truncated, info = env.step(action)
            over = terminated or truncated
    return th.as_tensor(np.array(images)), np.array(labels), np.array(places, dtype=np.float64), np.array(numbers)


def towards_the_next(state: np.ndarray) -> int:
    """A number of :data:`crl.envs.toy_chain.MOVES`."""
    dx, dy = np.sign(state[_WAY]).astype(int)
    return MOVES.index((dx, 0) if dx else (0, dy))


def run(arm: str, seed: int, steps: int, data: Probe) -> dict[str, Any]:
    """One row of the table."""
    started = time.time()
    config = resolve(ARMS[arm], "toy/chain")
    env = make_vec_env("toy/chain", seed=seed, n_envs=config["train"]["n_envs"], **config["env"]["kwargs"])
    model, callbacks = build(config, env, seed=seed, device="cpu")
    row: dict[str, Any] = dict.fromkeys(FIELDS, float("nan"))
    if arm != "random":
        with tempfile.TemporaryDirectory() as folder:
            table = Path(folder) / "subgoals.csv"
            own = [callback for callback in callbacks if not isinstance(callback, SubgoalScore)]
            model.learn(steps, callback=[*own, SubgoalScore(table)])
            # rates of all items in percent: their sum is the mean number of items
            row["reached"] = sum(success_rates(table, after=int(0.8 * steps)).values()) / 100.0
            with table.open() as file:
                names = [f"item_{k}" for k in range(8)]
                row["deepest"] = max(sum(int(line[name]) for name in names) for line in csv.DictReader(file))
        row |= dict(updates=model._n_updates, phase_updates=0, phase_seconds=0.0)  # type: ignore[attr-defined]
        for callback in callbacks:
            if isinstance(callback, AchievementPhases):
                row |= dict(phase_updates=callback.n_updates, phase_seconds=callback.seconds)
    images, labels, places, episodes = data
    encoder = find_encoders(model)[0].encoder
    encoder.extractor.eval()
    features = output_features(encoder, images)
    hits = linear_hits(features, labels, episodes)
    row |= dict(next_item=float(hits.mean()), chance=float(np.unique(labels, return_counts=True)[1].max() / len(labels)))
    row |= dict(where_next=float(ridge_r2(features, places, episodes).mean()), seconds=time.time() - started)
    row = {key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}
    return row | dict(arm=arm, seed=seed, steps=steps)


def summary(path: Path) -> None:
    """Print the table, and differences between arms of the same seed."""
    rows = list(csv.DictReader(path.open()))
    seeds = sorted({row["seed"] for row in rows}, key=int)

    def values(arm: str, field: str) -> np.ndarray:
        found = {row["seed"]: float(row[field]) for row in rows if row["arm"] == arm}
        return np.array([found[seed] for seed in seeds if seed in found])

    complete = [arm for arm in ARMS if len(values(arm, "seed")) == len(seeds)]
    print(
        f"{rows[0]['steps']} steps, seeds {', '.join(seeds)}; mean [95 % bootstrap interval; of fewer than five, the ends]\n"
    )
    print("| arm | sub-goals reached | deepest | next item | where it is (R2) | gradient steps of PPO + phases | minutes |")
    print("|---|---|---|---|---|---|---|")
    for arm in complete:
        probes = [interval(values(arm, field)) for field in ("next_item", "where_next")]
        if arm == "random":
            print(f"| random | | | {' | '.join(probes)} | | |")
            continue
        depth = [interval(values(arm, "reached")), f"{values(arm, 'deepest').mean():.1f}"]
        work = f"{values(arm, 'updates').mean():.0f} epochs + {values(arm, 'phase_updates').mean():.0f}"
        print(f"| {arm} | {' | '.join(depth + probes)} | {work} | {values(arm, 'seconds').mean() / 60:.1f} |")
    print(f"\nguessing the next item gets {float(rows[0]['chance']):.3f}")
    for a, b in (("intra", "ppo"), ("cross", "intra"), ("memory", "cross"), ("memory", "control"), ("memory", "ppo")):
        if a in complete and b in complete:
            parts = [
                f"{field} {interval(values(a, field) - values(b, field))}" for field in ("reached", "next_item", "where_next")
            ]
            print(f"{a} minus {b}: {', '.join(parts)}")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/chain_ablation.csv"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--probe-episodes", type=int, default=PROBE_EPISODES)
    parser.add_argument("--summary", action="store_true", help="print the table of what is there")
    args = parser.parse_args()
    if args.summary:
        return summary(args.out)
    if args.steps < SHORTEST:
        parser.error(f"--steps {args.steps}: at least {SHORTEST}, so that episodes of all environments end in the last fifth")
    on_one_thread()
    data = probe_data(args.probe_episodes)
    experiments = [{"arm": arm, "seed": seed} for seed in args.seeds for arm in args.arms]
    fill(args.out, FIELDS, experiments, partial(run, steps=args.steps, data=data), ("steps", args.steps), parser.error)
    return None


if __name__ == "__main__":
    main()

"""
Who should move the encoder? The toy's answer: probes and returns of the SAC recipes, which differ in nothing else.

Trains every arm for every seed on ``toy/reach``, then asks of each encoder how well a linear (ridge) probe reads the true
state (position, velocity, goal; not the distractor) off its conv features on held-out episodes, and evaluates the agent. Rows
are appended to a CSV as they come; what is there already is skipped, so the script can be stopped and started again::

    python scripts/toy_ablation.py --out runs/toy_ablation.csv --seeds 1 2 3 4 5
    python scripts/toy_ablation.py --out runs/toy_ablation.csv --summary
"""

from __future__ import annotations

import argparse
import csv
import os
import time
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch as th
from missing_rows import fill, on_one_thread
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.evaluation import evaluate_policy

from crl.agents import build, resolve
from crl.agents.assemble import policy_kwargs
from crl.agents.recipes import parse
from crl.augment import RandomShift
from crl.encoders import ModelEncoder, PixelEncoder
from crl.envs import make_env, make_vec_env
from crl.probe.features import conv_features, fit_supervised
from crl.probe.linear import ridge_r2, split_episodes

STEPS = 6000
PROBE_EPISODES = 200
#: position, velocity, goal; the distractor is not for an agent to know
STATE = 6
#: arm: recipe
ARMS = {
    "random-frozen": "frozen-sac",
    "rl": "sac",
    "rl+aug": "rad-sac",
    "rl+aug+curl": "curl-sac",
    "contrast-only": "contrast-sac",
}
#: in all arms: an episode has 50 steps, and on an encoder that does not move heads alone have to learn within 6000
SETTINGS = {"algorithm.gamma": 0.95, "algorithm.target_period": 1}
FIELDS = ["arm", "seed", "r2", "r2_position", "r2_velocity", "r2_goal", "return", "return_std", "steps", "seconds"]


def train(arm: str, seed: int, steps: int) -> BaseAlgorithm:
    """One agent of one arm."""
    env = make_vec_env("toy/reach", seed=seed)
    model, callbacks = build(resolve(ARMS[arm], "toy/reach", SETTINGS), env, seed=seed, device="cpu")
    return model.learn(steps, callback=callbacks)


def probe_data() -> tuple[th.Tensor, np.ndarray, np.ndarray]:
    """Observations, states and episode numbers under a random policy; the same for every arm and seed."""
    env = make_env("toy/reach", seed=10_000)
    rng = np.random.default_rng(10_000)
    images, states, episodes = [], [], []
    for episode in range(PROBE_EPISODES):
        env.reset()
        over, action = False, rng.uniform(-1, 1, 2)
        while not over:
            # thrust that lasts a few steps: the whole range of speeds and places occurs
            action = rng.uniform(-1, 1, 2) if rng.random() < 0.2 else action
            image, _, _, over, info = env.step(action.astype(np.float32))
            images.append(image)
            states.append(info["state"][:STATE])
            episodes.append(episode)
    return th.as_tensor(np.array(images)), np.array(states, dtype=np.float64), np.array(episodes)


def fresh_encoder(seed: int) -> ModelEncoder:
    """The encoder of the recipes, untrained."""
    th.manual_seed(seed)
    space = make_env("toy/reach").observation_space
    kwargs = policy_kwargs(parse(resolve("curl-sac", "toy/reach")).policy)["features_extractor_kwargs"]
    return ModelEncoder(PixelEncoder(space, **kwargs), space)  # type: ignore[arg-type]


def supervised(images: th.Tensor, states: np.ndarray, episodes: np.ndarray, seed: int, updates: int) -> ModelEncoder:
    """The same encoder, trained on the states of the probe's training episodes: the ceiling."""
    encoder = fresh_encoder(seed)
    return fit_supervised(encoder, images, states, split_episodes(episodes).train, seed, updates, RandomShift(2))


def run(arm: str, seed: int, steps: int, data: tuple[th.Tensor, np.ndarray, np.ndarray]) -> dict[str, Any]:
    """One row of the table."""
    started = time.time()
    images, states, episodes = data
    mean, std = float("nan"), float("nan")
    if arm == "supervised":
        encoder = supervised(images, states, episodes, seed, updates=steps)
    else:
        model = train(arm, seed, steps)
        encoder = ModelEncoder(model.policy.encoder, model.observation_space)  # type: ignore[union-attr, arg-type]
        mean, std = evaluate_policy(model, make_vec_env("toy/reach", seed=20_000), n_eval_episodes=50)  # type: ignore[assignment]
    r2 = ridge_r2(conv_features(encoder, images), states, episodes)
    parts = dict(r2=r2.mean(), r2_position=r2[:2].mean(), r2_velocity=r2[2:4].mean(), r2_goal=r2[4:6].mean())
    row = {**parts, "return": mean, "return_std": std, "seconds": time.time() - started}
    return {"arm": arm, "seed": seed, "steps": steps, **{key: round(float(value), 4) for key, value in row.items()}}


def interval(values: np.ndarray) -> str:
    """Mean, and in brackets its 95 % bootstrap interval over seeds; of fewer than five the lowest and the highest."""
    if len(values) < 5:
        return f"{values.mean():.3f} [{values.min():.3f}, {values.max():.3f}]"
    draws = np.random.default_rng(0).choice(values, (10_000, len(values))).mean(1)
    low, high = np.quantile(draws, [0.025, 0.975])
    return f"{values.mean():.3f} [{low:.3f}, {high:.3f}]"


def summary(path: Path) -> None:
    """Print the table and the share of the gap that the contrast closes."""
    rows = list(csv.DictReader(path.open()))
    seeds = sorted({row["seed"] for row in rows}, key=int)

    def values(arm: str, field: str) -> np.ndarray:
        by_seed = {row["seed"]: float(row[field]) for row in rows if row["arm"] == arm}
        return np.array([by_seed[seed] for seed in seeds])

    print(f"seeds {', '.join(seeds)}; mean [95 % bootstrap interval; of fewer than five, the ends]\n")
    print("| arm | R2 of state | position | velocity | goal | return |\n|---|---|---|---|---|---|")
    for arm in [*ARMS, "supervised"]:
        cells = [interval(values(arm, field)) for field in FIELDS[2:6]]
        print(f"| {arm} | {' | '.join(cells)} | {'' if arm == 'supervised' else interval(values(arm, 'return'))} |")
    random, best = values("random-frozen", "r2"), values("supervised", "r2")
    for arm in ("contrast-only", "rl+aug+curl", "rl+aug", "rl"):
        print(f"\ngap from random to supervised closed by {arm}: {interval((values(arm, 'r2') - random) / (best - random))}")
    more = values("contrast-only", "return") - values("random-frozen", "return")
    print(f"\nreturn of contrast-only minus random-frozen: {interval(more)}")
    for field in ("return", "r2"):
        print(f"{field} of rl+aug+curl minus rl+aug: {interval(values('rl+aug+curl', field) - values('rl+aug', field))}")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/toy_ablation.csv"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--arms", nargs="+", default=[*ARMS, "supervised"], choices=[*ARMS, "supervised"])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--summary", action="store_true", help="print the table of what is there")
    args = parser.parse_args()
    if args.summary:
        return summary(args.out)
    on_one_thread()
    data = probe_data()
    experiments = [{"arm": arm, "seed": seed} for seed in args.seeds for arm in args.arms]
    fill(args.out, FIELDS, experiments, partial(run, steps=args.steps, data=data), ("steps", args.steps), parser.error)
    return None


if __name__ == "__main__":
    main()

"""
What does each objective teach an encoder, without any agent? Stored transitions of a random policy on ``toy/reach`` and
``toy/reach-discrete``; every objective trains the same encoder on them, and held-out episodes tell

- ``r2``: how well a ridge probe reads the true state off the conv features, and in the summary which share of the gap from a
  random encoder to a supervised one that closes;
- ``top1``: InfoNCE family alone: how often the objective's own query finds its key, when all its negatives are from its own
  episode, and ``chance``;
- ``effective_rank`` of the features, of ``width``, and ``collapsed``: dimensions whose standard deviation is below 1 % of the
  mean one.

Rows are appended as they come, what is there is skipped::

    python scripts/objectives_on_toy.py --out runs/objectives_on_toy.csv --seeds 1 2 3
    python scripts/objectives_on_toy.py --out runs/objectives_on_toy.csv --summary
"""

from __future__ import annotations

import argparse
import csv
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch as th
from gymnasium import spaces
from missing_rows import fill, on_one_thread
from toy_ablation import fresh_encoder, interval, probe_data, supervised

from crl.augment import RandomShift
from crl.contract import DataRequest, Objective, SequenceBatch, Spaces, ViewBatch
from crl.encoders import ModelEncoder
from crl.envs import make_env
from crl.metrics import effective_rank
from crl.objectives import ATC, CPC, CURL, SPR, STDIM, TACO, SelfPrediction
from crl.probe.features import conv_features, output_features
from crl.probe.linear import ridge_r2
from crl.replay import FrameReplayBuffer, ReplaySource, make_batch

UPDATES = 6000
BATCH = 128
LEARNING_RATE = 1e-3
#: transitions to learn from, and episodes to measure ``top1`` on
STORED, HELD_OUT = 10_000, 20
ENVS = ("toy/reach", "toy/reach-discrete")
#: with defaults as published, but for windows that fit episodes of 50 steps
OBJECTIVES: dict[str, Callable[..., Objective]] = {
    "curl": CURL,
    "atc": ATC,
    "atc-hard": partial(ATC, hard_negatives=2),
    "cpc": partial(CPC, steps=16),
    "cpc-shift": partial(CPC, steps=16, augment=RandomShift(2)),
    "cpc-actions": partial(CPC, steps=16, condition_on_actions=True),
    "stdim": STDIM,
    "taco": TACO,
    "spr": SPR,
    "self-prediction": SelfPrediction,
    "self-prediction-shift": partial(SelfPrediction, augment=RandomShift(2)),
    "self-prediction-reward": partial(SelfPrediction, k=5, reward_weight=0.1),
    "self-prediction-info_nce": partial(SelfPrediction, k=5, reward_weight=0.1, info_nce_weight=0.1),
    "self-prediction-barlow": partial(SelfPrediction, loss="barlow"),
    "atc-byol": partial(ATC, loss="negative_cosine"),
    "atc-vicreg": partial(ATC, loss="vicreg"),
    "atc-barlow": partial(ATC, loss="barlow_twins"),
}
#: whose accuracy is that of an InfoNCE
CONTRASTIVE = ("curl", "atc", "atc-hard", "cpc", "cpc-shift", "cpc-actions", "stdim", "taco")
#: bounds of the gap, which need no objective and no data of their own
BOUNDS = ("random", "supervised")
FIELDS = ["env", "objective", "seed", "updates", "r2", "r2_position", "r2_velocity", "r2_goal", "top1", "chance"]
FIELDS += ["effective_rank", "width", "collapsed", "loss", "seconds", "ms_per_update"]


def stored(env_id: str, transitions: int, seed: int) -> FrameReplayBuffer:
    """Transitions under random actions, each of which lasts a few steps."""
    env = make_env(env_id, seed=seed)
    env.action_space.seed(seed)
    rng = np.random.default_rng(seed)
    buffer = FrameReplayBuffer(transitions, env.observation_space, env.action_space, device="cpu", n_stack=3)
    obs, _ = env.reset()
    action = env.action_space.sample()
    for _ in range(transitions):
        action = env.action_space.sample() if rng.random() < 0.2 else action
        next_obs, reward, terminated, truncated, _ = env.step(action)
        info = {"TimeLimit.truncated": truncated and not terminated}
        done = terminated or truncated
        buffer.add(obs[None], next_obs[None], np.array([action]), np.array([reward]), np.array([done]), [info])
        obs = env.reset()[0] if done else next_obs
    return buffer


def train(
    objective: Objective, encoder: ModelEncoder, buffer: FrameReplayBuffer, seed: int, updates: int
) -> tuple[float, float]:
    """Contrast alone moves the encoder; the mean of the last losses, and milliseconds of an update."""
    source, rng = ReplaySource(buffer), np.random.default_rng(seed)
    generator = th.Generator().manual_seed(seed)
    assert isinstance(encoder.space, spaces.Box)
    th.manual_seed(seed)
    objective.build(encoder, Spaces(encoder.space, buffer.action_space))
    heads = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    optimizer = th.optim.Adam([*encoder.parameters(), *heads], LEARNING_RATE)
    augment = objective.augment or (RandomShift(2) if objective.needs_augmentation else None)
    losses, started = [], time.time()
    for _ in range(updates):
        raw = source.draw(objective.request, objective.batch_size or BATCH, rng)
        batch = make_batch(raw, objective.request, th.device("cpu"), augment, generator)
        loss, _ = objective.loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        objective.after_step()
        losses.append(loss.item())
    return float(np.mean(losses[-100:])), 1000.0 * (time.time() - started) / updates


@th.no_grad()
def top1(objective: Objective, buffer: FrameReplayBuffer) -> tuple[float, float]:
    """The objective's own accuracy on batches of one held-out episode each, and what guessing gets."""
    request, generator = objective.request, th.Generator().manual_seed(0)
    augment = objective.augment or (RandomShift(2) if objective.needs_augmentation else None)
    whole = DataRequest("episodes")
    raw = ReplaySource(buffer).draw(whole, HELD_OUT, np.random.default_rng(0))
    episodes = make_batch(raw, whole, th.device("cpu"), augment, generator)
    assert isinstance(episodes, SequenceBatch)
    accuracies, candidates = [], 0
    for row in range(len(episodes)):
        batch: ViewBatch | SequenceBatch
        if request.kind == "views":
            views = tuple(RandomShift(2)(episodes.obs[row, 1:], generator) for _ in range(request.views))
            batch = ViewBatch(views, generator)
            candidates = len(batch)
        elif isinstance(objective, CPC):
            # a single window: of several of one episode, the same latents would be positives and negatives
            batch = slices(episodes, row, [1], request.steps)
            candidates = request.steps + 1
        else:
            batch = slices(episodes, row, list(range(1, episodes.steps - request.steps + 1)), request.steps)
            candidates = len(batch)
        accuracies.append(float(objective.loss(batch)[1]["accuracy"]))
    return float(np.mean(accuracies)), 1.0 / candidates


def slices(episodes: SequenceBatch, row: int, starts: list[int], steps: int) -> SequenceBatch:
    """Windows of one episode."""

    def cut(values: th.Tensor, length: int) -> th.Tensor:
        return th.stack([values[row, start : start + length] for start in starts])

    parts = (episodes.actions, episodes.rewards, episodes.terminated, episodes.truncated, episodes.mask)
    rest = [cut(part, steps) for part in parts]
    return SequenceBatch(cut(episodes.obs, steps + 1), *rest, episodes.augment, episodes.generator)


def run(
    env_id: str,
    name: str,
    seed: int,
    updates: int,
    data: tuple[FrameReplayBuffer, FrameReplayBuffer] | None,
    probe: tuple[th.Tensor, np.ndarray, np.ndarray],
) -> dict[str, Any]:
    """One row of the table."""
    started = time.time()
    images, states, episodes = probe
    row: dict[str, Any] = dict.fromkeys(FIELDS, float("nan"))
    if name == "supervised":
        encoder = supervised(images, states, episodes, seed, updates)
    else:
        encoder = fresh_encoder(seed)
    if data is not None:
        objective = OBJECTIVES[name]()
        row["loss"], row["ms_per_update"] = train(objective, encoder, data[0], seed, updates)
        if name in CONTRASTIVE:
            row["top1"], row["chance"] = top1(objective, data[1])
    r2 = ridge_r2(conv_features(encoder, images), states, episodes)
    row |= dict(r2=r2.mean(), r2_position=r2[:2].mean(), r2_velocity=r2[2:4].mean(), r2_goal=r2[4:6].mean())
    features = th.as_tensor(output_features(encoder, images[::5]))
    std = features.std(dim=0)
    row |= dict(effective_rank=float(effective_rank(features)), width=features.shape[1])
    row |= dict(collapsed=int((std < 0.01 * std.mean()).sum()), seconds=time.time() - started)
    row = {key: round(float(value), 4) if isinstance(value, float) else value for key, value in row.items()}
    return row | dict(env=env_id, objective=name, seed=seed, updates=updates)


def summary(path: Path) -> None:
    """Print the table, and what each objective does of what an objective must."""
    rows = list(csv.DictReader(path.open()))

    def values(env: str, objective: str, field: str) -> np.ndarray:
        found = {row["seed"]: float(row[field]) for row in rows if row["env"] == env and row["objective"] == objective}
        return np.array([found[seed] for seed in seeds if seed in found])

    for env in [env for env in ENVS if any(row["env"] == env for row in rows)]:
        seeds = sorted({row["seed"] for row in rows if row["env"] == env}, key=int)
        print(f"{env}, seeds {', '.join(seeds)}; mean [95 % bootstrap interval; of fewer than five, the ends]\n")
        print("| objective | R2 | share of the gap | top-1 (chance) | effective rank | collapsed | ms an update |")
        print("|---|---|---|---|---|---|---|")
        random, best = (values(env, bound, "r2") for bound in BOUNDS)
        for name in [*BOUNDS, *OBJECTIVES]:
            r2 = values(env, name, "r2")
            if len(r2) < len(seeds) or not len(random) == len(best) == len(seeds):
                continue
            cells = [interval(r2), interval((r2 - random) / (best - random))]
            top, chance = values(env, name, "top1"), values(env, name, "chance")
            cells.append("" if np.isnan(top).any() else f"{interval(top)} ({chance.mean():.3f})")
            cells.append(f"{interval(values(env, name, 'effective_rank'))} of {values(env, name, 'width')[0]:.0f}")
            cells += [f"{values(env, name, 'collapsed').max():.0f}", f"{values(env, name, 'ms_per_update').mean():.0f}"]
            print(f"| {name} | {' | '.join(cells)} |")
        print()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/objectives_on_toy.csv"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--envs", nargs="+", default=ENVS, choices=ENVS)
    parser.add_argument("--objectives", nargs="+", default=[*BOUNDS, *OBJECTIVES], choices=[*BOUNDS, *OBJECTIVES])
    parser.add_argument("--updates", type=int, default=UPDATES)
    parser.add_argument("--summary", action="store_true", help="print the table of what is there")
    args = parser.parse_args()
    if args.summary:
        return summary(args.out)
    on_one_thread()
    probe = probe_data()
    buffers = {env: (stored(env, STORED, seed=30_000), stored(env, 50 * HELD_OUT, seed=40_000)) for env in args.envs}

    def row_of(env: str, objective: str, seed: int) -> dict[str, Any]:
        return run(env, objective, seed, args.updates, None if objective in BOUNDS else buffers[env], probe)

    experiments = [
        {"env": env, "objective": name, "seed": seed} for seed in args.seeds for env in args.envs for name in args.objectives
    ]
    fill(args.out, FIELDS, experiments, row_of, ("updates", args.updates), parser.error)
    return None


if __name__ == "__main__":
    main()

"""
Is it worth knowing the partner? Plain PPO (SB3's, MLP) that is told who it is (oracle) against one that is not, on the same
worlds with the same partners.

Only tasks and pools on which the oracle is better can show a gain by agent modelling. Seeds are for tuning (101 and up) and
are not reported elsewhere. Both arms are evaluated on the same episodes (evaluation stream, actions sampled, as a policy
without memory may run in circles when it never varies), so differences are taken episode by episode::

    python scripts/screen_pools.py lbf/8x8-2p-2f --steps 500000 --seeds 101 102 --out runs/screen_pools.csv
    python scripts/screen_pools.py mpe/simple_tag --set role=predator --reward-scale 0.1 --learning-rate 1e-3 --gamma 0.95
    python scripts/screen_pools.py lbf/8x8-2p-2f-coop --set penalty=0.1 --seeds 101 102 103
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch as th
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecEnv

from crl.agents.fields import free_value
from crl.agents.scaled_rewards import ScaledRewards
from crl.envs import check_env_id, make_vec_env
from crl.runs.folder import Table
from crl.runs.settings import settings

ARMS = {"none": False, "oracle": True}
N_ENVS = 16
#: SB3's defaults but for rollouts from 16 environments, larger batches, and some entropy, as LIAM and CLAM have
PPO_KWARGS: dict[str, Any] = dict(n_steps=128, batch_size=256, ent_coef=0.01)
#: SB3's, named in rows where they are others
USUAL = {"learning_rate": 3e-4, "gamma": 0.99}
#: of evaluation episodes, the same for all seeds
EVALUATION_SEED = 20_001
FIELDS = ["env", "options", "arm", "seed", "steps", "episodes", "partner", "return", "low", "high", "steps_per_second"]


def episodes_of(model: PPO, env: VecEnv, per_env: int) -> tuple[np.ndarray, np.ndarray]:
    """
    :return: returns and partners' ids, ``(n_envs, per_env)``: episode j of environment i is the same for all agents
    """
    returns = np.full((env.num_envs, per_env), np.nan)
    partners = np.zeros((env.num_envs, per_env), dtype=int)
    done = np.zeros(env.num_envs, dtype=int)
    obs: Any = env.reset()
    while (done < per_env).any():
        actions, _ = model.predict(obs, deterministic=False)
        obs, _, _, infos = env.step(actions)
        for index, info in enumerate(infos):
            if "episode" in info and done[index] < per_env:
                returns[index, done[index]] = info["episode"]["r"]
                partners[index, done[index]] = info["partner_id"]
                done[index] += 1
    return returns, partners


def interval(values: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """Percentile bootstrap of the mean, 95 %."""
    means = values[rng.integers(len(values), size=(2000, len(values)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def run(env_id: str, arm: str, seed: int, steps: int, episodes: int, options: dict[str, Any], scale: float) -> tuple[Any, ...]:
    """Train and evaluate one agent: returns, partners, names of the pool, steps per second."""
    options = {**options, "oracle": ARMS[arm]}
    env = ScaledRewards(make_vec_env(env_id, seed=seed, n_envs=N_ENVS, **options), scale)
    model = PPO("MlpPolicy", env, seed=seed, device="cpu", **PPO_KWARGS)
    began = time.perf_counter()
    model.learn(steps)
    rate = model.num_timesteps / (time.perf_counter() - began)
    held_out = make_vec_env(env_id, seed=EVALUATION_SEED, n_envs=N_ENVS, evaluation=True, **options)
    th.manual_seed(seed)
    returns, partners = episodes_of(model, held_out, -(-episodes // N_ENVS))
    return returns.ravel(), partners.ravel(), held_out.get_attr("pool_names")[0], rate


def row(
    env_id: str, options: str, arm: str, seed: Any, steps: int, partner: str, values: np.ndarray, rate: float
) -> dict[str, Any]:
    """A mean with its interval, printed and kept."""
    low, high = interval(values, np.random.default_rng(0))
    mean = float(values.mean())
    print(
        f"{env_id} seed {seed} {arm:13} {partner:22} {mean:8.3f} [{low:.3f}, {high:.3f}]  n={len(values)}  {rate:.0f} steps/s",
        flush=True,
    )
    cells = [env_id, options, arm, seed, steps, len(values), partner, mean, low, high, round(rate)]
    return dict(zip(FIELDS, cells, strict=True))


def screen(
    env_id: str, seeds: list[int], steps: int, episodes: int, options: dict[str, Any], scale: float
) -> list[dict[str, Any]]:
    """All rows of one task."""
    shown = options if scale == 1.0 else {**options, "reward_scale": scale}
    shown = {**shown, **{name: PPO_KWARGS[name] for name, usual in USUAL.items() if PPO_KWARGS[name] != usual}}
    told, rows, gaps = " ".join(f"{name}={value}" for name, value in shown.items()), [], []
    for seed in seeds:
        found = {arm: run(env_id, arm, seed, steps, episodes, options, scale) for arm in ARMS}
        for arm, (returns, partners, names, rate) in found.items():
            rows.append(row(env_id, told, arm, seed, steps, "all", returns, rate))
            for partner in np.unique(partners):
                rows.append(row(env_id, told, arm, seed, steps, names[partner], returns[partners == partner], rate))
        assert (found["none"][1] == found["oracle"][1]).all(), "both arms meet the same partners"
        gaps.append(found["oracle"][0] - found["none"][0])
        rows.append(row(env_id, told, "oracle - none", seed, steps, "all", gaps[-1], found["oracle"][3]))
    if len(gaps) > 1:  # over seeds
        means = np.array([gap.mean() for gap in gaps])
        rows.append(row(env_id, told, "oracle - none", "all", steps, "all", means, found["oracle"][3]))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("envs", nargs="+", help="ids, lbf/... or mpe/...")
    parser.add_argument("--steps", type=int, default=500_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[101])
    parser.add_argument("--episodes", type=int, default=640, help="of an evaluation")
    parser.add_argument("--learning-rate", type=float, default=USUAL["learning_rate"])
    parser.add_argument("--gamma", type=float, default=USUAL["gamma"])
    parser.add_argument("--reward-scale", type=float, default=1.0, help="factor of the rewards that are learned from")
    parser.add_argument("--set", nargs="+", default=[], metavar="OPTION=VALUE", help="options of the environments")
    parser.add_argument("--out", type=Path, help="CSV that rows are appended to")
    args = parser.parse_args()
    th.set_num_threads(1)
    PPO_KWARGS.update(learning_rate=args.learning_rate, gamma=args.gamma)
    options = {name: free_value(value) for name, value in settings(args.set, "penalty=0.1").items()}
    for env_id in args.envs:
        check_env_id(env_id, options)
    for env_id in args.envs:
        rows = screen(env_id, args.seeds, args.steps, args.episodes, options, args.reward_scale)
        if args.out is not None:
            for found in rows:
                Table(args.out).append(found)


if __name__ == "__main__":
    main()

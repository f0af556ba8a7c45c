"""
Seconds per update of SAC recipes: ``python -m tests.agents.speed --threads 1 --tune``.

Blocks of updates of all recipes take turns, so that other load on the machine falls on all alike; the smallest and the median
block are printed, and the CPU time of the median one.
"""

import argparse
import statistics
import time

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--threads", type=int, default=1)
parser.add_argument("--tune", action="store_true", help="keep freed memory in the process")
parser.add_argument("--actions", type=int, default=6)
parser.add_argument("--blocks", type=int, default=4)
parser.add_argument("--updates", type=int, default=6)
parser.add_argument("--set", action="append", default=[], help="field=value, for all recipes")
parser.add_argument("recipes", nargs="*", default=["curl-sac", "curl-sac-paper"])


def main():
    args = parser.parse_args()
    from crl.compute import tune_allocator

    print(tune_allocator() if args.tune else "allocator as it is")
    import numpy as np
    import torch as th
    from gymnasium import spaces
    from stable_baselines3.common.logger import Logger
    from stable_baselines3.common.vec_env import DummyVecEnv

    from crl.agents import build, resolve

    from ..fakes import FakeImages

    th.set_num_threads(args.threads)
    overrides = {"algorithm.batch_size": 128, "algorithm.buffer_size": 1000, "algorithm.learning_starts": 10_000}
    overrides |= dict(item.split("=", 1) for item in args.set)
    models = {}
    for name in args.recipes:
        env = DummyVecEnv([lambda: FakeImages(spaces.Box(-1, 1, (args.actions,), np.float32), (9, 100, 100), length=250)])
        models[name], _ = build(resolve(name, "dmc/walker-walk", overrides), env, seed=0, device="cpu")
        models[name].learn(600)
        models[name].set_logger(Logger(None, []))
        models[name].train(4, models[name].batch_size)
    wall, cpu = {name: [] for name in models}, {name: [] for name in models}
    for _ in range(args.blocks):
        for name, model in models.items():
            start, used = time.perf_counter(), time.process_time()
            model.train(args.updates, model.batch_size)
            wall[name].append((time.perf_counter() - start) / args.updates)
            cpu[name].append((time.process_time() - used) / args.updates)
    for name in models:
        best, middle, busy = min(wall[name]), statistics.median(wall[name]), statistics.median(cpu[name])
        print(f"{name:16} A={args.actions} threads={args.threads}: {best:.3f} s best, {middle:.3f} s median, {busy:.3f} s CPU")


if __name__ == "__main__":
    main()

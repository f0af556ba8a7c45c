"""
How much of the way from one agent's return to another's a third one goes, from the recorded runs (``measured.csv``)::

    python scripts/gap_closed.py lbf/8x8-2p-2f-coop --from ppo-nam --to ppo-oracle --agents ppo-clam ppo-random-model

The interval is a 95 % percentile bootstrap of the ratio: seeds are drawn anew for each of the three agents. Over three seeds
that is a rough one: it can hold no more than what these seeds show.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np

from crl.benchmark.record import read_measured

REPS = 20_000


def gap_closed(
    low: Sequence[float], high: Sequence[float], agent: Sequence[float], seed: int = 0
) -> tuple[float, float, float]:
    """
    :param low: returns of the agent at 0, by seed
    :param high: returns of the agent at 1
    :param agent: returns of the one that is asked about
    :param seed: of the bootstrap
    :return: the share of the means, and the ends of its interval; infinite ends where the gap itself is not above 0 in more
        than 2.5 % of the draws
    """
    rng = np.random.default_rng(seed)
    drawn = [rng.choice(np.asarray(of, dtype=float), (REPS, len(of))).mean(1) for of in (low, high, agent)]
    gap = drawn[1] - drawn[0]
    share = (np.mean(agent) - np.mean(low)) / (np.mean(high) - np.mean(low))
    if (gap <= 0).mean() > 0.025:
        return float(share), -np.inf, np.inf
    ratios = (drawn[2] - drawn[0])[gap > 0] / gap[gap > 0]
    return float(share), *(float(end) for end in np.percentile(ratios, [2.5, 97.5]))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("env")
    parser.add_argument("--from", dest="low", required=True, metavar="AGENT")
    parser.add_argument("--to", dest="high", required=True, metavar="AGENT")
    parser.add_argument("--agents", nargs="+", required=True)
    options = parser.parse_args()
    rows = [row for row in read_measured() if row["env"] == options.env and not row["stale"]]
    returns = {
        agent: {int(row["seed"]): float(row["final_return"]) for row in rows if row["agent"] == agent}
        for agent in (options.low, options.high, *options.agents)
    }
    for agent, of_seeds in returns.items():
        if not of_seeds:
            parser.error(f"no run of {agent} on {options.env} is recorded")
        told = ", ".join(f"seed {seed}: {value:g}" for seed, value in sorted(of_seeds.items()))
        print(f"{agent}: mean {np.mean(list(of_seeds.values())):.3f} ({told})")
    low, high = (list(returns[name].values()) for name in (options.low, options.high))
    for agent in options.agents:
        share, begin, end = gap_closed(low, high, list(returns[agent].values()))
        way = f"of the way from {options.low} to {options.high}"
        print(f"{agent}: {100 * share:.0f} % [{100 * begin:.0f}, {100 * end:.0f}] {way}")


if __name__ == "__main__":
    main()

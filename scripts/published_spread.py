"""
How far an agent's published single runs lie from their mean in a game, and where a few runs of ours would stand among them.
Reads a file of the results that IRIS' authors publish (``results/data`` of github.com/eloialonso/iris): a list with the
human-normalised score of the final evaluation, ``HNS``, by game and seed::

    python scripts/published_spread.py CURL_10_evals.json Frostbite --ours 208.3 559.5
"""

from __future__ import annotations

import argparse
import json
from itertools import combinations
from pathlib import Path

import numpy as np

from crl.envs.atari_scores import RANDOM_AND_HUMAN


def scores_of(file: Path, game: str) -> np.ndarray:
    """
    :param file: as above
    :param game: one of the 26 of Atari 100k
    :return: ``(runs,)``, scores in the game's points
    """
    random, human = RANDOM_AND_HUMAN[game]
    runs = [row["HNS"] for row in json.loads(file.read_text()) if row["game"] == game]
    if not runs:
        raise SystemExit(f"{file} has no run of {game}")
    return random + (human - random) * np.array(runs)


def spread(scores: np.ndarray, game: str, ours: list[float]) -> list[str]:
    """
    :param scores: of the published runs
    :param game: that they are of
    :param ours: scores of our runs; none to leave them out
    :return: lines of text
    """
    random, _ = RANDOM_AND_HUMAN[game]
    low, q1, median, q3, high = np.percentile(scores, (0, 25, 50, 75, 100))
    below = int((scores - random < (scores.mean() - random) / 2).sum())
    lines = [
        f"{game}, {len(scores)} runs from {low:.0f} to {high:.0f}, mean {scores.mean():.1f}",
        f"quartiles {q1:.0f}, {median:.0f}, {q3:.0f}",
        f"{below} of them end below half of the mean's human-normalised score",
    ]
    if ours:
        means = np.array([np.mean(group) for group in combinations(scores, len(ours))])
        share = (means <= np.mean(ours)).mean()
        lines.append(f"{100 * share:.0f} % of all sets of {len(ours)} have a mean no higher than ours, {np.mean(ours):.1f}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("game", choices=sorted(RANDOM_AND_HUMAN), metavar="GAME")
    # sets of three of a hundred are 161,700, of four four million
    parser.add_argument("--ours", type=float, nargs="+", default=[], metavar="SCORE", help="of one to three runs of ours")
    args = parser.parse_args()
    if len(args.ours) > 3:
        parser.error(f"--ours takes one to three scores, not {len(args.ours)}: all sets of so many runs are compared")
    print("\n".join(spread(scores_of(args.file, args.game), args.game, args.ours)))


if __name__ == "__main__":
    main()

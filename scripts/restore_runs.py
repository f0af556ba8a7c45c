"""
Lay runs that ``crl/benchmark/data`` keeps into the folder of a benchmark, which skips and reports them as its own::

    python scripts/restore_runs.py swingup100k --out runs/swingup100k
    crl bench swingup100k --probe --out runs/swingup100k
    crl report runs/swingup100k
    python scripts/record_run.py runs/swingup100k

Only runs that today's recipes would make again are taken.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from crl.benchmark.grid import choose_agents, make_grid, parse_seeds
from crl.benchmark.plan import write_plan
from crl.benchmark.restore import restore
from crl.benchmark.suite import load_suite


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", help="name or YAML file")
    parser.add_argument("--agents", default="", help="recipes, separated by commas; those that the suite names")
    parser.add_argument("--seeds", help="as crl bench takes them")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", dest="items")
    parser.add_argument("--out", type=Path, required=True, help="folder of the benchmark")
    args = parser.parse_args()
    try:
        suite = load_suite(args.suite)
        named = [name for name in args.agents.split(",") if name]
        cells = make_grid(
            suite, choose_agents(suite, named, parse_seeds(args.seeds) if args.seeds else None), items=args.items
        )
        write_plan(args.out, suite, cells)
    except ValueError as error:
        parser.error(str(error))
    made = restore(cells, args.out)
    for folder in made:
        print(folder)
    there = sum(cell.folder(args.out).exists() for cell in cells)
    print(f"{len(made)} restored; {there} of {len(cells)} runs are there", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())

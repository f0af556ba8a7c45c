"""
Keep what finished runs measured: their rows in ``crl/benchmark/data/measured.csv``, their learning curves beside it::

    python scripts/record_run.py runs/adhoc/curl-sac/dmc-cartpole-swingup/seed1
    python scripts/record_run.py runs/swingup100k

A row says what was run (agent, environment, seed, steps, hash of the resolved configuration, revision, versions, machine) and
what came out (return of the final evaluation, never of a best checkpoint; updates/s). Of a folder with runs below it, those
that have finished are recorded; what is recorded already stays, and runs that today's recipe would not make are flagged.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from crl.benchmark.record import RecordError, record_all


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="of a run, or of a benchmark")
    kept = 0
    for folder in parser.parse_args().folders:
        try:
            found = record_all(folder)
        except RecordError as error:
            print(f"record_run: {error}", file=sys.stderr)
            return 2
        for entry in found:
            print(entry.words if entry.kept else f"not recorded: {entry.words}", file=sys.stdout if entry.kept else sys.stderr)
        kept += sum(entry.kept for entry in found)
    return 0 if kept else 2


if __name__ == "__main__":
    sys.exit(main())

"""
Keep what a finished run measured: its row in ``crl/benchmark/data/measured.csv``, its learning curve beside it::

    python scripts/record_run.py runs/adhoc/curl-sac/dmc-cartpole-swingup/seed1

A row says what was run (agent, environment, seed, steps, hash of the resolved configuration, revision, versions, machine) and
what came out (return of the final evaluation, never of a best checkpoint; updates/s). Recording a run again replaces its row.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from crl.benchmark.record import RecordError, record
from crl.runs.folder import RunFolderError


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    for run in parser.parse_args().runs:
        try:
            row = record(run)
        except (RecordError, RunFolderError) as error:
            print(f"record_run: {error}", file=sys.stderr)
            return 2
        print(f"{row['agent']} on {row['env']}, seed {row['seed']}: {row['final_return']} after {row['env_steps']} steps")
    return 0


if __name__ == "__main__":
    sys.exit(main())

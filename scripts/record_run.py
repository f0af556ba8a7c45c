"""
Keep what a finished run measured: its row in ``crl/benchmark/data/measured.csv``, its learning curve beside it::

    python scripts/record_run.py runs/adhoc/curl-sac/dmc-cartpole-swingup/seed1

A row says what was run (agent, environment, seed, steps, hash of the resolved configuration, revision, versions, machine) and
what came out (return of the final evaluation, never of a best checkpoint; updates/s). Recording a run again replaces its row.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import yaml

DATA = Path(__file__).parents[1] / "crl" / "benchmark" / "data"
KEYS = ("agent", "env", "seed", "config_hash", "revision")


def row_of(run: Path) -> dict[str, Any]:
    """
    :param run: folder of a finished run
    :raises SystemExit: when it is none, or comes from sources that no commit holds
    """
    if not (run / "summary.json").exists():
        raise SystemExit(f"record_run: {run} is no run folder (it has no summary.json)")
    summary, config = json.loads((run / "summary.json").read_text()), yaml.safe_load((run / "config.yaml").read_text())
    if summary["state"] != "finished":
        raise SystemExit(f"record_run: {run} is {summary['state']}, only finished runs count: crl resume {run}")
    about = config.pop("run")
    if about["revision"] is None or about["revision"].endswith("-dirty"):
        raise SystemExit(f"record_run: {run} ran at revision {about['revision']}, which nobody can look up")
    last = list(csv.DictReader((run / "eval.csv").open()))[-1]
    return {
        "agent": config["agent"],
        "env": config["env"]["id"],
        "seed": about["seed"],
        "env_steps": summary["env_steps"],
        "final_return": round(summary["final_return"], 1),
        "std_over_episodes": round(float(last["std"]), 1),
        "eval_episodes": summary["eval_episodes"],
        "updates_per_second": summary["updates_per_second"],
        "hours": round(summary["seconds"] / 3600, 2),
        "precision": about["precision"],
        "threads": config["train"]["threads"],
        "config_hash": hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:12],
        "revision": about["revision"],
        "versions": " ".join(f"{name}={version}" for name, version in sorted(about["versions"].items())),
        "machine": about["machine"],
    }


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    for run in parser.parse_args().runs:
        row = row_of(run)
        table = DATA / "measured.csv"
        table.parent.mkdir(parents=True, exist_ok=True)
        rows = list(csv.DictReader(table.open())) if table.exists() else []
        rows = [old for old in rows if any(old[key] != str(row[key]) for key in KEYS)] + [row]
        with table.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(row))
            writer.writeheader()
            writer.writerows(sorted(rows, key=lambda old: [str(old[key]) for key in KEYS]))
        curve = DATA / "curves" / f"{row['agent']}-{row['env'].replace('/', '-')}-seed{row['seed']}.csv"
        curve.parent.mkdir(exist_ok=True)
        curve.write_text((run / "eval.csv").read_text())
        print(f"{row['agent']} on {row['env']}, seed {row['seed']}: {row['final_return']} after {row['env_steps']} steps")
    return 0


if __name__ == "__main__":
    sys.exit(main())

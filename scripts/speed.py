"""
How long an update takes: every recipe, SB3's own agents, and the authors' repositories, in one interleaved run.

Each row lives in a process of its own (the allocator is a setting of the process); the processes take turns, one block of
updates each, so that other load on the machine falls on all alike. Agents come first and other rows after them, as all at once
would not fit into memory. Printed are medians over blocks and their spread, and what the README claims as ratios::

    python scripts/speed.py                                  # the rows that need nothing but crl
    python scripts/speed.py --only curl-sac --only sb3-sac
    python scripts/speed.py --peer-curl ../curl --peer-drq ../drq --peer-drqv2 ../drqv2 --json speed.json
    python scripts/speed.py --list

Peers are checkouts of github.com/MishaLaskin/curl, denisyarats/drq and facebookresearch/drqv2; what they import and no longer
installs is replaced by a few lines (``scripts/speed_peers.py``). Measure on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import speed_overhead  # noqa: F401  (adds its rows)
from speed_rows import ROWS, Row

#: what an issue, the README or a reader asks for: name, slower row, faster row
RATIOS = [
    ("curl-sac against CURL's repository as shipped", "peer-curl", "curl-sac"),
    ("curl-sac against it with our allocator", "peer-curl-allocator", "curl-sac"),
    ("curl-sac-paper (fp32) against it as shipped", "peer-curl", "curl-sac-paper"),
    ("drq-sac against DrQ's repository", "peer-drq", "drq-sac"),
    ("drqv2 against DrQ-v2's repository", "peer-drqv2", "drqv2"),
    ("rad-sac, SB3's periods, against SB3's SAC with the same encoder", "sb3-sac", "rad-sac-sb3-periods"),
    ("SB3's SAC on PixelSACPolicy: with CURL against without", "overhead-sac-curl", "overhead-sac"),
    ("SB3's PPO: plain against accelerated", "ppo", "ppo-accelerated"),
    ("SB3's DQN: plain against accelerated", "dqn", "dqn-accelerated"),
    ("SB3's SAC with NatureCNN: plain against accelerated", "sb3-sac-nature", "sb3-sac-nature-accelerated"),
    ("SB3's DQN with der's network against der", "sb3-dqn-der", "der"),
    ("SB3's DQN with der's network against curl-rainbow", "sb3-dqn-der", "curl-rainbow"),
    ("curl-rainbow against der: what the contrast costs", "curl-rainbow", "der"),
    ("sampling: SB3's replay against frame-wise", "replay-sb3", "replay-frames"),
    ("sampling: SB3's replay with our allocator against frame-wise", "replay-sb3-allocator", "replay-frames"),
    ("random crop: kornia against ours", "crop-kornia", "crop"),
    ("random crop: loop against ours", "crop-loop", "crop"),
    ("random shift: kornia against ours", "shift-kornia", "shift"),
]


def load_of_others(seconds: float = 1.0) -> float:
    """Cores that are busy while this process sleeps, from /proc/stat; 0 where there is none."""

    def busy() -> float:
        fields = [float(x) for x in Path("/proc/stat").read_text().split("\n")[0].split()[1:]]
        return sum(fields) - fields[3] - fields[4]

    if not Path("/proc/stat").exists():
        return 0.0
    before = busy()
    time.sleep(seconds)
    return (busy() - before) / os.sysconf("SC_CLK_TCK") / seconds


class Worker:
    """One row in a process of its own, which waits for its turns."""

    def __init__(self, row: Row, options: dict[str, Any]) -> None:
        self.row = row
        environment = {**os.environ, "OMP_NUM_THREADS": str(options["threads"]), "PYTHONWARNINGS": "ignore"}
        if not row.allocator:
            environment = {key: value for key, value in environment.items() if not key.startswith("MALLOC_")}
        command = [sys.executable, __file__, "--worker", row.name, "--options", json.dumps(options)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)
        self.info: dict[str, Any] = {}
        self.blocks: list[dict[str, float]] = []

    def ask(self, word: str) -> dict[str, Any]:
        """Say a word, wait for the answer."""
        assert self.process.stdin is not None and self.process.stdout is not None
        with suppress(BrokenPipeError):  # said below, with the exit code
            self.process.stdin.write(word + "\n")
            self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("speed: "):
                return dict(json.loads(line.removeprefix("speed: ")))
        code = self.process.wait()
        memory = ": killed, most likely for want of memory; measure fewer rows at a time (--only)" if code == -9 else ""
        raise SystemExit(f"speed: {self.row.name} ended before its turn, exit code {code}{memory}")

    def close(self) -> None:
        """End the process."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process.wait()


def work(name: str, options: dict[str, Any]) -> None:
    """The other side of :class:`Worker`."""
    import resource

    row = ROWS[name]
    if row.allocator:
        from crl.compute import tune_allocator

        tune_allocator()
    import torch as th

    th.set_num_threads(options["threads"])
    block, info = row.make(options)
    for line in sys.stdin:
        answer: dict[str, Any]
        if line.strip() == "warm up":
            block()
            answer = info
        else:
            start, cpu = time.perf_counter(), time.process_time()
            units = block()
            answer = {"seconds": (time.perf_counter() - start) / units, "cpu": (time.process_time() - cpu) / units}
            answer["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print("speed: " + json.dumps(answer), flush=True)


def result(worker: Worker, options: dict[str, Any]) -> dict[str, Any]:
    """One row of the table."""
    seconds = sorted(block["seconds"] for block in worker.blocks)
    middle = statistics.median(seconds)
    quartiles = statistics.quantiles(seconds, n=4) if len(seconds) > 1 else [middle] * 3
    return {
        "name": worker.row.name,
        "what": worker.row.text,
        "unit": worker.row.unit,
        "seconds_per_update": middle,
        "quartiles": [quartiles[0], quartiles[2]],
        "cpu_seconds_per_update": statistics.median(block["cpu"] for block in worker.blocks),
        "per_second": 1.0 / middle,
        "blocks": len(seconds),
        "peak_mb": round(max(block["peak_mb"] for block in worker.blocks)),
        "threads": options["threads"],
        "allocator": "kept" if worker.row.allocator else "as it is",
        "batch_size": options["batch_size"],
        **worker.info,
    }


def measure(rows: list[Row], options: dict[str, Any], blocks: int) -> list[dict[str, Any]]:
    """Processes of one part, which take turns."""
    workers = []
    for row in rows:
        print(f"speed: preparing {row.name}", file=sys.stderr, flush=True)
        worker = Worker(row, options)
        worker.info = worker.ask("warm up")
        workers.append(worker)
    for turn in range(blocks):
        print(f"speed: turn {turn + 1} of {blocks}", file=sys.stderr, flush=True)
        for worker in workers:
            worker.blocks.append(worker.ask("go"))
    for worker in workers:
        worker.close()
    return [result(worker, options) for worker in workers]


def show(rows: list[dict[str, Any]]) -> None:
    """The table and the ratios, as Markdown."""
    print("\n| row | unit | ms | quartiles | CPU ms | per second | batch | peak MB |\n|---|---|---|---|---|---|---|---|")
    for row in rows:
        low, high = (1e3 * value for value in row["quartiles"])
        print(
            f"| {row['name']} | {row['unit']} | {1e3 * row['seconds_per_update']:.1f} | {low:.1f}..{high:.1f} | "
            f"{1e3 * row['cpu_seconds_per_update']:.1f} | {row['per_second']:.2f} | {row['batch_size']} | {row['peak_mb']} |"
        )
    found = {row["name"]: row for row in rows}
    lines = [
        f"| {text} | {found[slow]['seconds_per_update'] / found[fast]['seconds_per_update']:.2f} |"
        for text, slow, fast in RATIOS
        if slow in found and fast in found
    ]
    if lines:
        print("\n| ratio | times |\n|---|---|\n" + "\n".join(lines))
    for row in rows:
        if row.get("without") in found:
            before = found[row["without"]]["seconds_per_update"]
            print(f"{row['name']}: {row['seconds_per_update'] / before - 1:+.0%} of the time without it")
    best = found.get("conv-bf16")
    for row in rows:
        if "gflop" in row:
            rate = row["gflop"] / row["seconds_per_update"]
            line = f"{row['name']}: {row['gflop']:.1f} GFLOP of convolutions a unit, {rate:.0f} GFLOP/s"
            if best is not None and row is not best:
                line += f", {rate * best['seconds_per_update'] / best['gflop']:.0%} of the floor by FLOPs"
            print(line)
        if "bytes_per_transition" in row:
            print(f"{row['name']}: {row['bytes_per_transition']:.0f} bytes a transition")


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", metavar="NAME", help="this row; may be repeated")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--blocks", type=int, default=7, help="turns of each row, at least 5")
    parser.add_argument("--actions", type=int, default=6, help="dimensions of the action")
    parser.add_argument("--peer-curl", metavar="PATH")
    parser.add_argument("--peer-drq", metavar="PATH")
    parser.add_argument("--peer-drqv2", metavar="PATH")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    parser.add_argument("--list", action="store_true", help="names of all rows")
    parser.add_argument("--loaded", action="store_true", help="measure although other processes are busy")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--options", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args.worker, args.options)
        return 0
    if args.list:
        for row in ROWS.values():
            print(f"{row.name:28} {row.text}")
        return 0
    if args.blocks < 5:
        parser.error(f"--blocks {args.blocks}: at least 5, a median of fewer says little")
    peers = {"curl": args.peer_curl, "drq": args.peer_drq, "drqv2": args.peer_drqv2}
    files = {"curl": "curl_sac.py", "drq": "drq.py", "drqv2": "drqv2.py"}
    for peer, path in peers.items():
        if path is not None and not (Path(path) / files[peer]).exists():
            parser.error(f"--peer-{peer} {path}: no checkout of that repository there")
    names = args.only or [row.name for row in ROWS.values() if row.peer is None or peers[row.peer]]
    for name in names:
        if name not in ROWS:
            parser.error(f"--only {name}: no such row; --list shows them all")
        if ROWS[name].peer and not peers[str(ROWS[name].peer)]:
            parser.error(f"--only {name}: pass --peer-{ROWS[name].peer} PATH, a checkout of that repository")
    others = load_of_others()
    if others > 0.2 and not args.loaded:
        print(f"speed: other processes keep {others:.1f} cores busy; stop them, or pass --loaded", file=sys.stderr)
        return 1
    options = {"batch_size": args.batch_size, "threads": args.threads, "actions": args.actions}
    options |= {"peers": {key: str(Path(value).resolve()) for key, value in peers.items() if value}}
    rows = []
    for part in dict.fromkeys(ROWS[name].part for name in names):
        rows += measure([ROWS[name] for name in names if ROWS[name].part == part], options, args.blocks)
    show(rows)
    if args.json is not None:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

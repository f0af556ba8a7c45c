"""A run that takes seconds."""

import subprocess
import sys
import time

FIELDS = {
    "policy.filters": "4",
    "policy.layers": "2",
    "policy.net_arch": "16,16",
    "policy.precision": "fp32",
    "algorithm.batch_size": "8",
    "algorithm.learning_starts": "20",
    "train.eval_every": "60",
    "train.eval_episodes": "1",
    "train.threads": "1",
}


def arguments(out, *more, steps=480, every=40):
    """Long enough that a test on a busy machine still catches it running (some 100 steps a second)."""
    sets = [part for item in FIELDS.items() for part in ("--set", "=".join(item))]
    basics = ["train", "curl-sac", "toy/reach", "--out", str(out), "--steps", str(steps), "--checkpoint-every", str(every)]
    return [*basics, *sets, *more]


def crl(*args, **kwargs):
    return subprocess.run(
        [sys.executable, "-m", "crl", *map(str, args)], capture_output=True, text=True, check=False, **kwargs
    )


def start(*args):
    return subprocess.Popen([sys.executable, "-m", "crl", *map(str, args)], stderr=subprocess.PIPE, text=True)


def wait_for(path, process, seconds=60):
    """Until the file is there; fails when the process ends first."""
    end = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, "it ended before it was to be stopped: the test shows nothing"
        assert time.monotonic() < end
        time.sleep(0.01)

"""A container's limits count, not the machine's."""

import os
import subprocess
import sys

import psutil
import pytest

from crl.limits import free_memory, usable_cores

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def write(folder, **files):
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, CORES),
        ({"cpu_dot_max": "max 100000\n"}, CORES),
        ({"cpu_dot_max": "100000 100000\n"}, 1),
        ({"cpu_dot_max": "50000 100000\n"}, 1),
        ({"cpu_dot_max": "9900000 100000\n"}, CORES),
        ({"cpu__cpu_dot_cfs_quota_us": "-1\n", "cpu__cpu_dot_cfs_period_us": "100000\n"}, CORES),
        ({"cpu__cpu_dot_cfs_quota_us": "100000\n", "cpu__cpu_dot_cfs_period_us": "100000\n"}, 1),
    ],
)
def test_cores(tmp_path, files, cores):
    assert usable_cores(write(tmp_path, **files)) == cores


@pytest.mark.parametrize(
    ("files", "left"),
    [
        ({"memory_dot_max": "1000000\n", "memory_dot_current": "400000\n"}, 600_000),
        (
            {
                "memory_dot_max": "1000000\n",
                "memory_dot_current": "400000\n",
                "memory_dot_stat": "anon 100000\ninactive_file 300000\n",
            },
            900_000,
        ),
        ({"memory_dot_max": "1000000\n", "memory_dot_current": "2000000\n"}, 0),
        ({"memory__memory_dot_limit_in_bytes": "1000000\n", "memory__memory_dot_usage_in_bytes": "1\n"}, 999_999),
        ({"memory_dot_max": "max\n", "memory_dot_current": "400000\n"}, None),
        ({"memory__memory_dot_limit_in_bytes": f"{2**63 - 4096}\n", "memory__memory_dot_usage_in_bytes": "1\n"}, None),
        ({}, None),
    ],
)
def test_memory(tmp_path, files, left):
    found = free_memory(write(tmp_path, **files))
    if left is not None:
        assert found == left
    else:
        assert found == pytest.approx(psutil.virtual_memory().available, rel=0.2)


def test_here():
    assert 1 <= usable_cores() <= CORES and 0 < free_memory() <= psutil.virtual_memory().total


def test_the_most_memory_there_has_been():
    """In a process of its own, a small one: 200 MB more, and less again."""
    code = """
from crl.limits import peak_memory
before = peak_memory()
much = b"x" * 200_000_000
after = peak_memory()
del much
print(before, after, peak_memory())
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, after, last = map(int, run.stdout.split())
    assert 5e6 < before < 1e8 and 1.9e8 < after - before < 2.1e8
    assert last > 0.99 * after, "it does not fall"

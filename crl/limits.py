"""
What this process may use of the machine: a container or a batch job is often allowed less than the machine has, and is killed
when it takes more memory than that.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil

#: where Linux tells the limits of control groups: version 2, and version 1 with a folder for each kind
_GROUPS = Path("/sys/fs/cgroup")
#: what version 1 says where memory has no limit lies above
_NO_LIMIT = 2**62


def usable_cores(groups: Path = _GROUPS) -> int:
    """
    Of the affinity and of the control groups (``docker run --cpus``), whichever is least; at least 1.

    :param groups: folder of control groups
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for group in _own_groups(groups, ""):
        cores = _fewer(cores, *_numbers(group / "cpu.max", 2))
    for group in _own_groups(groups / "cpu", "cpu"):
        cores = _fewer(cores, *_numbers(group / "cpu.cfs_quota_us", 1), *_numbers(group / "cpu.cfs_period_us", 1))
    return cores


def _fewer(cores: int, quota: float | None, period: float | None) -> int:
    # no quota is "max" in version 2 and -1 in version 1
    return cores if quota is None or not period or quota <= 0 else max(1, min(cores, int(quota // period)))


def free_memory(groups: Path = _GROUPS) -> int:
    """
    Bytes that may still be taken: what the machine has, or what is left of the control groups' limits (``docker run
    --memory``, a batch job's request), whichever is least.

    :param groups: folder of control groups
    """
    free = float(psutil.virtual_memory().available)
    for group in _own_groups(groups, ""):
        free = _less(free, group, "memory.max", "memory.current")
    for group in _own_groups(groups / "memory", "memory"):
        free = _less(free, group, "memory.limit_in_bytes", "memory.usage_in_bytes")
    return int(free)


def peak_memory() -> int | None:
    """Bytes that this process has had at most, of physical memory; None where the system does not tell (Windows)."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage counts from the size of the process that started this one
        told = next((line for line in status.read_text().splitlines() if line.startswith("VmHWM:")), "")
        if told:
            return 1024 * int(told.split()[1])
    try:
        import resource
    except ImportError:
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


def _less(free: float, group: Path, limit_file: str, used_file: str) -> float:
    (limit,), (used,) = _numbers(group / limit_file, 1), _numbers(group / used_file, 1)
    if limit is None or used is None or limit >= _NO_LIMIT:
        return free
    # what cached files occupy is given back when it is asked for
    return max(0.0, min(free, limit - used + _cached(group / "memory.stat")))


def _own_groups(root: Path, kind: str) -> Iterator[Path]:
    """The group of this process and those around it, up to the root: each may have a limit."""
    try:
        lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    except OSError:
        lines = []
    own = next((parts[2] for parts in lines if len(parts) == 3 and kind in parts[1].split(",")), "/")
    place = Path(own.strip("/"))
    for part in (place, *place.parents):
        yield root / part


def _numbers(path: Path, count: int) -> list[float | None]:
    """Of a file's one line; None for ``max``, and where there is no such file."""
    try:
        words = path.read_text().split()
    except OSError:
        words = []
    found = [float(word) if word.lstrip("-").isdigit() else None for word in words[:count]]
    return found + [None] * (count - len(found))


def _cached(path: Path) -> float:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0.0
    entries = dict(line.split(maxsplit=1) for line in lines if " " in line)
    return float(entries.get("total_inactive_file") or entries.get("inactive_file") or 0)

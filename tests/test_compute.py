import subprocess
import sys

import pytest
import torch as th

from crl.compute import allocator_environment, autocast, resolve_precision, set_threads, tune_allocator


def test_precision():
    assert resolve_precision("fp32", "cpu") == "fp32" and resolve_precision("bf16", "cpu") == "bf16"
    assert resolve_precision("auto", "cpu") in ("fp32", "bf16")
    with pytest.raises(ValueError, match="choose one of fp32, bf16, auto"):
        resolve_precision("fp16", "cpu")


def test_autocast():
    x = th.randn(3, 3)
    with autocast("bf16", "cpu"):
        assert (x @ x).dtype == th.bfloat16
    with autocast("fp32", "cpu"):
        assert (x @ x).dtype == th.float32


def test_threads():
    before = th.get_num_threads()
    assert set_threads(1) == 1 == th.get_num_threads()
    assert set_threads(None) == 1
    set_threads(before)
    with pytest.raises(ValueError, match="threads=0"):
        set_threads(0)


PAGE_FAULTS = """
import resource, sys
from crl.compute import tune_allocator
if sys.argv[1] == "tuned":
    tune_allocator()
import torch as th
th.set_num_threads(1)
x = th.zeros(256, 9, 84, 84, dtype=th.uint8)  # 65 MB as floats: over the largest size that glibc keeps by itself
for _ in range(30):
    x.float()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    x.float()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_tuned_allocator_keeps_its_pages():
    assert "mallopt" in tune_allocator() or "untouched" in tune_allocator()
    faults = {}
    for name in ("tuned", "plain"):
        result = subprocess.run([sys.executable, "-c", PAGE_FAULTS, name], capture_output=True, text=True, check=True)
        faults[name] = int(result.stdout)
    assert faults["tuned"] < 100 < faults["plain"], faults
    assert set(allocator_environment()) == {"MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_"}

import os
import platform
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch as th
from torch import nn

import crl.compute
from crl.compute import allocator_environment, autocast, channels_last, resolve_precision, set_threads, tune_allocator

from .processor import needs_bf16

needs_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")


@pytest.fixture
def fresh_detection():
    questions = (crl.compute._fast_bf16, crl.compute._computes_bf16, crl.compute.onednn_bf16, crl.compute.onednn_linear)
    for question in questions:
        question.cache_clear()
    yield
    for question in questions:
        question.cache_clear()


def pretend(flags, monkeypatch):
    """A processor with these flags; the second one has others."""
    text = f"processor : 0\nmodel name : X 1\nflags : {flags}\n\nprocessor : 1\nflags : avx512_bf16\n"
    monkeypatch.setattr(Path, "read_text", lambda self: text)
    monkeypatch.setattr(Path, "exists", lambda self: True)


def run(code, *args, **environment):
    env = {**os.environ, **environment}
    return subprocess.run(
        [sys.executable, "-c", code, *args], capture_output=True, text=True, check=True, env=env
    ).stdout.strip()


def test_precision_by_name(monkeypatch, fresh_detection):
    monkeypatch.setattr(th.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    for precision in ("fp32", "bf16"):
        assert resolve_precision(precision, "cpu") == precision
    for wrong in ("fp16", "BF16", ""):
        with pytest.raises(ValueError, match="choose one of fp32, bf16, auto"):
            resolve_precision(wrong, "cpu")
        with pytest.raises(ValueError, match="choose one of fp32, bf16, auto"):
            autocast(wrong, "cpu")


@pytest.mark.parametrize(
    "flags, expected",
    [
        ("fpu sse2 avx512f avx512_bf16", "bf16"),
        ("fpu sse2 amx_bf16 amx_tile", "bf16"),
        ("fpu sse2 avx2 avx512f avx512_fp16", "fp32"),
        ("", "fp32"),
    ],
)
def test_auto_on_cpus(flags, expected, monkeypatch, fresh_detection):
    pretend(flags, monkeypatch)
    assert resolve_precision("auto", "cpu") == expected


@pytest.mark.parametrize(
    "flags, expected",
    [("AuthenticAMD avx2 avx512f", True), ("AuthenticAMD avx2", False), ("GenuineIntel avx2 avx512f", False)],
)
def test_linear_layers_by_onednn_where_mkl_leaves_avx512_alone(flags, expected, monkeypatch, fresh_detection):
    pretend(flags, monkeypatch)
    monkeypatch.setattr(th.backends.mkl, "is_available", lambda: True)
    monkeypatch.setattr(th.backends.mkldnn, "is_available", lambda: True)
    assert crl.compute.onednn_linear() == expected


def test_bf16_without_kernels_is_fp32_and_said_once(monkeypatch, fresh_detection):
    monkeypatch.setattr(th.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    with pytest.warns(UserWarning, match="no bf16 kernels for this processor, so convolutions run in fp32"):
        assert resolve_precision("bf16", "cpu") == "fp32"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert resolve_precision("bf16", th.device("cpu")) == resolve_precision("fp32", "cpu") == "fp32"
        assert resolve_precision("bf16", "cuda") == "bf16"
        body, images = nn.Conv2d(3, 4, 3), th.rand(2, 3, 8, 8)
        with autocast("bf16", "cpu"):
            assert body(images).dtype == th.float32


def test_the_processor_is_named(monkeypatch):
    pretend("avx2", monkeypatch)
    words = crl.compute.processor()
    assert words.startswith("X 1 (") and th.backends.cpu.get_cpu_capability() in words and words.endswith("cores")
    monkeypatch.setattr(Path, "exists", lambda self: False)
    monkeypatch.setattr(platform, "processor", lambda: "")
    assert crl.compute.processor().startswith("unknown processor (")


def test_auto_without_proc(monkeypatch, fresh_detection):
    monkeypatch.setattr(Path, "exists", lambda self: False)
    assert resolve_precision("auto", "cpu") == "fp32"


@pytest.mark.parametrize("device, expected", [("cuda:0", "fp32"), ("cuda:1", "bf16"), ("cuda", "fp32")])
def test_auto_asks_the_gpu_in_question(device, expected, monkeypatch, fresh_detection):
    """An old card beside a new one."""
    monkeypatch.setattr(th.cuda, "is_available", lambda: True)
    monkeypatch.setattr(th.cuda, "get_device_capability", lambda device: (8, 6) if device.index == 1 else (7, 5))
    assert resolve_precision("auto", device) == expected


def test_auto_elsewhere_and_without_gpu(monkeypatch, fresh_detection):
    monkeypatch.setattr(th.cuda, "is_available", lambda: False)
    assert resolve_precision("auto", "mps") == resolve_precision("auto", "cuda") == "fp32"


@needs_bf16
def test_autocast():
    body, images = nn.Conv2d(3, 4, 3), th.rand(2, 3, 8, 8)
    with autocast("bf16", "cpu"):
        assert body(images).dtype == th.bfloat16
    with autocast("fp32", th.device("cpu")):
        assert body(images).dtype == th.float32
    assert body(images).dtype == body.weight.dtype == th.float32


def test_channels_last():
    body, images = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)), th.rand(2, 3, 8, 8)
    weights = [w.clone() for w in body.state_dict().values()]
    want = body(images)
    laid_out = channels_last(images)
    assert laid_out.is_contiguous(memory_format=th.channels_last) and not images.is_contiguous(memory_format=th.channels_last)
    assert th.equal(laid_out, images) and channels_last(laid_out) is laid_out
    assert channels_last(body) is body
    assert body[1].weight.is_contiguous(memory_format=th.channels_last)
    assert all(th.equal(a, b) for a, b in zip(weights, body.state_dict().values(), strict=True))
    th.testing.assert_close(body(laid_out), want)


def test_threads():
    before = th.get_num_threads()
    assert set_threads(1) == 1 == th.get_num_threads()
    assert set_threads(None) == 1
    set_threads(before)
    with pytest.raises(ValueError, match="threads=0"):
        set_threads(0)


def test_import_and_tuning_load_no_torch():
    code = "import sys; from crl.compute import *; from crl.compute import tune_allocator, allocator_environment; "
    code += "tune_allocator(); allocator_environment(); print('torch' in sys.modules, 'numpy' in sys.modules)"
    assert run(code) == "False False"


PAGE_FAULTS = """
import resource, sys
from crl.compute import tune_allocator
if sys.argv[1] == "tuned":
    tune_allocator()
import torch as th
th.set_num_threads(1)
x = th.zeros(256, 9, 84, 84, dtype=th.uint8)  # 65 MB as floats: over the largest size that glibc keeps by itself
for _ in range(10):
    x.float()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    x.float()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@needs_glibc
def test_tuned_allocator_keeps_its_pages():
    clean = {"MALLOC_MMAP_MAX_": "65536", "MALLOC_TRIM_THRESHOLD_": "131072"}  # glibc's own values
    faults = {
        "plain": int(run(PAGE_FAULTS, "plain", **clean)),
        "mallopt": int(run(PAGE_FAULTS, "tuned", **clean)),
        "environment": int(run(PAGE_FAULTS, "plain", **allocator_environment())),
    }
    assert faults["mallopt"] < 100 and faults["environment"] < 100 < faults["plain"], faults


THREADS = """
import threading
from crl.compute import tune_allocator
tune_allocator()
sizes = []
def work():
    sizes.extend(len(b"x" * (n << 20)) >> 20 for n in (10, 100, 200))
thread = threading.Thread(target=work)
thread.start()
thread.join()
print(sizes)
"""


@needs_glibc
def test_other_threads_still_get_large_blocks():
    """glibc's heap for a second thread ends at 64 MB, and mapping beside it is what was turned off."""
    assert run(THREADS) == "[10, 100, 200]"


@needs_glibc
@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_a_preloaded_allocator_is_left_alone(tmp_path):
    source, library = tmp_path / "other.c", tmp_path / "other.so"
    source.write_text("void *__libc_malloc(unsigned long);\nvoid *malloc(unsigned long n) { return __libc_malloc(n); }\n")
    subprocess.run(["cc", "-shared", "-fPIC", "-fno-builtin", "-o", str(library), str(source)], check=True)
    code = "from crl.compute import tune_allocator; print(tune_allocator())"
    assert run(code, LD_PRELOAD=str(library)) == "allocator untouched: another allocator stands in for that of glibc"
    assert "mallopt" in run(code)


def test_other_systems_say_why_nothing_was_done(monkeypatch):
    monkeypatch.setattr(crl.compute.ctypes, "CDLL", lambda name: SimpleNamespace())
    monkeypatch.setattr(crl.compute.platform, "system", lambda: "Linux")
    assert tune_allocator() == "allocator untouched: the C library is not glibc"
    monkeypatch.setattr(crl.compute.platform, "system", lambda: "Darwin")
    assert tune_allocator() == "allocator untouched: Darwin has no mallopt"


def test_refused_setting_is_told(monkeypatch):
    libc = SimpleNamespace(gnu_get_libc_version=None, malloc=None, mallopt=lambda parameter, value: 0)
    monkeypatch.setattr(crl.compute.ctypes, "CDLL", lambda name: libc)
    monkeypatch.setattr(crl.compute.platform, "system", lambda: "Linux")
    monkeypatch.setattr(crl.compute, "_address", lambda function: 1)
    assert tune_allocator() == "allocator untouched: mallopt refused"

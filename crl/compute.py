"""
Precision, memory format, threads and allocator, in one place.

Torch is imported inside the functions: the allocator must be set before torch allocates, and the command line answers
``--help`` without it.
"""

from __future__ import annotations

import ctypes
import os
import platform
import warnings
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch as th

    ImagesOrModule = TypeVar("ImagesOrModule", th.Tensor, th.nn.Module)

PRECISIONS = ("fp32", "bf16", "auto")
_BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})
# glibc's numbers of mallopt's parameters (malloc.h)
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_TRIM_THRESHOLD = 2**31 - 1


def resolve_precision(precision: str, device: th.device | str) -> str:
    """
    :param precision: ``"fp32"``, ``"bf16"``, or ``"auto"``: bf16 where the device multiplies it fast, else fp32
    :param device: where the encoder runs
    :return: ``"fp32"`` or ``"bf16"``; fp32, with a warning, where bf16 was asked for and torch has nothing but loops for it
    :raises ValueError: for another name
    """
    check_precision(precision)
    if precision == "fp32":
        return precision
    import torch as th

    chosen = _fast_bf16 if precision == "auto" else _computes_bf16
    return "bf16" if chosen(th.device(device)) else "fp32"


def check_precision(precision: str) -> None:
    """
    :raises ValueError: for a name that is none
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision={precision!r}: choose one of {', '.join(PRECISIONS)}")


@lru_cache
def _fast_bf16(device: th.device) -> bool:
    """CUDA from Ampere on, CPUs with avx512_bf16 or amx; elsewhere bf16 is emulated and slow. Asks, runs no benchmark."""
    if device.type == "cuda":
        import torch as th

        return th.cuda.is_available() and th.cuda.get_device_capability(device)[0] >= 8
    return device.type == "cpu" and not _BF16_FLAGS.isdisjoint(_cpu_flags())


@lru_cache
def _computes_bf16(device: th.device) -> bool:
    """
    CPUs below AVX-512 have no kernels for it: torch refuses, or multiplies number by number, thousands of times slower than
    float32. Models that were made elsewhere must run there all the same, and float32 is no less exact. Warns once.
    """
    if device.type != "cpu" or onednn_bf16():
        return True
    warnings.warn(
        "precision='bf16': torch has no bf16 kernels for this processor, so convolutions run in fp32; "
        "precision='auto' chooses by the processor",
        stacklevel=3,
    )
    return False


def processor() -> str:
    """Name and vector instructions of the first processor and the number of cores, for tables of measurements."""
    import torch as th

    told = dict(line.split(":", 1) for line in _cpu_info().splitlines() if ":" in line)
    fields = {name.strip(): value.strip() for name, value in told.items()}
    name = fields.get("model name") or platform.processor() or "unknown processor"
    # virtual machines call processors of many years by one name
    numbers = f"family {fields['cpu family']} model {fields['model']}, " if {"cpu family", "model"} <= fields.keys() else ""
    return f"{name} ({numbers}{th.backends.cpu.get_cpu_capability()}), {os.cpu_count()} cores"


def _cpu_info() -> str:
    """What Linux says of the first processor; empty where there is no /proc."""
    info = Path("/proc/cpuinfo")
    return info.read_text().split("\n\n")[0] if info.exists() else ""


def _cpu_flags() -> frozenset[str]:
    return frozenset(_cpu_info().split())


@lru_cache
def onednn_convolution() -> bool:
    """Whether torch has oneDNN's convolution with a ReLU in it, which its compiler uses on CPUs."""
    import torch as th

    return th.backends.mkldnn.is_available() and hasattr(th.ops.mkldnn, "_convolution_pointwise")


@lru_cache
def onednn_bf16() -> bool:
    """Whether oneDNN has bf16 kernels for this processor, fast or not; without them torch has loops."""
    import torch as th

    asked = getattr(th.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return th.backends.mkldnn.is_available() and asked is not None and bool(asked())


@lru_cache
def onednn_linear() -> bool:
    """
    Whether float32 linear layers are faster by oneDNN than by MKL, which torch takes: on processors with AVX-512 whose AVX-512
    MKL leaves alone (measured on AMD Zen 5 with one thread, batch 128: 1024 to 1024 in 1.2 ms instead of 2.6, 39200 to 50 in
    3.0 instead of 7.1). On AMD Zen 3, with AVX2, MKL is as fast for large layers and faster for small ones (batch 32, 256 to
    306: 0.09 ms instead of 0.13). Asks, runs no benchmark: the answer, and with it the last bit of results, is always the same
    on a machine.
    """
    import torch as th

    return (
        {"AuthenticAMD", "avx512f"} <= _cpu_flags()
        and th.backends.mkl.is_available()
        and th.backends.mkldnn.is_available()
        and hasattr(th.ops.mkldnn, "_linear_pointwise")
    )


def autocast(precision: str, device: th.device | str) -> AbstractContextManager[None]:
    """
    Context for a conv body: bf16 autocast, or nothing for fp32 (an autocast around it stays in force). Keep heads, losses
    and optimisers outside, and call ``.float()`` on what leaves the body.

    :param precision: ``"fp32"``, ``"bf16"`` or ``"auto"``
    :param device: where it runs
    :raises ValueError: for another precision
    """
    if resolve_precision(precision, device) == "fp32":
        return nullcontext()
    import torch as th

    return th.autocast(th.device(device).type, dtype=th.bfloat16)


def channels_last(x: ImagesOrModule) -> ImagesOrModule:
    """
    Channels innermost in memory, which convolutions like better (1.13x in float32 on CPUs, more under bf16). Changes no value
    of ``x``; results of convolutions agree up to rounding.

    :param x: images ``(batch, channels, height, width)``, or a module, whose convolution weights are laid out so in place
    :return: the images in that layout (a copy unless they had it), or the module
    """
    import torch as th

    if isinstance(x, th.Tensor):
        return x.contiguous(memory_format=th.channels_last)
    return x.to(memory_format=th.channels_last)  # type: ignore[call-overload]


def set_threads(n: int | None) -> int:
    """
    Threads of torch's CPU kernels.

    :param n: at least 1; None leaves torch's choice
    :return: the number in force
    :raises ValueError: for less than 1
    """
    import torch as th

    if n is not None:
        if n < 1:
            raise ValueError(f"threads={n}: at least 1")
        th.set_num_threads(n)
    return th.get_num_threads()


def tune_allocator() -> str:
    """
    Keep freed memory in the process instead of handing it back to the kernel after every large tensor. glibc maps large
    tensors anew each time, and their page faults cost more than many kernels: an update gets 1.1x (batch 128) to 3x (batch
    512) faster on CPUs. The price: memory once used stays resident at its peak. Changes no number.

    Call it before torch allocates its first large tensor: what is mapped by then is unmapped when it is freed.

    :return: what was done, or why nothing was
    """
    if platform.system() != "Linux":
        return f"allocator untouched: {platform.system()} has no mallopt"
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return "allocator untouched: the C library is not glibc"
    if _address(libc.malloc) != _address(ctypes.CDLL("libc.so.6").malloc):
        # jemalloc and its like, preloaded: glibc would take the setting, and nobody would ask glibc for memory
        return "allocator untouched: another allocator stands in for that of glibc"
    done = libc.mallopt(_M_MMAP_MAX, 0) == 1 and libc.mallopt(_M_TRIM_THRESHOLD, _TRIM_THRESHOLD) == 1
    return "glibc keeps freed memory (mallopt)" if done else "allocator untouched: mallopt refused"


def _address(function: Any) -> int | None:
    return ctypes.cast(function, ctypes.c_void_p).value


def allocator_environment() -> dict[str, str]:
    """The same setting as :func:`tune_allocator`, as environment variables for a process to be started."""
    return {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(_TRIM_THRESHOLD)}

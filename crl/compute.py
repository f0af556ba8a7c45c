"""
Precision, memory format, threads and allocator, in one place.

Torch is imported inside the functions: the allocator must be set before torch allocates, and the command line answers
``--help`` without it.
"""

from __future__ import annotations

import ctypes
import platform
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch as th

PRECISIONS = ("fp32", "bf16", "auto")
# glibc's numbers of mallopt's parameters (malloc.h)
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_TRIM_THRESHOLD = 2**31 - 1


def resolve_precision(precision: str, device: th.device | str) -> str:
    """
    :param precision: ``"fp32"``, ``"bf16"``, or ``"auto"``: bf16 where the device multiplies it fast, else fp32
    :param device: where the encoder runs
    :return: ``"fp32"`` or ``"bf16"``
    :raises ValueError: for another name
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision={precision!r}: choose one of {', '.join(PRECISIONS)}")
    if precision != "auto":
        return precision
    import torch as th

    return "bf16" if _fast_bf16(th.device(device).type) else "fp32"


@lru_cache
def _fast_bf16(device_type: str) -> bool:
    """CUDA from Ampere on, CPUs with avx512_bf16 or amx; elsewhere bf16 is emulated and slow."""
    if device_type == "cuda":
        import torch as th

        return th.cuda.is_available() and th.cuda.get_device_capability()[0] >= 8
    if device_type == "cpu" and platform.system() == "Linux":
        flags = Path("/proc/cpuinfo").read_text().split("\n\n")[0].split()
        return "avx512_bf16" in flags or "amx_bf16" in flags
    return False


def autocast(precision: str, device: th.device | str) -> AbstractContextManager[None]:
    """
    Context for a conv body: bf16 autocast, or nothing for fp32. Keep heads, losses and optimisers outside.

    :param precision: ``"fp32"``, ``"bf16"`` or ``"auto"``
    :param device: where it runs
    """
    if resolve_precision(precision, device) == "fp32":
        return nullcontext()
    import torch as th

    return th.autocast(th.device(device).type, dtype=th.bfloat16)


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

    Call it before torch allocates its first large tensor.

    :return: what was done, or why nothing was
    """
    if platform.system() != "Linux":
        return f"allocator untouched: {platform.system()} has no mallopt"
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return "allocator untouched: the C library is not glibc"
    done = libc.mallopt(_M_MMAP_MAX, 0) == 1 and libc.mallopt(_M_TRIM_THRESHOLD, _TRIM_THRESHOLD) == 1
    return "glibc keeps freed memory (mallopt)" if done else "allocator untouched: mallopt refused"


def allocator_environment() -> dict[str, str]:
    """The same setting as :func:`tune_allocator`, as environment variables for a process to be started."""
    return {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(_TRIM_THRESHOLD)}

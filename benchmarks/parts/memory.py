"""Peak memory of a piece of work: the allocator's on a GPU, the process's resident set on a CPU."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path

import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_bytes(work: Callable[[], object], device: str) -> int | None:
    """The most memory that was held while `work` ran, the model's weights included.

    On a CPU the kernel's high-water mark is reset first; None where it does not let itself be reset. Of a process's
    memory only what exceeds the mark before the work started is the work's own, so take differences.
    """
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        work()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    try:
        _CLEAR.write_text("5")
    except OSError:
        return None
    work()
    return _field("VmHWM")


def held_bytes(device: str) -> int:
    """Memory that is held now."""
    gc.collect()
    if device.startswith("cuda"):
        return torch.cuda.memory_allocated()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    return _field("VmRSS")


def _field(name: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024

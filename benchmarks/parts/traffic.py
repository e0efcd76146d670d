"""What a step asks of the memory: bytes moved, floating-point operations, peak memory, and the machine's own speeds."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode


class _Bytes(TorchDispatchMode):
    """Adds up the sizes of what each operator reads and writes; views read and write nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0
        self.operators = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.is_view or "empty" in str(func) or "detach" in str(func):
            return result
        read = {id(t): t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        returned = [t for t in tree_leaves(result) if isinstance(t, Tensor)]
        # What was written in place comes back under its own identity: it is read and written.
        self.total += sum(_nbytes(t) for t in (*read.values(), *returned))
        if func._schema.is_mutable and not returned:  # foreach operators return nothing: their first list is written
            self.total += sum(_nbytes(t) for t in tree_leaves(args[0]) if isinstance(t, Tensor))
        self.operators += 1
        return result


def _nbytes(tensor: Tensor) -> int:
    # An expanded tensor is read once.
    return tensor.numel() * tensor.element_size() if 0 not in tensor.stride() else tensor.element_size()


def traffic(step: Callable[[], Any]) -> dict[str, float]:
    """Bytes read and written, operators issued and floating-point operations of matrix products in one step."""
    with _Bytes() as counted:
        step()
    with FlopCounterMode(display=False) as flops:
        step()
    return {"bytes": counted.total, "operators": counted.operators, "flops": flops.get_total_flops()}


def copy_bandwidth(device: str) -> float:
    """Bytes a second that a large copy reads and writes: what a memory-bound step can hope for."""
    size = (1 << 30) if device.startswith("cuda") else (1 << 27)
    source = torch.ones(size // 4, device=device)
    target = torch.empty_like(source)
    seconds = min(timed(lambda: target.copy_(source), device) for _ in range(7))
    return 2 * source.nbytes / seconds


def matmul_rate(device: str) -> float:
    """Operations a second of a full-float32 product with a basis of 64 columns, the shape of a projection's products."""
    stack, out, in_, p = (30, 1536, 576, 64)  # as many as a model of thirty layers has of one kind
    left, x = torch.randn(stack, p, out, device=device), torch.randn(stack, out, in_, device=device)
    seconds = min(timed(lambda: left @ x, device) for _ in range(7))
    return 2 * stack * p * out * in_ / seconds


def timed(run: Callable[[], Any], device: str, repeats: int = 1) -> float:
    """Seconds for one run, the device's work included; the mean of `repeats` issued back to back."""
    synchronize(device)
    start = time.perf_counter()
    for _ in range(repeats):
        run()
    synchronize(device)
    return (time.perf_counter() - start) / repeats


def synchronize(device: str) -> None:
    """Wait for the device."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def peak_memory(run: Callable[[], Any], device: str) -> int | None:
    """Bytes above what was held before; None on a CPU, whose allocator keeps no such count."""
    if not device.startswith("cuda"):
        run()
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - held

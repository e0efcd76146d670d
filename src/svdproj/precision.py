"""Full float32 arithmetic for the projection, whatever the training loop has switched on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def _backends() -> tuple[object, ...]:
    """The settings that decide how float32 matrix products are rounded; since torch 2.9 one attribute per backend."""
    candidates = (torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None))
    return tuple(backend for backend in candidates if backend is not None and hasattr(backend, "fp32_precision"))


@contextmanager
def full_float32(device_type: str) -> Iterator[None]:
    """Switch autocast, TF32 and bfloat16 shortcuts off inside the block, and put the settings back after it.

    A coefficient computed in TF32 is off by about 3e-4 of the update, thirty times the guarantee.

    Args:
        device_type: the device's type, such as `"cuda"` or `"cpu"`.
    """
    backends = _backends()
    if not backends:  # torch < 2.9 has one switch for all
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        try:
            with torch.autocast(device_type, enabled=False):
                yield
        finally:
            torch.set_float32_matmul_precision(before)
        return
    saved = [backend.fp32_precision for backend in backends]  # type: ignore[attr-defined]
    try:
        for backend in backends:
            backend.fp32_precision = "ieee"  # type: ignore[attr-defined]
        with torch.autocast(device_type, enabled=False):
            yield
    finally:
        for backend, precision in zip(backends, saved, strict=True):
            backend.fp32_precision = precision  # type: ignore[attr-defined]

"""Full float32 arithmetic for the projection, whatever the training loop has switched on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

# The settings that decide how float32 matrix products are rounded, since torch 2.9; one that is "none" inherits from those above it.
_MATMULS = (("cuda", "matmul"), ("mkldnn", "matmul"))
_ABOVE = (("generic", "all"), ("cuda", "all"), ("mkldnn", "all"))
# Not torch.backends' attributes: the one of mkldnn as a whole writes the generic setting.
_get: Any = getattr(torch._C, "_get_fp32_precision_getter", None)
_set: Any = getattr(torch._C, "_set_fp32_precision_setter", None)


@contextmanager
def full_float32(device_type: str) -> Iterator[None]:
    """Switch autocast, TF32 and bfloat16 shortcuts off inside the block, and put the settings back after it.

    A coefficient computed in TF32 is off by about 3e-4 of the update, thirty times the guarantee.

    Args:
        device_type: the device's type, such as `"cuda"` or `"cpu"`.
    """
    with _full_matmuls() if _get else _full_matmuls_of_old(), torch.autocast(device_type, enabled=False):
        yield


@contextmanager
def _full_matmuls() -> Iterator[None]:
    own = _own_settings()
    try:
        for setting in _MATMULS:
            _set(*setting, "ieee")
        yield
    finally:
        for setting, value in own.items():
            _set(*setting, value)


def _own_settings() -> dict[tuple[str, str], str]:
    """What each product's setting itself says, "none" where it inherits.

    Reading it gives what it inherits; written back, that would be its own from then on, and the switches above it would no longer
    act. So what is above is read, in order, and set to "none" for a moment.
    """
    above = {}
    try:
        for setting in _ABOVE:
            above[setting] = _get(*setting)
            _set(*setting, "none")
        return {setting: _get(*setting) for setting in _MATMULS}
    finally:
        for setting, value in above.items():
            _set(*setting, value)


@contextmanager
def _full_matmuls_of_old() -> Iterator[None]:
    """Before torch 2.9 there is one switch for all backends, which inherits nothing."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)

"""What `full_float32` switches, while it lasts: told by the settings, since not every CPU has shortcuts to be seen in the results."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from svdproj import ProjectedOptimizer
from svdproj.precision import _backends, full_float32
from tests.conformance.helpers import Weights, backward, direction_for

# Before torch 2.9 there is one switch for all backends, with words of its own.
FULL, FAST = ("ieee", "tf32") if _backends() else ("highest", "medium")


def _settings() -> list[str]:
    if not _backends():
        return [torch.get_float32_matmul_precision()]
    return [backend.fp32_precision for backend in _backends()]  # type: ignore[attr-defined]


def _set(settings: list[str]) -> None:
    if not _backends():
        torch.set_float32_matmul_precision(settings[0])
    for backend, setting in zip(_backends(), settings, strict=False):
        backend.fp32_precision = setting  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def _shortcuts() -> Iterator[None]:
    """TF32 and its like switched on, as training loops do, and put back after the test."""
    before = _settings()
    _set([FAST] * len(before))
    yield
    _set(before)


def test_shortcuts_and_autocast_are_off_inside_and_back_after_it() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with full_float32("cpu"):
            assert set(_settings()) == {FULL}
            assert not torch.is_autocast_enabled("cpu")
        assert torch.is_autocast_enabled("cpu")
    assert set(_settings()) == {FAST}


@pytest.mark.parametrize("space", ["gradient", "update"])
def test_a_step_measures_and_decodes_with_shortcuts_off(space: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Weights()
    wrapped = ProjectedOptimizer(torch.optim.SGD(model.parameters(), lr=0.1), direction_for(model), model, space=space)
    seen: list[str] = []
    bmm = torch.bmm
    monkeypatch.setattr(torch, "bmm", lambda *args: seen.extend(_settings()) or bmm(*args))
    backward(model, 0)
    wrapped.step()
    assert set(seen) == {FULL}

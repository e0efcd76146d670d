"""What `full_float32` switches, while it lasts: told by the settings, since not every CPU has shortcuts to be seen in the results."""

from __future__ import annotations

import pytest
import torch

from svdproj import ProjectedOptimizer
from svdproj.precision import _backends, full_float32
from tests.conformance.helpers import Weights, backward, direction_for


def _settings() -> list[str]:
    return [backend.fp32_precision for backend in _backends()]  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def _shortcuts() -> object:
    """TF32 and its like switched on, as training loops do, and put back after the test."""
    if not _backends():
        pytest.skip("torch before 2.9 has one switch for all backends")
    before = _settings()
    for backend in _backends():
        backend.fp32_precision = "tf32"  # type: ignore[attr-defined]
    yield
    for backend, setting in zip(_backends(), before, strict=True):
        backend.fp32_precision = setting  # type: ignore[attr-defined]


def test_shortcuts_and_autocast_are_off_inside_and_back_after_it() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with full_float32("cpu"):
            assert set(_settings()) == {"ieee"}
            assert not torch.is_autocast_enabled("cpu")
        assert torch.is_autocast_enabled("cpu")
    assert set(_settings()) == {"tf32"}


@pytest.mark.parametrize("space", ["gradient", "update"])
def test_a_step_measures_and_decodes_with_shortcuts_off(space: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Weights()
    wrapped = ProjectedOptimizer(torch.optim.SGD(model.parameters(), lr=0.1), direction_for(model), model, space=space)
    seen: list[str] = []
    bmm = torch.bmm
    monkeypatch.setattr(torch, "bmm", lambda *args: seen.extend(_settings()) or bmm(*args))
    backward(model, 0)
    wrapped.step()
    assert set(seen) == {"ieee"}

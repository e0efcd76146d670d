"""What `full_float32` switches, while it lasts: told by the settings, since not every CPU has shortcuts to be seen in the results."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext

import pytest
import torch

from svdproj import ProjectedOptimizer
from svdproj.precision import full_float32
from tests.conformance.helpers import Weights, direction_for, train

# Before torch 2.9 there is one switch for all backends, with words of its own.
HAS_SETTINGS = hasattr(torch._C, "_set_fp32_precision_setter")
FULL, FAST = ("ieee", "tf32") if HAS_SETTINGS else ("highest", "medium")
# The matrix products' own, and what they inherit from.
SETTINGS = (("cuda", "matmul"), ("mkldnn", "matmul"), ("cuda", "all"), ("mkldnn", "all"), ("generic", "all"))
MATMULS = SETTINGS[:2]

with_settings = pytest.mark.skipif(not HAS_SETTINGS, reason="torch before 2.9 has one switch")


def _set(setting: tuple[str, str], value: str) -> None:
    torch._C._set_fp32_precision_setter(*setting, value)  # type: ignore[attr-defined]


def _matmuls() -> list[str]:
    """How float32 matrix products are rounded now, on each backend."""
    if not HAS_SETTINGS:
        return [torch.get_float32_matmul_precision()]
    return [torch._C._get_fp32_precision_getter(*setting) for setting in MATMULS]  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def _shortcuts() -> Iterator[None]:
    """TF32 and its like switched on, as training loops do, and torch's defaults after the test."""
    if HAS_SETTINGS:
        for setting in MATMULS:
            _set(setting, FAST)
    else:
        torch.set_float32_matmul_precision(FAST)
    yield
    if HAS_SETTINGS:
        for setting in SETTINGS:
            _set(setting, "none")
    else:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_shortcuts_and_autocast_are_off_inside_and_back_after_it(device: str) -> None:
    before = torch.is_autocast_enabled(device)
    torch.set_autocast_enabled(device, True)  # torch.autocast would refuse without a GPU
    try:
        with full_float32(device):
            assert set(_matmuls()) == {FULL}
            assert not torch.is_autocast_enabled(device)
        assert torch.is_autocast_enabled(device)
    finally:
        torch.set_autocast_enabled(device, before)
    assert set(_matmuls()) == {FAST}


@with_settings
@pytest.mark.parametrize("acting", [("generic", "all"), ("cuda", "all"), ("mkldnn", "all")])
def test_what_inherits_its_setting_inherits_it_afterwards(acting: tuple[str, str]) -> None:
    """Regression: the inherited value was written back as the backend's own, and the switch above it no longer acted."""
    for setting in MATMULS:
        _set(setting, "none")
    reached = [setting for setting in MATMULS if acting[0] in ("generic", setting[0])]
    for value in ("tf32", "ieee", "tf32"):
        _set(acting, value)
        with full_float32("cpu"):
            assert set(_matmuls()) == {FULL}
        now = dict(zip(MATMULS, _matmuls(), strict=True))
        assert {now[setting] for setting in reached} == {value}
        assert all(now[setting] == "none" for setting in MATMULS if setting not in reached)


@with_settings
def test_a_setting_of_its_own_stays_its_own() -> None:
    """Also one that says what it would inherit: the switch above it did not act before, and does not act afterwards."""
    _set(("generic", "all"), FAST)
    with full_float32("cpu"), pytest.raises(ZeroDivisionError), full_float32("cpu"):
        raise ZeroDivisionError
    _set(("generic", "all"), "ieee")
    assert set(_matmuls()) == {FAST}


def test_the_one_switch_of_torch_before_2_9_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("svdproj.precision._get", None)
    if HAS_SETTINGS:  # torch refuses to tell the old switch's position while the new ones stand otherwise
        for setting in MATMULS:
            _set(setting, "none")
    torch.set_float32_matmul_precision("high")
    try:
        with full_float32("cpu"):
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("space", ["gradient", "update"])
def test_a_step_and_a_purge_compute_with_shortcuts_off(space: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Weights()
    inner = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    wrapped = ProjectedOptimizer(inner, direction_for(model), model, space=space)
    seen: list[str] = []
    bmm = torch.bmm
    monkeypatch.setattr(torch, "bmm", lambda *args: seen.extend(_matmuls()) or bmm(*args))
    train(model, wrapped, range(1))
    assert set(seen) == {FULL}
    seen.clear()
    wrapped.set_direction(direction_for(model, seed=5))
    assert set(seen) == {FULL}


@pytest.mark.parametrize("space", ["gradient", "update"])
def test_autocast_is_switched_off_on_the_weights_device(space: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told by tensors without data: they are on a device that is not the CPU."""
    devices: list[str] = []
    monkeypatch.setattr("svdproj.projector.full_float32", lambda device: devices.append(device) or nullcontext())
    model = Weights().to("meta")
    inner = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    wrapped = ProjectedOptimizer(inner, direction_for(Weights()), model, space=space)
    model(torch.randn(16, 8, device="meta")).backward()
    wrapped.step()
    wrapped.set_direction(direction_for(Weights(), seed=5))
    assert devices == ["meta", "meta"]

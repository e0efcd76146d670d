"""The file: what goes in comes out, and whatever is wrong with it has an error of its own."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from svdproj import (
    BilinearChart,
    DenseChart,
    DiagonalChart,
    DirectionMetadata,
    Energy,
    HackDirection,
    ProjectedOptimizer,
)
from svdproj.metadata import FORMAT_VERSION
from svdproj.nulls import random_frames
from svdproj.serialization import _header_checksum
from svdproj.subspace import Subspace, orthonormality_error

GENERATOR = torch.Generator().manual_seed(0)


def frame(n: int, k: int) -> Tensor:
    return random_frames((n, k), GENERATOR).float()


@pytest.fixture(scope="module")
def direction() -> HackDirection:
    """One parameter in each kind of chart, and every field of the metadata set."""
    charts = {
        "model.layers.0.a.weight": BilinearChart(frame(12, 4), frame(10, 3)),
        "model.layers.0.b.weight": DiagonalChart(frame(8, 6), frame(7, 6)),
        "model.norm.weight": DenseChart((9,)),
    }
    subspaces = {
        name: Subspace(c, frame(c.size, 3).mT.contiguous(), torch.tensor([3.0, 2.0, 1.0])) for name, c in charts.items()
    }
    energy = Energy(0.9, 0.8, 0.7, 0.6, 0.1, 0.05)
    metadata = DirectionMetadata(
        created="2026-01-01T00:00:00+00:00",
        model_id="org/model",
        weights_fingerprint="ff",
        weight_fingerprints=dict.fromkeys(charts, "00"),
        chart="bilinear",
        basis="gradient",
        chart_rank=4,
        k=3,
        noise_floor=0.25,
        loss="mean",
        n_pairs=8,
        n_held_out=2,
        pairs_hash="ab",
        fitted_prompts=("cd", "ef"),
        seed=7,
        energy=energy,
        held_out_accuracy=1.0,
        energy_by_parameter={name: replace(energy, rows_held_out=float("nan")) for name in charts},
        halves_overlap=0.5,
        halves_overlap_random=float("nan"),
        validation={"auroc": 0.9, "halves_overlap": float("nan"), "t_statistic": float("inf")},
    )
    return HackDirection(subspaces, metadata)


def tensors_of(direction: HackDirection) -> dict[str, Tensor]:
    return {
        f"{name}/{part}": tensor
        for name, s in direction.subspaces.items()
        for part, tensor in {"rows": s.rows, "values": s.singular_values, **s.chart.tensors}.items()
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_was_saved_is_loaded(direction: HackDirection, dtype: torch.dtype, tmp_path: Path) -> None:
    saved = direction.to(dtype=dtype)
    saved.save(tmp_path / "d.safetensors")
    loaded = HackDirection.load(tmp_path / "d.safetensors")
    assert list(loaded.subspaces) == list(saved.subspaces)
    for name, tensor in tensors_of(saved).items():
        assert tensors_of(loaded)[name].dtype == dtype
        assert torch.equal(tensors_of(loaded)[name], tensor), name
    assert loaded.metadata == direction.metadata
    assert loaded.fingerprint == saved.fingerprint
    assert [s.chart.shape for s in loaded.subspaces.values()] == [(12, 10), (8, 7), (9,)]


def test_the_header_carries_the_provenance_as_json(direction: HackDirection, tmp_path: Path) -> None:
    direction.save(tmp_path / "d.safetensors")
    with safe_open(tmp_path / "d.safetensors", framework="pt") as file:
        header = json.loads(file.metadata()["svdproj"], parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert header["format_version"] == FORMAT_VERSION
    assert header["metadata"] == direction.metadata.to_json()
    assert header["charts"]["model.layers.0.b.weight"] == {"kind": "diagonal", "shape": [8, 7]}


@given(
    pairs=st.integers(1, 4),
    out=st.integers(1, 12),
    in_=st.integers(1, 12),
    chart=st.sampled_from(["dense", "bilinear"]),
)
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_fitted_directions_of_any_shape_round_trip(pairs: int, out: int, in_: int, chart: str, tmp_path: Path) -> None:
    fitted = HackDirection.from_gradients({"w": torch.randn(pairs, out, in_)}, chart=chart, chart_rank=4, k=3)
    fitted.save(tmp_path / "d.safetensors")
    loaded = HackDirection.load(tmp_path / "d.safetensors")
    assert loaded.fingerprint == fitted.fingerprint
    assert loaded.metadata == fitted.metadata


def test_the_empty_direction_round_trips(tmp_path: Path) -> None:
    HackDirection.empty().save(tmp_path / "d.safetensors")
    assert len(HackDirection.load(tmp_path / "d.safetensors")) == 0


def test_a_half_precision_direction_keeps_the_guarantee(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(24, 32))
    fitted = HackDirection.from_gradients({"0.weight": torch.randn(9, 32, 24)}, chart="bilinear", chart_rank=12, k=5)
    fitted.to(dtype=torch.bfloat16).save(tmp_path / "d.safetensors")
    loaded = HackDirection.load(tmp_path / "d.safetensors")
    rounded = loaded.subspaces["0.weight"]
    assert orthonormality_error(rounded.rows.float()) > 1e-4
    widened = rounded.to(dtype=torch.float32)
    for columns in (widened.rows.mT, *widened.chart.tensors.values()):
        assert orthonormality_error(columns.mT) < 1e-5
    assert widened.overlap(fitted.subspaces["0.weight"]) > 0.9999
    model(torch.randn(8, 24)).square().mean().backward()
    optimizer = ProjectedOptimizer(torch.optim.SGD(model.parameters(), lr=0.1), loaded, model, gate="two_sided")
    optimizer.step()
    assert optimizer.metrics()["svdproj/removed"] > 0.05
    assert optimizer.metrics()["svdproj/residual"] < 1e-5


def test_saving_appears_whole_or_not_at_all(
    direction: HackDirection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "d.safetensors"
    direction.save(path)
    before = path.read_bytes()

    def fails_half_way(tensors: object, name: Any, metadata: object) -> None:
        Path(name).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("svdproj.serialization.save_file", fails_half_way)
    with pytest.raises(OSError, match="disk full"):
        direction.truncate(1).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_others_may_read_what_was_saved(direction: HackDirection, tmp_path: Path) -> None:
    path = tmp_path / "d.safetensors"
    mask = os.umask(0o022)
    try:
        direction.save(path)
    finally:
        os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o644
    path.chmod(0o600)
    direction.save(path)
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_missing_folder_is_named(direction: HackDirection, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="make it first"):
        direction.save(tmp_path / "none" / "d.safetensors")


# --- damaged files

Edit = Callable[[dict[str, Tensor], dict[str, Any]], object]


def edited(direction: HackDirection, path: Path, edit: Edit) -> Path:
    """The direction's file with tensors and header changed, and still a sound safetensors file."""
    direction.save(path)
    with safe_open(path, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        header = json.loads(file.metadata()["svdproj"])
    edit(tensors, header)
    save_file(tensors, path, metadata={"svdproj": json.dumps(header)})
    return path


A = "model.layers.0.a.weight"
DAMAGES: dict[str, tuple[Edit, str]] = {
    "newer": (lambda t, h: h.update(format_version=FORMAT_VERSION + 1), "install a newer svdproj"),
    "no version": (lambda t, h: h.pop("format_version"), "damaged header"),
    "version of another type": (lambda t, h: h.update(format_version="two"), "damaged header"),
    "no charts": (lambda t, h: h.pop("charts"), "damaged header"),
    "charts of another type": (lambda t, h: h.update(charts=[1]), "damaged header"),
    "no metadata": (lambda t, h: h.pop("metadata"), "damaged header"),
    "unknown chart": (lambda t, h: h["charts"][A].update(kind="round"), f"{A} has the unknown chart 'round'"),
    "no rows": (lambda t, h: t.pop(f"{A}::rows"), "damaged header"),
    "no basis": (lambda t, h: t.pop(f"{A}::left"), "damaged header"),
    "a tensor too many": (lambda t, h: t.update({"other::rows": torch.ones(1, 1)}), "damaged header"),
    "rows too short": (lambda t, h: t.update({f"{A}::rows": torch.eye(3, 5)}), f"tensors of {A} do not fit"),
    "too few values": (lambda t, h: t.update({f"{A}::singular_values": torch.ones(2)}), f"tensors of {A} do not fit"),
    "another shape": (lambda t, h: h["charts"][A].update(shape=[12, 11]), f"tensors of {A} do not fit"),
    "rows in one dimension": (lambda t, h: t.update({f"{A}::rows": torch.ones(12)}), f"the rows of {A} are"),
    "rows of integers": (lambda t, h: t.update({f"{A}::rows": torch.eye(3, 12).long()}), f"the rows of {A} are"),
    "not finite": (lambda t, h: t[f"{A}::rows"].view(-1)[0].fill_(torch.nan), f"rows of {A} are not finite"),
    "values not finite": (lambda t, h: t[f"{A}::singular_values"][0].fill_(torch.inf), "singular_values .* not finite"),
    "rows not orthonormal": (lambda t, h: t[f"{A}::rows"].mul_(1.01), f"the rows of {A} are not orthonormal"),
    "basis not orthonormal": (lambda t, h: t[f"{A}::right"].mul_(1.01), f"the right of {A} are not orthonormal"),
    "other tensors": (lambda t, h: t[f"{A}::rows"].mul_(-1), "checksum"),
    "other values": (lambda t, h: t[f"{A}::singular_values"][0].fill_(5), "the tensors are not .*checksum"),
    "an edited figure": (
        lambda t, h: h["metadata"]["validation"].update(auroc=1.0),
        r"the header .* is not .*checksum",
    ),
    "an edited accuracy": (
        lambda t, h: h["metadata"].update(held_out_accuracy=0.5),
        r"the header .* is not .*checksum",
    ),
    "another model": (lambda t, h: h["metadata"].update(model_id="me/else"), r"the header .* is not .*checksum"),
    "no control": (lambda t, h: h["metadata"].pop("control"), r"the header .* is not .*checksum"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_each_damage_has_an_error_of_its_own(damage: str, direction: HackDirection, tmp_path: Path) -> None:
    edit, message = DAMAGES[damage]
    path = edited(direction, tmp_path / "d.safetensors", edit)
    with pytest.raises(ValueError, match=message) as raised:
        HackDirection.load(path)
    assert str(path) in str(raised.value)


def test_an_untouched_copy_loads(direction: HackDirection, tmp_path: Path) -> None:
    path = edited(direction, tmp_path / "d.safetensors", lambda tensors, header: None)
    assert HackDirection.load(path).fingerprint == direction.fingerprint


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_truncated_files_are_called_that(kept: int, direction: HackDirection, tmp_path: Path) -> None:
    path = tmp_path / "d.safetensors"
    direction.save(path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"not a readable safetensors file .* copy it again"):
        HackDirection.load(path)


def test_any_flipped_bit_is_noticed(direction: HackDirection, tmp_path: Path) -> None:
    path = tmp_path / "d.safetensors"
    direction.save(path)
    whole = path.read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")
    generator = torch.Generator().manual_seed(1)
    for place in torch.randint(start, len(whole), (60,), generator=generator).tolist():
        bit = 1 << int(torch.randint(8, (1,), generator=generator))
        path.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
        with pytest.raises(ValueError, match=r"d\.safetensors"):
            HackDirection.load(path)


def test_other_files_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such direction file"):
        HackDirection.load(tmp_path / "none.safetensors")
    save_file({"a": torch.ones(2)}, tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match="without a direction in it"):
        HackDirection.load(tmp_path / "weights.safetensors")
    save_file({"a": torch.ones(2)}, tmp_path / "broken.safetensors", metadata={"svdproj": "{not json"})
    with pytest.raises(ValueError, match="damaged header"):
        HackDirection.load(tmp_path / "broken.safetensors")
    torch.save({"a": torch.ones(2)}, tmp_path / "pickle.pt")
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        HackDirection.load(tmp_path / "pickle.pt")


def test_fields_of_a_later_version_are_passed_over(direction: HackDirection, tmp_path: Path) -> None:
    def add(tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
        header["metadata"]["invented_later"] = 1
        header["metadata"]["energy"]["invented_later"] = 1.0
        header["header_checksum"] = _header_checksum(header)

    path = edited(direction, tmp_path / "d.safetensors", add)
    assert HackDirection.load(path).metadata == direction.metadata


@pytest.mark.parametrize("missing", [["header_checksum"], ["header_checksum", "checksum"]])
def test_files_from_before_there_were_checksums_load(
    missing: list[str], direction: HackDirection, tmp_path: Path
) -> None:
    path = edited(direction, tmp_path / "d.safetensors", lambda tensors, header: [header.pop(name) for name in missing])
    assert HackDirection.load(path).fingerprint == direction.fingerprint
    assert HackDirection.load(path).metadata == direction.metadata

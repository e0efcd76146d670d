"""A direction as one safetensors file: tensors by name, provenance in the header, no pickle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from svdproj.charts import CHART_KINDS, Chart, DenseChart
from svdproj.files import replacing
from svdproj.metadata import FORMAT_VERSION, DirectionMetadata, tensors_hash
from svdproj.subspace import Subspace, orthonormality_error

_HEADER = "svdproj"
# Between a parameter's name and its tensor's; no module path holds it.
_SEPARATOR = "::"
# float32 rows from a float64 decomposition are orthonormal to 1e-6; bfloat16 keeps 8 bits of each entry.
_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}


def write_direction(path: Path, subspaces: Mapping[str, Subspace], metadata: DirectionMetadata) -> None:
    """Write a direction whole or not at all."""
    tensors: dict[str, Tensor] = {}
    charts: dict[str, dict[str, Any]] = {}
    for name, subspace in subspaces.items():
        charts[name] = {"kind": subspace.chart.kind, "shape": list(subspace.chart.shape)}
        parts = {"rows": subspace.rows, "singular_values": subspace.singular_values, **subspace.chart.tensors}
        tensors |= {f"{name}{_SEPARATOR}{part}": tensor.contiguous().cpu() for part, tensor in parts.items()}
    header = {
        "format_version": FORMAT_VERSION,
        "metadata": metadata.to_json(),
        "charts": charts,
        "checksum": tensors_hash(sorted(tensors.items())),
    }
    header["header_checksum"] = _header_checksum(header)
    save_atomically(path, tensors, {_HEADER: json.dumps(header)})


def save_atomically(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file to a temporary name beside `path` and rename it, so that it is there whole or not at all."""
    with replacing(path) as draft:
        save_file(tensors, draft, metadata=metadata)


def read_direction(path: Path) -> tuple[dict[str, Subspace], DirectionMetadata]:
    """Read what `write_direction` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no safetensors file or a damaged one, holds no direction, is of a newer format, or its
            tensors do not fit each other, are not finite or not orthonormal.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such direction file; write one with HackDirection.save or `svdproj extract`"
        )
    header, tensors = _read(path)
    try:
        if header["format_version"] > FORMAT_VERSION:
            raise ValueError(
                f"{path} has format version {header['format_version']}, this svdproj reads up to {FORMAT_VERSION}; "
                "install a newer svdproj"
            )
        by_name: dict[str, dict[str, Tensor]] = {name: {} for name in header["charts"]}
        for key, tensor in tensors.items():
            name, _, part = key.rpartition(_SEPARATOR)
            by_name[name][part] = tensor
        subspaces = {name: _subspace(path, name, chart, by_name[name]) for name, chart in header["charts"].items()}
        metadata = DirectionMetadata.from_json(header["metadata"])
        # Files written before there was a checksum have none.
        intact = header.get("checksum", found := tensors_hash(sorted(tensors.items()))) == found
        unedited = header.get("header_checksum", found := _header_checksum(header)) == found
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} has a damaged header ({type(error).__name__}: {error}); extract the direction again"
        ) from None
    if not intact:
        raise ValueError(f"{path}: the tensors are not those that were written (checksum); copy the file again")
    if not unedited:
        raise ValueError(
            f"{path}: the header (provenance, figures, charts) is not the one that was written (checksum); copy the file again, and "
            "write figures with `svdproj validate --save`"
        )
    return subspaces, metadata


def _header_checksum(header: Mapping[str, Any]) -> str:
    """A hash of what the header says, fields of later versions included; it is no defence against somebody who makes a new
    one.
    """
    said = {key: value for key, value in header.items() if key not in ("checksum", "header_checksum")}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The direction's header and all tensors of the file."""
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(_HEADER)
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (safe_open has no __iter__)
    except SafetensorError as error:
        raise ValueError(
            f"{path} is not a readable safetensors file ({error}); it may be cut short: copy it again"
        ) from None
    if text is None:
        raise ValueError(f"{path} is a safetensors file without a direction in it (no {_HEADER!r} header)")
    try:
        header = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} has a damaged header ({error}); extract the direction again") from None
    return header, tensors


def _subspace(path: Path, name: str, chart: Mapping[str, Any], parts: dict[str, Tensor]) -> Subspace:
    if chart["kind"] not in CHART_KINDS:
        raise ValueError(f"{path}: {name} has the unknown chart {chart['kind']!r}; known are {', '.join(CHART_KINDS)}")
    rows, singular_values = parts.pop("rows"), parts.pop("singular_values")
    dimensions = {"rows": (rows, 2), "singular_values": (singular_values, 1), **{k: (t, 2) for k, t in parts.items()}}
    for part, (tensor, ndim) in dimensions.items():
        if tensor.ndim != ndim or not tensor.is_floating_point():
            raise ValueError(
                f"{path}: the {part} of {name} are {tensor.dtype} of shape {tuple(tensor.shape)}, not floats in "
                f"{ndim} dimension{'s' * (ndim > 1)}; extract the direction again"
            )
        if not tensor.isfinite().all():
            raise ValueError(f"{path}: the {part} of {name} are not finite; extract the direction again")
    built = _chart(chart, parts)
    if built.shape != tuple(chart["shape"]) or rows.shape[-1] != built.size or len(rows) != len(singular_values):
        raise ValueError(
            f"{path}: the tensors of {name} do not fit each other (rows {tuple(rows.shape)}, chart {built.shape} with "
            f"{built.size} coordinates); extract the direction again"
        )
    for part, basis in {"rows": rows, **{key: tensor.mT for key, tensor in parts.items()}}.items():
        if (error := orthonormality_error(basis)) > _TOLERANCE.get(basis.dtype, 1e-4):
            raise ValueError(
                f"{path}: the {part} of {name} are not orthonormal (off by {error:.1e}), so projecting on them would "
                "distort updates; extract the direction again"
            )
    return Subspace(built, rows, singular_values)


def _chart(chart: Mapping[str, Any], parts: dict[str, Tensor]) -> Chart:
    if chart["kind"] == DenseChart.kind:
        return DenseChart(tuple(chart["shape"]))
    return CHART_KINDS[chart["kind"]](**parts)  # type: ignore[arg-type]

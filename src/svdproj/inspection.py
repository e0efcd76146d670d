"""A direction, and two directions side by side, as plain data and as tables by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

from torch import Tensor

from svdproj.layers import by_layer, mean
from svdproj.metadata import Energy
from svdproj.subspace import Subspace

if TYPE_CHECKING:
    from svdproj.direction import HackDirection


def describe(direction: HackDirection) -> dict[str, Any]:
    """Everything that `svdproj inspect --json` says: provenance, sizes, and spectrum and energy of each parameter.

    What was not measured is `nan`.
    """
    shares = row_energy_shares(direction)
    energies = direction.metadata.energy_by_parameter
    return {
        "fingerprint": direction.fingerprint,
        "parameters": len(direction),
        "rows": sum(subspace.k for subspace in direction.subspaces.values()),
        "bytes": sum(subspace.nbytes for subspace in direction.subspaces.values()),
        "metadata": direction.metadata.to_json(),
        "by_parameter": {
            name: {
                "shape": list(subspace.chart.shape),
                "chart": subspace.chart.kind,
                "coordinates": subspace.chart.size,
                "rows": subspace.k,
                "singular_values": subspace.singular_values.tolist(),
                "share_of_row_energy": shares[name],
                "energy_in_rows": energies.get(name, Energy()).rows,
                "energy_in_rows_held_out": energies.get(name, Energy()).rows_held_out,
                "energy_in_random_rows": subspace.k / prod(subspace.chart.shape),
            }
            for name, subspace in direction.subspaces.items()
        },
    }


def row_energy_shares(direction: HackDirection) -> dict[str, float]:
    """Where the direction lives: each parameter's share of the pairs' energy in all rows together."""
    energies = {name: float(s.singular_values.double().square().sum()) for name, s in direction.subspaces.items()}
    total = sum(energies.values())
    return {name: energy / total if total else float("nan") for name, energy in energies.items()}


def direction_table(direction: HackDirection) -> str:
    """Spectrum, coverage and energy by layer."""
    shares = row_energy_shares(direction)
    energies = direction.metadata.energy_by_parameter
    lines = [
        ["layer", "parameters", "rows", "σ max", "σ min", "of all energy", "in rows", "held out", "random", "MiB"],
    ]
    for label, group in by_layer(direction.subspaces).items():
        values = [subspace.singular_values for subspace in group.values()]
        found = [energies.get(name, Energy()) for name in group]
        lines.append(
            [
                label,
                str(len(group)),
                str(sum(subspace.k for subspace in group.values())),
                number(max(float(each.max()) for each in values)),
                number(min(float(each.min()) for each in values)),
                percent(sum(shares[name] for name in group)),
                percent(mean(energy.rows for energy in found)),
                percent(mean(energy.rows_held_out for energy in found)),
                percent(mean(subspace.k / prod(subspace.chart.shape) for subspace in group.values())),
                f"{sum(subspace.nbytes for subspace in group.values()) / 2**20:.2f}",
            ]
        )
    return aligned(lines)


def random_overlaps(a: HackDirection, b: HackDirection) -> dict[str, float]:
    """What `HackDirection.overlap` of random rows would be in the mean, for each parameter that both cover.

    In the same chart random rows overlap by `max(k_a, k_b) / m`; in different ones the yardstick is the whole space, `n`
    for `m`.
    """
    shared = {name: (a.subspaces[name], b.subspaces[name]) for name in a.subspaces if name in b.subspaces}
    return {name: min(1.0, max(x.k, y.k) / _common_size(x, y)) for name, (x, y) in shared.items()}


def overlap_table(overlaps: Mapping[str, float], random: Mapping[str, float]) -> str:
    """Overlap of two directions by layer."""
    lines = [["layer", "parameters", "overlap", "least", "most", "random"]]
    for label, group in by_layer(overlaps).items():
        values = list(group.values())
        lines.append(
            [
                label,
                str(len(group)),
                f"{mean(values):.3f}",
                f"{min(values):.3f}",
                f"{max(values):.3f}",
                f"{mean(random[name] for name in group):.3f}",
            ]
        )
    return aligned(lines)


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Cells in columns: the first to the left, the others to the right."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def number(value: float) -> str:
    """Three digits."""
    return f"{value:.3g}"


def percent(share: float) -> str:
    """A share in percent; a dash where it was not measured."""
    return "-" if share != share else f"{100 * share:.3g} %"


def _common_size(a: Subspace, b: Subspace) -> int:
    same = a.chart.kind == b.chart.kind and all(
        _equal(tensor, b.chart.tensors[name]) for name, tensor in a.chart.tensors.items()
    )
    return a.chart.size if same else prod(a.chart.shape)


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool((a.to(b) == b).all())

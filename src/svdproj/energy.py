"""What charts and rows catch of the pairs' gradients, and how well it carries over to pairs they have not seen."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from jaxtyping import Float
from torch import Tensor

from svdproj.charts import Chart
from svdproj.fitting import caught_energy
from svdproj.metadata import Energy
from svdproj.sketch import double, eigh
from svdproj.subspace import Subspace

# Numbers of the pairs' differences that are compared together; bounds the float64 copies.
_AT_ONCE = 2**22


@dataclass(frozen=True, eq=False)
class Coordinates:
    """What the last pass leaves of a parameter's differences.

    Args:
        chart: the parameter's chart.
        encoded: the differences in its coordinates.
        squares: squared norms of the whole differences.
    """

    chart: Chart
    encoded: Float[Tensor, "pairs m"]
    squares: Float[Tensor, "pairs"]

    def cpu(self) -> Coordinates:
        """The same in main memory."""
        tensors = {name: tensor.cpu() for name, tensor in self.chart.tensors.items()}
        return Coordinates(self.chart.with_tensors(tensors), self.encoded.cpu(), self.squares.cpu())


def energy_report(
    subspaces: Mapping[str, Subspace],
    coordinates: Mapping[str, Coordinates],
    fitted: Sequence[int],
    held_out: Sequence[int],
) -> tuple[Energy, dict[str, Energy]]:
    """Shares of energy over all covered parameters, and for each."""
    totals: dict[str, float] = defaultdict(float)
    by_parameter = {}
    for name, subspace in subspaces.items():
        found = coordinates[name]
        numel = prod(subspace.chart.shape)
        parts: dict[str, float] = {}
        for suffix, chosen in {"": list(fitted), "_held_out": list(held_out)}.items():
            encoded = found.encoded[chosen]
            parts["square" + suffix] = float(found.squares[chosen].sum())
            parts["chart" + suffix] = float(encoded.square().sum())
            parts["rows" + suffix] = float(caught_energy(subspace.rows, encoded).sum())
        parts["chart_random"] = parts["square"] * subspace.chart.size / numel
        parts["rows_random"] = parts["square"] * subspace.k / numel
        for key, value in parts.items():
            totals[key] += value
        by_parameter[name] = _shares(parts)
    return _shares(totals), by_parameter


def held_out_accuracy(
    subspaces: Mapping[str, Subspace], coordinates: Mapping[str, Coordinates], held_out: Sequence[int]
) -> float:
    """Share of held-out pairs whose coefficients, summed over all parameters, point hack-ward."""
    if not held_out or not subspaces:
        return float("nan")
    scores = torch.zeros(len(held_out))
    for name, subspace in subspaces.items():
        scores += subspace.coefficients_of(coordinates[name].encoded[list(held_out)]).sum(-1)
    return float((scores > 0).float().mean())


def halves_overlap(
    encoded: Mapping[str, Float[Tensor, "pairs m"]], halves: tuple[Sequence[int], Sequence[int]], k: int
) -> tuple[float, float]:
    """Overlap of the rows that two halves of the pairs would give, in the mean over parameters, and that of random rows.

    A direction that two halves of its pairs disagree on is made of what single pairs have of their own.

    Args:
        encoded: by parameter, the pairs' differences in the chart.
        halves: indices of pairs; see `split_in_halves`.
        k: rows from each half, at most half as many as it has pairs.

    Returns:
        Two figures in [0, 1]; `nan` where a half has fewer than two pairs.
    """
    first, second = (list(half) for half in halves)
    k = min(k, len(first) // 2, len(second) // 2)
    if k < 1 or not encoded:
        return float("nan"), float("nan")
    # A loop over hundreds of parameters would spend its time on starting small products, and on waiting for a device at each.
    alike: dict[tuple[int, torch.device], list[Tensor]] = defaultdict(list)
    for differences in encoded.values():
        alike[differences.shape[-1], differences.device].append(differences)
    overlap = null = 0.0
    for (m, _), group in alike.items():
        count = max(1, _AT_ONCE // ((len(first) + len(second)) * m))
        for start in range(0, len(group), count):
            some = group[start : start + count]
            a, b = (double(torch.stack([differences[half] for differences in some])) for half in (first, second))
            # A half's rows are Vᵀ A / σ with its pairs' Gram matrix V σ² Vᵀ: the overlap needs pair-by-pair products alone.
            cosines = _whitened(a, k).mT @ (a @ b.mT) @ _whitened(b, k)
            overlap += float(cosines.square().sum()) / k
        null += len(group) * min(1.0, k / m)
    return overlap / len(encoded), null / len(encoded)


def _whitened(half: Float[Tensor, "n pairs m"], k: int) -> Float[Tensor, "n pairs k"]:
    eigenvalues, vectors = eigh(half @ half.mT)
    leading = eigenvalues.flip(-1)[:, :k]
    roots = torch.where(leading > 1e-12 * leading[:, :1], leading.clamp_min(1e-300).rsqrt(), 0.0)
    return vectors.flip(-1)[..., :k] * roots[:, None]


def _shares(parts: Mapping[str, float]) -> Energy:
    def share(part: str, whole: str) -> float:
        return parts[part] / parts[whole] if parts.get(whole, 0.0) > 0 else float("nan")

    return Energy(
        chart=share("chart", "square"),
        rows=share("rows", "square"),
        chart_held_out=share("chart_held_out", "square_held_out"),
        rows_held_out=share("rows_held_out", "square_held_out"),
        chart_random=share("chart_random", "square"),
        rows_random=share("rows_random", "square"),
    )

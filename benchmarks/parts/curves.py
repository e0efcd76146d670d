"""How much of pairs that were held out a direction catches, for every chart, rank, number of rows and number of pairs.

One parameter at a time: its gradients of all pairs go in, and sums over parameters come out, so that no more than one
parameter's copies are held.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from svdproj.charts import BilinearChart, Chart, DenseChart, DiagonalChart
from svdproj.differences import ExplicitDifferences
from svdproj.fitting import batched_principal_rows, orientation, weight_bases
from svdproj.sketch import SketchTests, leading_eigenvectors

# Curves run through these points; each varies one choice and keeps the others at their defaults.
RANKS = (4, 8, 16, 32, 64, 128)
ROWS = (1, 2, 4, 8, 16, 24, 32, 48, 64)
PAIRS = (4, 8, 16, 32, 64, 96)
FLOORS = (0.0, 0.1, 0.25, 0.4, 0.5, 0.6, 0.75, 0.9)
RANK, K, N_PAIRS = 64, 24, 64
BASES = ("gradient", "weight", "random")
# Random subspaces that the random sign accuracy is the mean of.
_DRAWS = 16


@dataclass(frozen=True)
class Point:
    """One way to fit: a chart with its bases, its rank (0: none), and the number of fitting pairs."""

    chart: str
    basis: str
    rank: int
    n_pairs: int


@dataclass
class Sums:
    """What is added up over parameters at one point; indices are rows in descending order of strength.

    Args:
        square, square_held: `Σ‖D‖²` over fitted and over held-out pairs.
        chart, chart_held: the part inside the charts.
        chart_rows_random: what `k` random rows in the charts catch of held-out pairs, for each of `ROWS`.
        rows, rows_held: the part inside the first `k` rows, for each of `ROWS`.
        ambient: what random rows in the whole space catch of held-out pairs, for each of `ROWS`.
        scores: sums of coefficients of held-out pairs, `[ROWS, held]`.
        random_scores: the same for as many random rows in the same charts, oriented by the same vote,
            `[ROWS, draws, held]`.
        floor: singular values, held-out energies and held-out coefficients of each row, by parameter.
    """

    square: float = 0.0
    square_held: float = 0.0
    chart: float = 0.0
    chart_held: float = 0.0
    rows: Any = 0.0
    rows_held: Any = 0.0
    chart_rows_random: Any = 0.0
    ambient: Any = 0.0
    scores: Any = 0.0
    random_scores: Any = 0.0
    numel: int = 0
    size: int = 0
    floor: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)


def points(n_available: int, max_pairs: int) -> Iterator[Point]:
    """All points of all curves, each once."""
    pairs = [n for n in PAIRS if n <= min(n_available, max_pairs)]
    n_pairs = min(N_PAIRS, pairs[-1])
    for basis in BASES:
        yield from (Point("bilinear", basis, rank, n_pairs) for rank in RANKS)
        yield from (Point("bilinear", basis, RANK, n) for n in pairs if n != n_pairs)
        if basis != "gradient":
            yield from (Point("diagonal", basis, 0, n) for n in pairs)
    yield from (Point("dense", "-", 0, n) for n in pairs)


@dataclass(frozen=True, eq=False)
class Parameter:
    """One weight, the gradients of all pairs, and the bases that do not depend on the pairs.

    Args:
        differences: of all pairs.
        numel: elements of the weight.
        bases: left and right columns, by where they are from.
    """

    differences: Float[Tensor, "pairs out in"]
    numel: int
    bases: dict[str, tuple[Tensor, Tensor]]

    @classmethod
    def of(cls, weight: Float[Tensor, "out in"], differences: Float[Tensor, "pairs out in"], seed: int) -> Parameter:
        """Singular vectors of the weight, and random orthonormal columns."""
        generator = torch.Generator().manual_seed(seed)
        columns = [min(dim, max(*RANKS, min(weight.shape))) for dim in weight.shape]
        random = [
            torch.linalg.qr(torch.randn(dim, r, generator=generator)).Q.to(weight.device)
            for dim, r in zip(weight.shape, columns, strict=True)
        ]
        bases = {"weight": weight_bases(weight, None), "random": (random[0], random[1])}
        return cls(differences, weight.numel(), bases)


def add_parameter(
    totals: dict[Point, Sums], parameter: Parameter, fitted: Sequence[int], held: Sequence[int], seed: int
) -> None:
    """Add one parameter's share to every point.

    Args:
        totals: changed in place.
        parameter: with gradients of all pairs.
        fitted: indices of fitting pairs; a point uses the first of them.
        held: indices of held-out pairs.
        seed: of sketches and random rows.
    """
    generator = torch.Generator().manual_seed(seed)
    differences = parameter.differences
    squares = differences.flatten(1).square().sum(-1).double().cpu()
    widest = max(RANKS)
    bases, encoded, compact = dict(parameter.bases), {}, {}
    for point, sums in totals.items():
        # Bases from gradients depend on the pairs; all others serve every number of pairs.
        source = f"{point.basis} {point.n_pairs}" if point.basis == "gradient" else point.basis
        if source not in bases and point.basis == "gradient":
            bases[source] = _gradient_bases(differences[list(fitted[: point.n_pairs])], widest, seed)
        if (point.chart, source) not in encoded:
            encoded[point.chart, source] = _chart(point.chart, bases.get(source), widest, differences).encode(
                differences
            )
        if (point.chart, source, point.rank) not in compact:
            corner = _corner(encoded[point.chart, source], bases.get(source), point, widest)
            compact[point.chart, source, point.rank] = corner.shape[1], _compact(corner)
        size, coordinates = compact[point.chart, source, point.rank]
        _add(sums, coordinates, size, squares, parameter.numel, list(fitted[: point.n_pairs]), list(held), generator)


def _compact(encoded: Float[Tensor, "pairs m"]) -> Float[Tensor, "pairs n"]:
    """Coordinates of no more dimensions than there are pairs, with the same inner products, in float64 in main memory.

    Energies, rows and random rows depend on the pairs' inner products alone.
    """
    if encoded.shape[1] <= encoded.shape[0]:
        return encoded.double().cpu()
    if encoded.shape[1] > 2**17:  # a float64 copy of whole gradients would be large
        gram = sum((part.double() @ part.double().mT for part in encoded.split(2**17, dim=1)), start=torch.zeros(()))
    else:
        gram = encoded.double() @ encoded.double().mT
    eigenvalues, vectors = torch.linalg.eigh(gram.cpu())
    return vectors * eigenvalues.clamp_min(0).sqrt()


def _chart(kind: str, bases: tuple[Tensor, Tensor] | None, rank: int, differences: Tensor) -> Chart:
    shape = tuple(differences.shape[1:])
    if kind == "dense" or bases is None:
        return DenseChart(shape)
    if kind == "diagonal":
        r = min(shape)
        return DiagonalChart(bases[0][:, :r], bases[1][:, :r])
    return BilinearChart(bases[0][:, :rank], bases[1][:, :rank])


def _corner(encoded: Tensor, bases: tuple[Tensor, Tensor] | None, point: Point, widest: int) -> Tensor:
    if point.chart != "bilinear" or bases is None:
        return encoded
    # Bases are ordered, so the charts of lower rank are corners of the widest one's coordinates.
    p, q = (min(basis.shape[1], widest) for basis in bases)
    return encoded.view(-1, p, q)[:, : point.rank, : point.rank].flatten(1)


def _gradient_bases(differences: Tensor, rank: int, seed: int) -> tuple[Tensor, Tensor]:
    tests = SketchTests(rank, torch.Generator().manual_seed(seed))
    left, right = (tests(dim, differences.device) for dim in differences.shape[1:])
    moments = ExplicitDifferences(differences).moments(left, right)
    found = [
        leading_eigenvectors(test, product[None], min(rank, test.shape[1]))[0]
        for test, product in zip((left, right), moments, strict=True)
    ]
    return found[0], found[1]


def _add(
    sums: Sums,
    coordinates: Float[Tensor, "pairs n"],
    size: int,
    squares: Float[Tensor, "pairs"],
    numel: int,
    fitted: list[int],
    held: list[int],
    generator: torch.Generator,
) -> None:
    rows, values = batched_principal_rows(coordinates[None, fitted], max(ROWS))[0]
    rows = rows.double()
    of_fitted, of_held = coordinates[fitted] @ rows.mT, coordinates[held] @ rows.mT
    random = _random_coefficients(coordinates, size, generator)
    random = random * torch.stack([orientation(drawn[fitted]) for drawn in random])[:, None]
    square_held, chart_held = float(squares[held].sum()), float(coordinates[held].square().sum())
    sums.square += float(squares[fitted].sum())
    sums.square_held += square_held
    sums.chart += float(coordinates[fitted].square().sum())
    sums.chart_held += chart_held
    sums.rows = sums.rows + _up_to(of_fitted.square().sum(0))
    sums.rows_held = sums.rows_held + _up_to(of_held.square().sum(0))
    k = torch.tensor(ROWS).clamp_max(len(rows)).double()
    sums.chart_rows_random = sums.chart_rows_random + chart_held * k / size
    sums.ambient = sums.ambient + square_held * k / numel
    sums.scores = sums.scores + torch.stack([of_held[:, :k].sum(1) for k in ROWS])
    counts = [min(k, len(rows)) for k in ROWS]
    sums.random_scores = sums.random_scores + torch.stack([random[:, held, :k].sum(2) for k in counts])
    sums.numel += numel
    sums.size += size
    sums.floor.append((values[:K].double(), of_held.square().sum(0)[:K], of_held[:, :K]))


def _random_coefficients(
    coordinates: Float[Tensor, "pairs n"], size: int, generator: torch.Generator
) -> Float[Tensor, "draws pairs k"]:
    """Coefficients on random rows of a chart with `size` coordinates."""
    n, k = coordinates.shape[1], min(size, max(ROWS))
    if size == n:
        frames = torch.linalg.qr(torch.randn(_DRAWS, n, k, generator=generator, dtype=torch.float64)).Q
        return coordinates @ frames
    # In many dimensions random rows are orthonormal all but surely, and their coefficients are Gaussian.
    return coordinates @ torch.randn(_DRAWS, n, k, generator=generator, dtype=torch.float64) / size**0.5


def _up_to(energies: Tensor) -> Tensor:
    """Sums over the first `k` rows, for each of `ROWS`."""
    return torch.stack([energies[:k].sum() for k in ROWS])


def figures(point: Point, sums: Sums) -> dict[str, Any]:
    """Shares and accuracies at one point, for each of `ROWS`."""
    return {
        "in_chart": sums.chart / sums.square,
        "in_chart_held_out": sums.chart_held / sums.square_held,
        "in_chart_random": sums.size / sums.numel,
        "in_rows": (sums.rows / sums.square).tolist(),
        "in_rows_held_out": (sums.rows_held / sums.square_held).tolist(),
        "in_rows_random_of_chart": (sums.chart_rows_random / sums.square_held).tolist(),
        "in_rows_random": (sums.ambient / sums.square_held).tolist(),
        "sign_accuracy": (sums.scores > 0).double().mean(1).tolist(),
        "sign_accuracy_random": (sums.random_scores > 0).double().mean((1, 2)).tolist(),
        "t": _t(sums.scores),
    }


def floor_figures(sums: Sums) -> list[dict[str, float]]:
    """What is left at each noise floor, with `K` rows at most."""
    pooled = torch.cat([values for values, _, _ in sums.floor])
    order = pooled.argsort(stable=True)
    found = []
    for share in FLOORS:
        kept = torch.ones_like(pooled, dtype=torch.bool)
        kept[order[: int(share * len(pooled))]] = False
        parts = kept.split([len(values) for values, _, _ in sums.floor])
        energy = sum(float(energies[part].sum()) for part, (_, energies, _) in zip(parts, sums.floor, strict=True))
        scores = torch.stack([c[:, part].sum(1) for part, (_, _, c) in zip(parts, sums.floor, strict=True)]).sum(0)
        found.append(
            {
                "noise_floor": share,
                "in_rows_held_out": energy / sums.square_held,
                "rows_kept": int(kept.sum()) / len(kept),
                "parameters_kept": sum(bool(part.any()) for part in parts) / len(parts),
                "sign_accuracy": float((scores > 0).double().mean()),
                "t": _t(scores[None])[0],
            }
        )
    return found


def _t(scores: Tensor) -> list[float]:
    """Mean over standard error of held-out pairs' scores; their prompts are all different."""
    error = scores.std(1) / scores.shape[1] ** 0.5
    return (scores.mean(1) / error.clamp_min(torch.finfo(error.dtype).tiny)).tolist()

"""Fitting a direction: passes over the pairs, then linear algebra."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from svdproj.capture import Target, select_targets, visit_differences
from svdproj.charts import CHART_KINDS, BilinearChart, Chart, DenseChart, DiagonalChart
from svdproj.differences import Differences, ExplicitDifferences
from svdproj.fitting import MomentSketch, caught_energy, drop_noise, principal_rows, split_by_prompt, weight_bases
from svdproj.metadata import DirectionMetadata, Energy, pairs_hash, tensors_hash
from svdproj.names import canonical_name
from svdproj.pairs import ContrastivePair
from svdproj.subspace import Subspace
from svdproj.tokens import encode_pair, prompt_key

BASES = ("gradient", "weight")
LOSSES = ("mean", "sum")


@dataclass(frozen=True)
class FitOptions:
    """How a direction is fitted; see `HackDirection.fit`."""

    chart: str
    basis: str
    chart_rank: int
    k: int
    noise_floor: float
    loss: str
    holdout: float
    seed: int

    def __post_init__(self) -> None:
        for name, known in {"chart": tuple(CHART_KINDS), "basis": BASES, "loss": (*LOSSES, "")}.items():
            if (value := getattr(self, name)) not in known:
                raise ValueError(f"unknown {name} {value!r}; choose one of {', '.join(repr(v) for v in known if v)}")
        for name in ("chart_rank", "k"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.noise_floor < 1:
            raise ValueError(f"noise_floor must be at least 0 and less than 1, got {self.noise_floor}")

    @property
    def metadata(self) -> dict[str, Any]:
        """The options under the names that the metadata use."""
        names = ("chart", "basis", "chart_rank", "k", "noise_floor", "loss", "seed")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, eq=False)
class Coordinates:
    """What the last pass leaves of a parameter's differences.

    Args:
        chart: the parameter's chart.
        encoded: the differences in its coordinates, `[pairs, m]`, on the CPU.
        squares: squared norms of the whole differences, `[pairs]`.
    """

    chart: Chart
    encoded: Tensor
    squares: Tensor


def fit_model(
    model: nn.Module,
    tokenizer: Any,
    pairs: Sequence[ContrastivePair],
    targets: str | Sequence[str],
    options: FitOptions,
    batch_size: int,
    progress: bool,
) -> tuple[dict[str, Subspace], DirectionMetadata]:
    """Fit on a model's gradients: one pass for the bases where they come from gradients, one for the coordinates."""
    if len(pairs) < 2:
        raise ValueError(f"fitting needs at least two pairs, got {len(pairs)}; a few dozen make a useful direction")
    max_length = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    encoded = [encode_pair(tokenizer, pair, max_length) for pair in pairs]
    selected = select_targets(model, targets)
    generator = torch.Generator().manual_seed(options.seed)
    fitted, held_out = split_by_prompt([prompt_key(pair.prompt) for pair in pairs], options.holdout, generator)

    sketched = options.chart == "bilinear" and options.basis == "gradient"
    with _progress(len(fitted) * sketched + len(pairs), progress) as on_batch:

        def passes(chosen: Sequence[int], visit: Callable[[str, Sequence[int], Differences], None]) -> None:
            some = [encoded[i] for i in chosen]
            visit_differences(model, selected, some, visit, loss=options.loss, batch_size=batch_size, on_batch=on_batch)

        if sketched:
            charts = _gradient_charts(selected, options, generator, lambda visit: passes(fitted, visit))
        else:
            charts = {target.name: _weight_chart(target, options) for target in selected}
        coordinates = _coordinates(charts, len(pairs), lambda visit: passes(range(len(pairs)), visit))
    subspaces, energy = _rows(coordinates, fitted, held_out, options)
    covered = [(t.name, t.parameter) for t in selected if t.name in subspaces]
    metadata = DirectionMetadata(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        model_id=str(getattr(getattr(model, "config", None), "_name_or_path", "") or type(model).__name__),
        weights_fingerprint=tensors_hash(covered),
        n_pairs=len(fitted),
        n_held_out=len(held_out),
        pairs_hash=pairs_hash(pairs),
        held_out_accuracy=_held_out_accuracy(subspaces, coordinates, held_out),
        **energy,
        **options.metadata,
    )
    return {name: subspace.to("cpu") for name, subspace in subspaces.items()}, metadata


def fit_gradients(
    gradients: Mapping[str, Tensor], options: FitOptions
) -> tuple[dict[str, Subspace], DirectionMetadata]:
    """Fit on differences that are already there."""
    counts = {len(difference) for difference in gradients.values()}
    if len(counts) != 1 or 0 in counts:
        raise ValueError(
            f"gradients need the same number of pairs, at least one, for every parameter; got {sorted(counts)}"
        )
    if options.chart == "diagonal":
        raise ValueError("a diagonal chart needs the weights, which from_gradients does not see; use HackDirection.fit")
    tensors = {}
    for name, difference in gradients.items():
        if not difference.isfinite().all():
            raise ValueError(
                f"the gradient differences of {name} are not finite; look for overflow in the backward pass"
            )
        tensors[canonical_name(name)] = difference.detach().float()
    n_pairs = counts.pop()
    targets = [Target(name, nn.Parameter(d[0], requires_grad=False)) for name, d in tensors.items()]

    def passes(visit: Callable[[str, Sequence[int], Differences], None]) -> None:
        for name, difference in tensors.items():
            visit(name, range(n_pairs), ExplicitDifferences(difference))

    generator = torch.Generator().manual_seed(options.seed)
    if options.chart == "bilinear":
        charts = _gradient_charts(targets, options, generator, passes)
    else:
        charts = {name: DenseChart(tuple(d.shape[1:])) for name, d in tensors.items()}
    coordinates = _coordinates(charts, n_pairs, passes)
    subspaces, energy = _rows(coordinates, range(n_pairs), [], options)
    return subspaces, DirectionMetadata(n_pairs=n_pairs, **energy, **options.metadata)


def _gradient_charts(
    targets: Sequence[Target],
    options: FitOptions,
    generator: torch.Generator,
    passes: Callable[[Callable[[str, Sequence[int], Differences], None]], None],
) -> dict[str, Chart]:
    """Bilinear charts on the leading eigenvectors of `Σ DᵢDᵢᵀ` and `Σ DᵢᵀDᵢ`; dense ones where that saves nothing."""
    charts: dict[str, Chart] = {}
    sketches: dict[str, tuple[MomentSketch, MomentSketch]] = {}
    for target in targets:
        shape = tuple(target.parameter.shape)
        if _dense_is_smaller(shape, options.chart_rank):
            charts[target.name] = DenseChart(shape)
        else:
            device = target.parameter.device
            left, right = (MomentSketch(dim, options.chart_rank, generator, device) for dim in shape)
            sketches[target.name] = (left, right)

    def visit(name: str, indices: Sequence[int], differences: Differences) -> None:
        if name in sketches:
            left, right = sketches[name]
            left.update(differences.left_moment(left.test))
            right.update(differences.right_moment(right.test))

    if sketches:
        passes(visit)
    for target in targets:
        if target.name in sketches:
            device = target.parameter.device
            charts[target.name] = BilinearChart(*(sketch.basis().to(device) for sketch in sketches[target.name]))
    return charts


def _weight_chart(target: Target, options: FitOptions) -> Chart:
    """The chart that a parameter gets when no gradients are needed for it."""
    shape = tuple(target.parameter.shape)
    if options.chart == "dense" or len(shape) != 2:
        return DenseChart(shape)
    if options.chart == "diagonal":
        return DiagonalChart(*weight_bases(target.parameter, None))
    if _dense_is_smaller(shape, options.chart_rank):
        return DenseChart(shape)
    return BilinearChart(*weight_bases(target.parameter, options.chart_rank))


def _dense_is_smaller(shape: tuple[int, ...], chart_rank: int) -> bool:
    """Whether a parameter has no more elements than its bilinear chart would have coordinates."""
    return len(shape) != 2 or prod(shape) <= prod(min(dim, chart_rank) for dim in shape)


def _coordinates(
    charts: Mapping[str, Chart],
    n_pairs: int,
    passes: Callable[[Callable[[str, Sequence[int], Differences], None]], None],
) -> dict[str, Coordinates]:
    found = {
        name: Coordinates(chart, torch.zeros(n_pairs, chart.size), torch.zeros(n_pairs))
        for name, chart in charts.items()
    }

    def visit(name: str, indices: Sequence[int], differences: Differences) -> None:
        where = torch.as_tensor(list(indices))
        found[name].encoded[where] = differences.encode(charts[name]).cpu()
        found[name].squares[where] = differences.squared_norms().cpu()

    passes(visit)
    return found


def _rows(
    coordinates: Mapping[str, Coordinates], fitted: Sequence[int], held_out: Sequence[int], options: FitOptions
) -> tuple[dict[str, Subspace], dict[str, Any]]:
    subspaces = {}
    for name, found in coordinates.items():
        rows, singular_values = principal_rows(found.encoded[list(fitted)], options.k)
        chart = found.chart.with_tensors({key: tensor.cpu() for key, tensor in found.chart.tensors.items()})
        subspaces[name] = Subspace(chart, rows, singular_values)
    subspaces = drop_noise(subspaces, options.noise_floor)
    return subspaces, _energy_report(subspaces, coordinates, fitted, held_out)


def _energy_report(
    subspaces: Mapping[str, Subspace],
    coordinates: Mapping[str, Coordinates],
    fitted: Sequence[int],
    held_out: Sequence[int],
) -> dict[str, Any]:
    """Shares of energy for each parameter and over all, under the metadata's field names."""
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
    return {"energy": _shares(totals), "energy_by_parameter": by_parameter}


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


def _held_out_accuracy(
    subspaces: Mapping[str, Subspace], coordinates: Mapping[str, Coordinates], held_out: Sequence[int]
) -> float:
    """Share of held-out pairs whose coefficients, summed over all parameters, point hack-ward."""
    if not held_out or not subspaces:
        return float("nan")
    scores = sum(s.coefficients_of(coordinates[name].encoded[list(held_out)]).sum(-1) for name, s in subspaces.items())
    assert isinstance(scores, Tensor)
    return float((scores > 0).float().mean())


@contextmanager
def _progress(total: int, wanted: bool) -> Iterator[Callable[[int], None]]:
    """A progress bar over pairs, where tqdm is installed and somebody wants it."""
    try:
        from tqdm.auto import tqdm
    except ImportError:
        wanted = False
    if not wanted:
        yield lambda count: None
        return
    with tqdm(total=total, desc="extracting", unit="pair") as bar:
        yield bar.update

"""Fitting a direction: passes over the pairs, then linear algebra."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from svdproj.batches import pair_sample
from svdproj.capture import Places, Visitor, visit_gradients
from svdproj.charts import CHART_KINDS, BilinearChart, Chart, DenseChart, DiagonalChart
from svdproj.differences import Differences, ExplicitDifferences
from svdproj.energy import Coordinates, energy_report, halves_overlap, held_out_accuracy
from svdproj.fitting import (
    batched_principal_rows,
    check_share,
    drop_noise,
    split_by_prompt,
    split_in_halves,
    weight_bases,
)
from svdproj.likelihood import can_share_prompts
from svdproj.metadata import DirectionMetadata, model_id, pairs_hash, prompt_hash, weights_identity
from svdproj.names import canonical_name
from svdproj.pairs import ContrastivePair
from svdproj.precision import full_float32
from svdproj.progress import progress_bar
from svdproj.sketch import SketchTests, leading_eigenvectors_by_shape
from svdproj.subspace import Subspace
from svdproj.targets import Target, refuse_sharded, select_targets
from svdproj.threads import few_threads
from svdproj.tokens import check_vocabulary, context_length, encode_pair, prompt_key, warn_about_lengths
from svdproj.undisturbed import exact_passes
from svdproj.validation import held_out_figures

BASES = ("gradient", "weight")
LOSSES = ("mean", "sum")
# Parameters whose rows are found together; bounds the float64 copies.
_ROWS_AT_ONCE = 16


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
        check_share("noise_floor", self.noise_floor)
        check_share("holdout", self.holdout)

    @property
    def metadata(self) -> dict[str, Any]:
        """The options under the names that the metadata use."""
        names = ("chart", "basis", "chart_rank", "k", "noise_floor", "loss", "seed")
        return {name: getattr(self, name) for name in names}


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
    if not options.loss:
        raise ValueError(f"unknown loss ''; choose one of {', '.join(map(repr, LOSSES))}")
    encoded = [encode_pair(tokenizer, pair, context_length(model)) for pair in pairs]
    check_vocabulary(model, tokenizer, (side for pair in encoded for side in pair))
    warn_about_lengths(encoded)
    samples = [pair_sample(pair, options.loss) for pair in encoded]
    selected = select_targets(model, targets)
    refuse_sharded(selected)
    generator = torch.Generator().manual_seed(options.seed)
    fitted, held_out = split_by_prompt([prompt_key(pair.prompt) for pair in pairs], options.holdout, generator)

    from_pairs = options.chart == "bilinear" and options.basis == "gradient"
    # Charts that all come out dense need no pass for their bases.
    sketched = from_pairs and any(not _dense_is_smaller(tuple(t.parameter.shape), options.chart_rank) for t in selected)
    # The bar stands before the first forwards: with long completions on a CPU they take a minute.
    with progress_bar(len(fitted) * sketched + len(pairs), progress) as on_batch:
        with exact_passes(model):
            shared = can_share_prompts(model, max(samples, key=lambda sample: sample.longest))

        def passes(chosen: Sequence[int], visit: Visitor) -> None:
            some = [samples[i] for i in chosen]
            visit_gradients(model, selected, some, visit, batch_size=batch_size, shared=shared, on_batch=on_batch)

        if from_pairs:
            charts = _gradient_charts(selected, options, generator, lambda visit: passes(fitted, visit))
        else:
            charts = {target.name: _weight_chart(target, options) for target in selected}
        coordinates = _coordinates(selected, charts, len(pairs), lambda visit: passes(range(len(pairs)), visit))
    subspaces = _rows(coordinates, fitted, options)
    metadata = DirectionMetadata(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        model_id=model_id(model),
        pairs_hash=pairs_hash(pairs),
        fitted_prompts=tuple(sorted({prompt_hash(pairs[i].prompt) for i in fitted})),
        **weights_identity((t.name, t.parameter) for t in selected if t.name in subspaces),
        **_report(subspaces, coordinates, fitted, held_out, options, [prompt_key(pair.prompt) for pair in pairs]),
    )
    return subspaces, metadata


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

    def passes(visit: Visitor) -> None:
        for name, difference in tensors.items():
            visit(name, range(n_pairs), ExplicitDifferences(difference))

    generator = torch.Generator().manual_seed(options.seed)
    with full_float32(targets[0].parameter.device.type):
        if options.chart == "bilinear":
            charts = _gradient_charts(targets, options, generator, passes)
        else:
            charts = {name: DenseChart(tuple(d.shape[1:])) for name, d in tensors.items()}
        coordinates = _coordinates(targets, charts, n_pairs, passes)
        subspaces = _rows(coordinates, range(n_pairs), options)
        return subspaces, DirectionMetadata(**_report(subspaces, coordinates, range(n_pairs), [], options))


def _gradient_charts(
    targets: Sequence[Target],
    options: FitOptions,
    generator: torch.Generator,
    passes: Callable[[Visitor], None],
) -> dict[str, Chart]:
    """Bilinear charts on the leading eigenvectors of `Σ DᵢDᵢᵀ` and `Σ DᵢᵀDᵢ`; dense ones where that saves nothing."""
    shapes = {target.name: tuple(target.parameter.shape) for target in targets}
    devices = {target.name: target.parameter.device for target in targets}
    sketched = [name for name, shape in shapes.items() if not _dense_is_smaller(shape, options.chart_rank)]
    test_for = SketchTests(options.chart_rank, generator)
    tests = {name: tuple(test_for(dim, devices[name]) for dim in shapes[name]) for name in sketched}
    products = {name: tuple(torch.zeros_like(test) for test in pair) for name, pair in tests.items()}

    def visit(name: str, indices: Sequence[int], differences: Differences) -> None:
        if name in tests:
            left, right = tests[name]
            for product, moment in zip(products[name], differences.moments(left, right), strict=True):
                product += moment

    if sketched:
        passes(visit)
    _check_finite({name: products[name][0] for name in sketched})
    sides = [(name, side) for name in sketched for side in (0, 1)]
    found = leading_eigenvectors_by_shape(
        [tests[name][side] for name, side in sides], [products[name][side] for name, side in sides], options.chart_rank
    )
    bases = {sides[index]: basis for index, basis in found}
    return {
        name: BilinearChart(bases[name, 0], bases[name, 1]) if name in tests else DenseChart(shape)
        for name, shape in shapes.items()
    }


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
    targets: Sequence[Target], charts: Mapping[str, Chart], n_pairs: int, passes: Callable[[Visitor], None]
) -> dict[str, Coordinates]:
    """Every pair's difference in its charts' coordinates, left on the parameters' devices."""
    found, places = {}, Places()
    for target in targets:
        chart, device = charts[target.name], target.parameter.device
        encoded, squares = torch.zeros(n_pairs, chart.size, device=device), torch.zeros(n_pairs, device=device)
        found[target.name] = Coordinates(chart, encoded, squares)

    def visit(name: str, indices: Sequence[int], differences: Differences) -> None:
        where = places(indices, found[name].encoded.device)
        # Norms first: where they form the full tensors, the coordinates come from those.
        found[name].squares[where] = differences.squared_norms()
        found[name].encoded[where] = differences.encode(charts[name])

    passes(visit)
    _check_finite({name: each.squares for name, each in found.items()})
    return found


def _check_finite(by_parameter: Mapping[str, Tensor]) -> None:
    """Sums over gradients are finite exactly if the gradients are."""
    bad = [name for name, sums in by_parameter.items() if not bool(sums.isfinite().all())]
    if bad:
        raise ValueError(
            f"the gradients of {bad[0]} and {len(bad) - 1} other weights are not finite; look for weights that are not, or "
            "for overflow in float16: load the model in bfloat16 or float32"
        )


def _rows(coordinates: Mapping[str, Coordinates], fitted: Sequence[int], options: FitOptions) -> dict[str, Subspace]:
    alike: dict[tuple[int, torch.device], list[str]] = defaultdict(list)
    for name, found in coordinates.items():
        alike[found.chart.size, found.encoded.device].append(name)
    rows: dict[str, tuple[Tensor, Tensor]] = {}
    for names in alike.values():
        for start in range(0, len(names), _ROWS_AT_ONCE):
            some = names[start : start + _ROWS_AT_ONCE]
            stacked = torch.stack([coordinates[name].encoded[list(fitted)] for name in some])
            rows |= zip(some, batched_principal_rows(stacked, options.k), strict=True)
    subspaces = {name: Subspace(found.chart, *rows[name]) for name, found in coordinates.items()}
    return {name: subspace.to("cpu") for name, subspace in drop_noise(subspaces, options.noise_floor).items()}


@few_threads()
@full_float32("cpu")  # where the rows are by now, whatever device the gradients were on
def _report(
    subspaces: Mapping[str, Subspace],
    coordinates: Mapping[str, Coordinates],
    fitted: Sequence[int],
    held_out: Sequence[int],
    options: FitOptions,
    prompts: Sequence[str] = (),
) -> dict[str, Any]:
    """What the rows catch and how stable they are, with the options, under the metadata's field names."""
    covered = {name: coordinates[name] for name in subspaces}
    encoded = {name: found.encoded for name, found in covered.items()}
    stable, stable_random = halves_overlap(encoded, split_in_halves(fitted, prompts), options.k)
    covered = {name: found.cpu() for name, found in covered.items()}
    energy, by_parameter = energy_report(subspaces, covered, fitted, held_out)
    return {
        "n_pairs": len(fitted),
        "n_held_out": len(held_out),
        "energy": energy,
        "energy_by_parameter": by_parameter,
        "held_out_accuracy": held_out_accuracy(subspaces, covered, held_out),
        "halves_overlap": stable,
        "halves_overlap_random": stable_random,
        "validation": held_out_figures(subspaces, covered, held_out, prompts, options.seed),
        **options.metadata,
    }

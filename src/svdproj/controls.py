"""Controls: what a claim about a direction has to beat.

| control | the question that it answers |
|---|---|
| `random_direction` | would any subspace of this size do? |
| `matched_random_direction` | would any subspace that removes as much? |
| `placebo_direction` | would the contrast of any two answers, both clean? |
| `shrinkage` | is it enough that steps get shorter? |

Swapping the labels of pairs is no control: it turns the rows around and leaves their span as it is.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import inf, isfinite, isnan
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from svdproj.charts import Chart
from svdproj.direction import HackDirection
from svdproj.metadata import Energy
from svdproj.nulls import generator_for, random_frames
from svdproj.optimizer import ProjectedOptimizer
from svdproj.pairs import ContrastivePair
from svdproj.placebo import placebo_pairs
from svdproj.projector import NamedParameters
from svdproj.subspace import Subspace

__all__ = ["matched_random_direction", "placebo_direction", "placebo_pairs", "random_direction", "shrinkage"]


def random_direction(direction: HackDirection, seed: int, *, ambient: bool = False) -> HackDirection:
    """Random rows, as many as the direction has for each parameter.

    In the direction's charts, the default, they compete where the pairs' gradients lie: the harder comparison. Ambient
    rows may point anywhere in the parameter's space. A bilinear or diagonal chart then gets random bases of the same
    size: of any fixed gradient the rows catch `k/n` of the energy in the mean, as a uniformly random subspace does,
    whose rows would take the memory of `k` copies of the weights.

    Args:
        direction: whose parameters, charts and numbers of rows are taken.
        seed: the rows of a parameter depend on it and on the parameter's name.
        ambient: draw the charts' bases too.

    Example:
        >>> direction = HackDirection.from_gradients({"weight": torch.randn(12, 16, 16)}, k=3, noise_floor=0.0)
        >>> random_direction(direction, seed=0).subspaces["weight"].k
        3
    """
    if not ambient:
        return direction.random_like(seed)
    subspaces = {
        name: replace(subspace, chart=_random_bases(subspace.chart, generator_for(seed, f"{name} bases")))
        for name, subspace in direction.subspaces.items()
    }
    metadata = direction.metadata.without_figures(control="random rows in random charts")
    return HackDirection(subspaces, metadata).random_like(seed)


def matched_random_direction(
    direction: HackDirection, seed: int, ratio: float | Mapping[str, float] | None = None
) -> HackDirection:
    """Random rows in the direction's charts, as many as it takes to remove as much energy as the direction does.

    Random rows catch energy in proportion to their number: a direction that catches `ratio` times as much as random rows
    of its own number is matched by `ratio · k` of them. The ratio depends on what is projected, so measure it there: from
    the metrics of training steps with `mode="measure"` it is `(cos_in / chart_null_cos)²`, and likewise from `score` and
    `validate`.

    Args:
        direction: whose charts are taken.
        seed: of the rows.
        ratio: one for all parameters, or one for each by name. None takes the pairs' own from the metadata (held-out
            pairs' where there are any), which is an upper bound: training steps point along the rows less than pairs do.

    Raises:
        ValueError: no ratio is given and the metadata have none; a ratio is not positive and finite.

    Warns:
        UserWarning: a chart has fewer coordinates than rows are needed, so that even all of it removes less.

    Example:
        >>> direction = HackDirection.from_gradients({"weight": torch.randn(12, 16, 16)}, k=3, noise_floor=0.0)
        >>> matched_random_direction(direction, seed=0, ratio=4.0).subspaces["weight"].k
        12
    """
    short = []
    matched = {}
    for name, subspace in direction.subspaces.items():
        wanted = max(1, round(subspace.k * _ratio(direction, name, ratio)))
        k = min(wanted, subspace.chart.size)
        if k < wanted:
            short.append(name)
        # The rows are drawn below, for these to take the shape of; singular values are a row's share of what all rows stood for.
        level = (subspace.singular_values.square().sum() / k).sqrt()
        shape = subspace.rows.new_zeros(()).expand(k, subspace.chart.size)
        matched[name] = Subspace(subspace.chart, shape, level.expand(k))
    if short:
        warnings.warn(
            f"{len(short)} of {len(matched)} charts have fewer coordinates than a match needs rows (such as {short[0]}): "
            "there all of the chart is taken, which still removes less than the direction",
            stacklevel=2,
        )
    most = max((subspace.k for subspace in matched.values()), default=0)
    metadata = replace(direction.metadata, k=most, control="random rows in the charts, matched in energy")
    return HackDirection(matched, metadata).random_like(seed)


def placebo_direction(
    model: nn.Module, tokenizer: Any, pairs: Sequence[ContrastivePair], *, seed: int = 0, **options: Any
) -> HackDirection:
    """A direction from clean against clean: the same machinery, prompts and lengths, and no hack in it.

    Args:
        model: as in `HackDirection.fit`.
        tokenizer: likewise.
        pairs: their clean completions are contrasted with each other; see `placebo_pairs`.
        seed: of the placebo pairs and of the fit.
        **options: of `HackDirection.fit`; use those of the direction that it is compared with.

    Raises:
        ValueError: as from `placebo_pairs` and `HackDirection.fit`.

    Example:
        >>> placebo = placebo_direction(model, tokenizer, pairs, k=4, progress=False)
        >>> placebo.metadata.control
        'clean against clean (placebo)'
    """
    fitted = HackDirection.fit(model, tokenizer, placebo_pairs(pairs, seed), seed=seed, **options)
    return replace(fitted, metadata=replace(fitted.metadata, control="clean against clean (placebo)"))


def shrinkage(
    optimizer: Optimizer, direction: HackDirection, params: NamedParameters, **options: Any
) -> ProjectedOptimizer:
    """An optimizer whose steps lose the length that the projection would take from them, and keep their direction.

    Each parameter's `x` (its gradient, or its displacement) is scaled to the norm of its projection. If projecting helps
    only because steps get shorter, this helps as much. `svdproj/removed` is the share of the norm that went.

    Args:
        optimizer: the optimizer to wrap.
        direction: sets the lengths.
        params: the model, or its `(name, parameter)` pairs.
        **options: those of `ProjectedOptimizer`, but `mode` and `preserve_norm`.

    Raises:
        ValueError: as from `ProjectedOptimizer`; `mode` or `preserve_norm` is given.

    Example:
        >>> model = torch.nn.Linear(16, 16)
        >>> direction = HackDirection.from_gradients({"weight": torch.randn(12, 16, 16)}, k=3, noise_floor=0.0)
        >>> optimizer = shrinkage(torch.optim.AdamW(model.parameters()), direction, model)
    """
    for name in ("mode", "preserve_norm"):
        if name in options:
            raise ValueError(f"shrinkage sets {name} itself; leave it out")
    return ProjectedOptimizer(optimizer, direction, params, mode="shrink", **options)


def _random_bases(chart: Chart, generator: torch.Generator) -> Chart:
    return chart.with_tensors(
        {
            name: random_frames(tuple(basis.shape), generator, basis.device).to(basis)
            for name, basis in chart.tensors.items()
        }
    )


def _ratio(direction: HackDirection, name: str, ratio: float | Mapping[str, float] | None) -> float:
    if isinstance(ratio, Mapping):
        if name not in ratio:
            raise ValueError(f"no ratio for {name}; give one for each of the direction's parameters, or one for all")
        found = float(ratio[name])
    elif ratio is not None:
        found = float(ratio)
    else:
        found = _ratio_of_pairs(direction, name)
    if not 0 < found < inf:
        raise ValueError(f"the ratio for {name} must be positive and finite, got {found}")
    return found


def _ratio_of_pairs(direction: HackDirection, name: str) -> float:
    """Energy of the pairs in the rows over what as many random rows in the chart would catch."""
    energy = direction.metadata.energy_by_parameter.get(name, Energy())
    if isnan(energy.rows) and isnan(energy.rows_held_out):
        raise ValueError(
            f"the direction's metadata do not say what energy its rows catch in {name} (a truncated or random direction "
            "does not); give ratio=(cos_in / chart_null_cos)² from the metrics of a run with mode='measure'"
        )
    held_out = energy.rows_held_out / energy.chart_held_out if energy.chart_held_out > 0 else float("nan")
    share = held_out if isfinite(held_out) else energy.rows / energy.chart
    subspace = direction.subspaces[name]
    return share * subspace.chart.size / subspace.k

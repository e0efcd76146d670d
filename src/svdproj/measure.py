"""What a stack's gradients or displacements look like from their subspaces, added up over shards in one all-reduce."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from svdproj.plan import Stack


@dataclass(frozen=True, eq=False)
class Measured:
    """One stack's measurements; partial sums until `reduce_over_shards`.

    Args:
        coefficients: inner products with the rows.
        square: squared norms.
        in_chart: squared norms inside the charts, where they were asked for; for sharded parameters, until they are
            reduced, a ±1 combination of the charts' coordinates, which adds up over shards and whose square has that norm as
            its mean.
    """

    coefficients: Float[Tensor, "stack k"]
    square: Float[Tensor, "stack"]
    in_chart: Float[Tensor, "stack"] | None


def measure(stack: Stack, x: Float[Tensor, "stack *shape"], chart_too: bool = True) -> Measured:
    """One reading of `x`: coefficients, norms, and norms inside the charts.

    Args:
        stack: the stack.
        x: its gradients or negative displacements.
        chart_too: whether norms inside the charts are wanted.
    """
    coordinates = stack.products.encode(x)
    if not chart_too:
        in_chart = None
    elif stack.signs is None:
        in_chart = torch.linalg.vector_norm(coordinates, dim=1).square()
    else:
        in_chart = coordinates @ stack.signs
    # vector_norm reads x once; x.square().sum() would write and read a second copy of it.
    square = torch.linalg.vector_norm(x.reshape(len(x), x.numel() // len(x)), dim=1).square()
    return Measured(stack.products.coefficients(coordinates), square, in_chart)


def reduce_over_shards(
    stacks: Sequence[Stack], measured: Sequence[Measured], pending: Sequence[Measured] | None = None
) -> tuple[list[Measured], list[Measured] | None]:
    """Add up partial sums over the processes that hold a parameter's shards: one all-reduce for each process group.

    Args:
        stacks: the stacks.
        measured: this step's partial sums, one for each stack.
        pending: an earlier step's partial sums, which ride along.
    """
    parts = {(index, False): found for index, found in enumerate(measured)}
    parts |= {(index, True): found for index, found in enumerate(pending or ())}
    by_group: dict[Any, list[tuple[int, bool]]] = defaultdict(list)
    for index, late in parts:
        if stacks[index].group is not None:
            by_group[stacks[index].group].append((index, late))
    for group, members in by_group.items():
        pieces = [_flatten(parts[member]) for member in members]
        flat = torch.cat(pieces)
        dist.all_reduce(flat, group=group)
        for member, values in zip(members, flat.split([piece.numel() for piece in pieces]), strict=True):
            parts[member] = _unflatten(values, like=parts[member])
    for (index, late), found in parts.items():
        if stacks[index].group is not None:
            in_chart = None if found.in_chart is None else found.in_chart.square()
            parts[index, late] = Measured(found.coefficients, found.square, in_chart)
    now = [parts[index, False] for index in range(len(stacks))]
    return now, [parts[index, True] for index in range(len(stacks))] if pending else None


def _flatten(found: Measured) -> Tensor:
    return torch.cat([part.flatten() for part in _parts(found)])


def _unflatten(values: Tensor, like: Measured) -> Measured:
    coefficients, square, *in_chart = values.split([part.numel() for part in _parts(like)])
    return Measured(coefficients.view_as(like.coefficients), square, in_chart[0] if in_chart else None)


def _parts(found: Measured) -> list[Tensor]:
    return [found.coefficients, found.square, *([] if found.in_chart is None else [found.in_chart])]

"""One projected step over all stacks: measure, reduce over shards once, write back, measure again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from einops import rearrange
from torch import Tensor

from svdproj.masters import LOW_PRECISION
from svdproj.plan import Stack, local
from svdproj.projection import Gate, gated, guarded, rescale_factor
from svdproj.rounding import stochastic_round

METRICS = (
    "svdproj/cos_in",
    "svdproj/cos_out",
    "svdproj/removed",
    "svdproj/null_cos",
    "svdproj/chart_null_cos",
    "svdproj/residual",
    "svdproj/projected",
)
# First moments in torch's optimizers: Adam and its kin, SGD and its kin.
FIRST_MOMENTS = ("exp_avg", "momentum_buffer")
_SKETCH_SEED = 11

GeneratorFor = Callable[[torch.device], torch.Generator]


@dataclass(frozen=True, eq=False)
class Measured:
    """What a stack's tensors `x` look like from their subspaces; partial sums until `reduce_over_shards`.

    Args:
        coefficients: `[stack, k]`.
        square: squared norms, `[stack]`.
        in_chart: `[stack]`: squared norm inside the chart; for sharded parameters a random ±1 combination of the
            chart's coordinates, which adds up over shards and whose square has that norm as its mean.
    """

    coefficients: Tensor
    square: Tensor
    in_chart: Tensor


@dataclass(frozen=True, eq=False)
class StepReport:
    """Sums over the visited parameters, left on the device until somebody asks.

    Args:
        before: squared norms of the hack-ward part, of `x`, of what was removed, and the two nulls' expected squares,
            `[5]`.
        after: squared norms of the hack-ward part, of the part the gate should have removed, and of the result, `[3]`.
        projected: number of parameters visited.
        pending: with sharded parameters, this step's partial sums for `after`, which ride on the next step's reduction.
    """

    before: Tensor
    after: Tensor
    projected: int
    pending: list[Measured] | None = None

    def metrics(self) -> dict[str, float]:
        """The metrics by name; waits for the device once."""
        hack, square, removed, null, chart_null, hack_out, guard_out, square_out = torch.cat(
            [self.before, self.after.to(self.before.device)]
        ).tolist()
        values = (
            _root_share(hack, square),
            _root_share(hack_out, square_out),
            _root_share(removed, square),
            _root_share(null, square),
            _root_share(chart_null, square),
            _root_share(guard_out, square_out),
            float(self.projected),
        )
        return dict(zip(METRICS, values, strict=True))


def snapshot(stacks: list[Stack]) -> list[Tensor]:
    """Copies of the covered weights, in their own dtype: the extra memory of update space."""
    return [torch.stack(stack.locals) for stack in stacks]


def project_gradients(
    stacks: list[Stack], gate: Gate, overshoot: float, preserve_norm: bool, erase: bool
) -> StepReport | None:
    """Project `p.grad` of all stacks in place; nothing at all where no covered parameter has a gradient."""
    visited = [[grad is not None for grad in stack.grads] for stack in stacks]
    if not any(map(any, visited)):
        return None
    for stack in stacks:
        _check_dense(stack)

    def read(index: int) -> Tensor:
        stack = stacks[index]
        return stack.sign * torch.stack(_grads_or_zeros(stack)).float()

    def write(index: int, projected: Tensor) -> None:
        for grad, value in zip(stacks[index].grads, projected, strict=True):
            if grad is not None:
                grad.copy_(stacks[index].sign * value)

    def correct(index: int, correction: Tensor) -> None:
        for grad, value in zip(stacks[index].grads, correction, strict=True):
            if grad is not None:
                grad.sub_(stacks[index].sign * value)

    return _project(stacks, visited, read, write, correct, gate, overshoot, preserve_norm, erase)


def project_updates(
    stacks: list[Stack],
    before: list[Tensor],
    gate: Gate,
    overshoot: float,
    preserve_norm: bool,
    erase: bool,
    generator_for: GeneratorFor,
    pending: list[Measured] | None = None,
) -> StepReport | None:
    """Project the displacement from `before` to the weights as they stand, in place."""
    visited = [[grad is not None for grad in stack.grads] for stack in stacks]
    if not any(map(any, visited)):
        return None

    def read(index: int) -> Tensor:
        now = torch.stack(stacks[index].locals)
        wide = torch.promote_types(now.dtype, torch.float32)  # a difference of bfloat16 weights has more bits than they
        return (before[index].to(wide) - now.to(wide)).float()

    def put(index: int, values: Tensor) -> None:
        for weight, value, moved in zip(stacks[index].locals, values, visited[index], strict=True):
            if moved and weight.dtype in LOW_PRECISION:
                value = stochastic_round(value, weight.dtype, generator_for(weight.device))
            if moved:
                weight.copy_(value)

    def write(index: int, projected: Tensor) -> None:
        wide = torch.promote_types(before[index].dtype, torch.float32)
        put(index, before[index].to(wide) - projected)

    def correct(index: int, correction: Tensor) -> None:
        weights = stacks[index].locals
        if weights[0].dtype in LOW_PRECISION:
            put(index, torch.stack(weights).float() + correction)
            return
        moved = [(w, c) for w, c, m in zip(weights, correction, visited[index], strict=True) if m]
        torch._foreach_add_([w for w, _ in moved], [c.to(w.dtype) for w, c in moved])

    return _project(stacks, visited, read, write, correct, gate, overshoot, preserve_norm, erase, pending)


def _project(
    stacks: list[Stack],
    visited: list[list[bool]],
    read: Callable[[int], Tensor],
    write: Callable[[int, Tensor], None],
    correct: Callable[[int, Tensor], None],
    gate: Gate,
    overshoot: float,
    preserve_norm: bool,
    erase: bool,
    pending: list[Measured] | None = None,
) -> StepReport:
    """The steps common to both spaces, on `x = read(stack)`.

    Args:
        read: `x` of a stack, float32.
        write: replace `x` by a projected one.
        correct: subtract a correction from `x`, which rounds less than replacing it.
        pending: what the step before measured after its projection, still to be reduced.
    """
    sharded = any(stack.group is not None for stack in stacks)
    measured = [_measure(stack, read(index)) for index, stack in enumerate(stacks)]
    measured, reduced_pending = reduce_over_shards(stacks, measured, pending if sharded else None)
    before = torch.zeros(5, device=stacks[0].rows.device)
    after = torch.zeros(3, device=stacks[0].rows.device)
    for index, (stack, found) in enumerate(zip(stacks, measured, strict=True)):
        used = gated(found.coefficients, gate) * overshoot
        removed = used.square().sum(-1)  # the rows are orthonormal: the norm of what they decode to
        if not erase:
            used, removed = torch.zeros_like(used), torch.zeros_like(removed)
        else:
            correction = stack.subspace.decode(used)
            if preserve_norm:
                square_after = found.square - 2 * (used * found.coefficients).sum(-1) + removed
                scale = rescale_factor(found.square, square_after)
                trailing = " ".join("1" for _ in stack.subspace.chart.shape)
                write(index, (read(index) - correction) * rearrange(scale, f"stack -> stack {trailing}"))
            else:
                correct(index, correction)
        before += _before_sums(stack, found, removed).to(before.device)
    if not erase:
        return StepReport(before, _after_sums(measured, gate, after), _count(visited))
    left = [_measure(stack, read(index)) for index, stack in enumerate(stacks)]
    if not sharded:
        return StepReport(before, _after_sums(left, gate, after), _count(visited))
    if reduced_pending is not None:
        after = _after_sums(reduced_pending, gate, after)
    return StepReport(before, after, _count(visited), pending=left)


def remove_from_state(stacks: list[Stack], state: Mapping[Any, Mapping[str, Any]]) -> None:
    """Take the subspaces' components out of the optimizer's first-moment buffers."""
    for stack in stacks:
        for key in FIRST_MOMENTS:
            buffers = [state.get(parameter, {}).get(key) for parameter in stack.parameters]
            if not all(isinstance(buffer, Tensor) for buffer in buffers):
                continue
            moments = [local(buffer) for buffer in buffers if buffer is not None]
            stacked = torch.stack(moments).float()
            found, _ = reduce_over_shards([stack], [_measure(stack, stacked)], None)
            component = stack.subspace.decode(found[0].coefficients)
            for moment, value in zip(moments, component, strict=True):
                moment.sub_(value.to(moment.dtype))


def reduce_over_shards(
    stacks: list[Stack], measured: list[Measured], pending: list[Measured] | None
) -> tuple[list[Measured], list[Measured] | None]:
    """Add up partial sums over the processes that hold a parameter's shards: one all-reduce for each process group."""
    by_group: dict[Any, list[tuple[int, bool]]] = defaultdict(list)
    parts = {(index, False): found for index, found in enumerate(measured)}
    parts |= {(index, True): found for index, found in enumerate(pending or [])}
    for index, late in parts:
        if stacks[index].group is not None:
            by_group[stacks[index].group].append((index, late))
    for group, members in by_group.items():
        flat = torch.cat([_flatten(parts[member]) for member in members])
        dist.all_reduce(flat, group=group)
        sizes = [_flatten(parts[member]).numel() for member in members]
        for member, values in zip(members, flat.split(sizes), strict=True):
            parts[member] = _unflatten(values, like=parts[member])
    reduced = [_square_sketch(stack, parts[index, False]) for index, stack in enumerate(stacks)]
    return reduced, [parts[index, True] for index in range(len(stacks))] if pending else None


def _measure(stack: Stack, x: Tensor) -> Measured:
    coordinates = stack.subspace.chart.encode(x)
    dims = tuple(range(1, x.ndim))
    if stack.group is None:
        in_chart = coordinates.square().sum(-1)
    else:
        generator = torch.Generator().manual_seed(_SKETCH_SEED)
        signs = torch.randint(0, 2, coordinates.shape[-1:], generator=generator).mul(2).sub(1)
        in_chart = coordinates @ signs.to(coordinates)
    return Measured(stack.subspace.coefficients_of(coordinates), x.square().sum(dims), in_chart)


def _square_sketch(stack: Stack, found: Measured) -> Measured:
    if stack.group is None:
        return found
    return Measured(found.coefficients, found.square, found.in_chart.square())


def _before_sums(stack: Stack, found: Measured, removed: Tensor) -> Tensor:
    null = found.square * stack.rows / (2 * stack.numel)
    chart_null = found.in_chart * stack.rows / (2 * stack.subspace.chart.size)
    hack = found.coefficients.relu().square().sum()
    return torch.stack([hack, found.square.sum(), removed.sum(), null.sum(), chart_null.sum()])


def _after_sums(measured: list[Measured], gate: Gate, zeros: Tensor) -> Tensor:
    total = zeros
    for found in measured:
        hack = found.coefficients.relu().square().sum()
        guard = guarded(found.coefficients, gate).square().sum()
        total = total + torch.stack([hack, guard, found.square.sum()]).to(total.device)
    return total


def _flatten(found: Measured) -> Tensor:
    return torch.cat([found.coefficients.flatten(), found.square, found.in_chart])


def _unflatten(values: Tensor, like: Measured) -> Measured:
    coefficients, square, in_chart = values.split(
        [like.coefficients.numel(), like.square.numel(), like.in_chart.numel()]
    )
    return Measured(coefficients.view_as(like.coefficients), square, in_chart)


def _grads_or_zeros(stack: Stack) -> list[Tensor]:
    return [
        torch.zeros_like(weight) if grad is None else grad
        for grad, weight in zip(stack.grads, stack.locals, strict=True)
    ]


def _check_dense(stack: Stack) -> None:
    for name, grad in zip(stack.names, stack.grads, strict=True):
        if grad is not None and grad.layout is not torch.strided:
            raise TypeError(
                f"{name} has a sparse gradient ({grad.layout}), which has no projection on a dense subspace; "
                "build the layer with sparse=False or leave it out of the direction"
            )


def _count(visited: list[list[bool]]) -> int:
    return sum(map(sum, visited))


def _root_share(part: float, whole: float) -> float:
    return (max(part, 0.0) / whole) ** 0.5 if whole > 0 else 0.0

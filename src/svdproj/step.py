"""One projected step over all stacks: measure, reduce over shards once, correct in place, measure again."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from svdproj.masters import LOW_PRECISION
from svdproj.measure import Measured, measure, reduce_over_shards
from svdproj.options import ProjectionOptions
from svdproj.plan import Stack, local
from svdproj.projection import gated, rescale_factor, shrink_factor
from svdproj.report import Pending, StepReport, sums_after, sums_before
from svdproj.rounding import stochastic_round

# First moments: Adam and its kin, SGD and its kin, and those of bitsandbytes.
FIRST_MOMENTS = ("exp_avg", "momentum_buffer", "state1")

NoiseFor = Callable[[str, tuple[int, ...], torch.device], torch.Generator]
Route = Callable[[Stack, Tensor], None]


@runtime_checkable
class Quantity(Protocol):
    """What is projected, where it lies; `x` has the sign by which a positive coefficient means hack-ward."""

    def read(self, index: int) -> Tensor:
        """`x` of one stack, `[stack, *shape]`, float32."""

    def replace(self, index: int, x: Tensor) -> None:
        """Write another `x`."""

    def subtract(self, index: int, correction: Tensor) -> None:
        """Take a correction off `x`, which rounds less than replacing it."""


class Gradients:
    """`x` is the gradient, turned around where the optimizer maximises."""

    def __init__(self, stacks: Sequence[Stack]) -> None:
        self.stacks = stacks

    def read(self, index: int) -> Tensor:
        stack = self.stacks[index]
        whole = [
            torch.zeros_like(weight) if grad is None else grad
            for grad, weight in zip(stack.grads, stack.locals, strict=True)
        ]
        x = torch.stack(whole).float()
        return -x if stack.maximize else x

    def replace(self, index: int, x: Tensor) -> None:
        stack = self.stacks[index]
        for grad, value in zip(stack.grads, x, strict=True):
            if grad is not None:
                grad.copy_(-value if stack.maximize else value)

    def subtract(self, index: int, correction: Tensor) -> None:
        stack = self.stacks[index]
        present = [(g, c) for g, c in zip(stack.grads, correction.unbind(), strict=True) if g is not None]
        grads, parts = [g for g, _ in present], [c for _, c in present]
        if not grads:
            return
        if grads[0].dtype in LOW_PRECISION:  # one rounding, of the difference, instead of two
            for grad, part in present:
                grad.copy_(grad.float() + part if stack.maximize else grad.float() - part)
        else:
            torch._foreach_add_(grads, [part.to(grads[0].dtype) for part in parts], alpha=1 if stack.maximize else -1)


class Displacements:
    """`x` is the negative displacement of the weights since `before`: the gradient's sign, whatever the optimizer did.

    Args:
        stacks: the stacks, their weights as they stand.
        before: what `snapshot` returned before the optimizer's step.
        noise_for: the step's source of noise for stochastic rounding (`RoundingNoise.advance`).
    """

    def __init__(self, stacks: Sequence[Stack], before: Sequence[Tensor], noise_for: NoiseFor) -> None:
        self.stacks, self.before, self.noise_for = stacks, before, noise_for

    def read(self, index: int) -> Tensor:
        now = torch.stack(self.stacks[index].locals)
        before = self.before[index]
        if now.dtype in LOW_PRECISION:  # a difference of bfloat16 weights has more bits than they
            return before.float().sub_(now)
        return torch.sub(before, now, out=now).float()

    def replace(self, index: int, x: Tensor) -> None:
        self._put(index, self._wide(self.before[index]) - x)

    def subtract(self, index: int, correction: Tensor) -> None:
        weights = self.stacks[index].locals
        if weights[0].dtype in LOW_PRECISION:
            self._put(index, correction.add_(torch.stack(weights)))
        else:
            torch._foreach_add_(weights, list(correction.to(weights[0].dtype).unbind()))

    def _put(self, index: int, values: Tensor) -> None:
        stack = self.stacks[index]
        weights = stack.locals
        if weights[0].dtype in LOW_PRECISION:
            noise = self.noise_for(stack.names[0], stack.offset, values.device)
            values = stochastic_round(values, weights[0].dtype, noise)
        torch._foreach_copy_(weights, list(values.unbind()))

    def _wide(self, weights: Tensor) -> Tensor:
        return weights.to(torch.promote_types(weights.dtype, torch.float32))


def snapshot(stacks: Sequence[Stack]) -> list[Tensor]:
    """Copies of the covered weights, in their own dtype: the extra memory of update space."""
    return [torch.stack(stack.locals) for stack in stacks]


def visited(stacks: Sequence[Stack]) -> int:
    """Number of covered parameters that have a gradient.

    Raises:
        TypeError: one of them is sparse.
    """
    count = 0
    for stack in stacks:
        for name, parameter in zip(stack.names, stack.parameters, strict=True):
            if (grad := parameter.grad) is None:
                continue
            if grad.layout is not torch.strided:
                raise TypeError(
                    f"{name} has a sparse gradient ({grad.layout}), which has no projection on a dense subspace; "
                    "build the layer with sparse=False or leave it out of the direction"
                )
            count += 1
    return count


def project(
    stacks: Sequence[Stack],
    quantity: Quantity,
    options: ProjectionOptions,
    projected: int,
    pending: Pending | None = None,
    route: Route | None = None,
) -> StepReport:
    """Project all stacks' `x` in place, or only measure it.

    Args:
        stacks: the stacks.
        quantity: what to project.
        options: gate, mode, overshoot and preserve_norm.
        projected: number of parameters visited, for the report.
        pending: the previous report's, to be reduced along with this step's sums.
        route: called with each stack and what is about to be taken off its `x`.
    """
    sharded = any(stack.group is not None for stack in stacks)
    riding = pending.for_stacks(stacks) if pending else None
    measured, late = reduce_over_shards(stacks, [measure(s, quantity.read(i)) for i, s in enumerate(stacks)], riding)
    removed, left = [], []
    for index, (stack, found) in enumerate(zip(stacks, measured, strict=True) if options.erase else ()):
        used = gated(found.coefficients, options.gate)
        if options.overshoot != 1.0:
            used = used * options.overshoot
        # The rows are orthonormal: the norm of what the coefficients decode to is theirs.
        taken = used
        if options.mode == "shrink":
            kept = shrink_factor(found.square, _square_after(found, used))
            taken = (1 - kept) * found.square.sqrt()
            quantity.replace(index, _scaled(quantity.read(index), kept))
        elif options.preserve_norm:
            scale = rescale_factor(found.square, _square_after(found, used))
            quantity.replace(index, _scaled(quantity.read(index).sub_(stack.products.decode(used)), scale))
        else:
            correction = stack.products.decode(used)
            if route is not None:
                route(stack, correction)
            quantity.subtract(index, correction)
            del correction  # before the next reading takes as much
        removed.append(taken)
        left.append(measure(stack, quantity.read(index), chart_too=False))
    seen = (left if options.erase else measured) if not (sharded and options.erase) else late
    before = sums_before(stacks, measured, removed)
    after = sums_after(seen, options.gate) if seen else torch.zeros_like(before[:3])
    return StepReport(before, after, projected, Pending(stacks, left) if sharded and left else None)


def _square_after(found: Measured, used: Tensor) -> Tensor:
    """Squared norms of what is left when the rows' combination `used` is taken off."""
    return (found.square + (used * (used - 2 * found.coefficients)).sum(-1)).clamp_min(0)


def _scaled(x: Tensor, factor: Tensor) -> Tensor:
    return x.mul_(factor.reshape(-1, *[1] * (x.ndim - 1)))


def remove_from_state(stacks: Sequence[Stack], state: Mapping[Any, Mapping[str, Any]]) -> None:
    """Take the subspaces' components out of the optimizer's first-moment buffers.

    Warns:
        UserWarning: buffers in 8 bits or of another shape than the weight, which are left as they are.
    """
    unlike = False
    for stack in stacks:
        for key in FIRST_MOMENTS:
            buffers = [state.get(parameter, {}).get(key) for parameter in stack.parameters]
            found = [local(buffer) if isinstance(buffer, Tensor) else None for buffer in buffers]
            moments = [
                moment if moment is not None and _is_like(moment, weight) else None
                for moment, weight in zip(found, stack.locals, strict=True)
            ]
            unlike |= sum(moment is not None for moment in found) > sum(moment is not None for moment in moments)
            # By what is there and not by what can be purged: all processes that hold shards have to reduce alike.
            if all(moment is None for moment in found):
                continue
            x = torch.stack(
                [
                    torch.zeros_like(weight, dtype=torch.float32) if moment is None else moment.float()
                    for moment, weight in zip(moments, stack.locals, strict=True)
                ]
            )
            (measured,), _ = reduce_over_shards([stack], [measure(stack, x)])
            for moment, value in zip(moments, x.sub_(stack.products.decode(measured.coefficients)), strict=True):
                if moment is not None:
                    moment.copy_(value)
    if unlike:
        warnings.warn(
            "the optimizer keeps first moments that cannot be purged: in 8 bits, or of another shape than the weight (low "
            'rank). They carry the old direction\'s steps on for a while. space="update" removes what they do in the new '
            "subspace anyway; in gradient space, make a new optimizer, or pass purge_state=False to accept it",
            stacklevel=4,
        )


def _is_like(moment: Tensor, weight: Tensor) -> bool:
    """Whether a buffer holds one number for each of the weight's, in a type that takes a correction."""
    return moment.is_floating_point() and moment.shape == weight.shape

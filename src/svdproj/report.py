"""What one projected step did, as sums on the device until somebody asks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from svdproj.measure import Measured
from svdproj.plan import Stack
from svdproj.projection import Gate, guarded

METRICS = (
    "svdproj/cos_in",
    "svdproj/cos_out",
    "svdproj/removed",
    "svdproj/null_cos",
    "svdproj/chart_null_cos",
    "svdproj/residual",
    "svdproj/projected",
)


@dataclass(frozen=True, eq=False)
class Pending:
    """With sharded parameters: partial sums measured after a projection, which ride on the next step's reduction.

    Args:
        stacks: the stacks that were measured; with others the sums are dropped.
        measured: one for each stack.
    """

    stacks: Sequence[Stack]
    measured: Sequence[Measured]

    def for_stacks(self, stacks: Sequence[Stack]) -> Sequence[Measured] | None:
        """The partial sums, if these are the stacks that they were measured on."""
        # By subspace: masters come in stacks made for each step, around the same subspaces.
        same = [stack.subspace for stack in self.stacks] == [stack.subspace for stack in stacks]
        return self.measured if same else None


@dataclass(frozen=True, eq=False)
class StepReport:
    """Sums over the visited parameters.

    Args:
        before: squared norms of the hack-ward part, of `x`, of what was removed, and the two nulls' expected squares.
        after: squared norms of the hack-ward part, of what the gate should have removed, and of the result.
        projected: number of parameters visited.
        pending: with sharded parameters, what the next step's report will show as `after`.
    """

    before: Float[Tensor, "5"]
    after: Float[Tensor, "3"]
    projected: int
    pending: Pending | None = None

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


def sums_before(stacks: Sequence[Stack], measured: Sequence[Measured], removed: Sequence[Tensor]) -> Float[Tensor, "5"]:
    """`StepReport.before`: a handful of small operations, however many stacks there are.

    Args:
        stacks: the stacks.
        measured: one for each stack.
        removed: for each stack, values whose squares add up to what was removed; or none at all.
    """
    square = _joined(found.square for found in measured)
    inside = _joined(found.in_chart for found in measured if found.in_chart is not None)
    return torch.stack(
        [
            _joined(found.coefficients for found in measured).relu().square().sum(),
            square.sum(),
            _joined(removed).square().sum() if removed else torch.zeros_like(square[0]),
            (square * _joined(stack.null for stack in stacks)).sum(),
            (inside * _joined(stack.chart_null for stack in stacks)).sum(),
        ]
    )


def sums_after(measured: Sequence[Measured], gate: Gate) -> Float[Tensor, "3"]:
    """`StepReport.after`."""
    coefficients = _joined(found.coefficients for found in measured)
    return torch.stack(
        [
            coefficients.relu().square().sum(),
            guarded(coefficients, gate).square().sum(),
            _joined(found.square for found in measured).sum(),
        ]
    )


def _joined(tensors: Iterable[Tensor]) -> Tensor:
    """One flat tensor, on the first one's device (a model may be spread over several)."""
    flat = [tensor.flatten() for tensor in tensors]
    return torch.cat([tensor.to(flat[0].device) for tensor in flat])


def _root_share(part: float, whole: float) -> float:
    # Not "if whole > 0": a step that is not a number would pass for one that has nothing hack-ward in it.
    return 0.0 if whole == 0 else float((max(part, 0.0) / whole) ** 0.5)

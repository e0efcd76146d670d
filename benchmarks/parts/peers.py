"""What people write today in place of a wrapper, on the same charts: loops around `step()` and gradient hooks.

Each removes the hack-ward part of a gradient or of a displacement with the same bases and rows; none reports anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

Bases = tuple[Tensor, Tensor, Tensor]


def bases_of(direction: Any, device: str) -> dict[str, Bases]:
    """Left basis, right basis and rows for each parameter."""
    moved = {name: subspace.to(device) for name, subspace in direction.subspaces.items()}
    return {name: (s.chart.left, s.chart.right, s.rows) for name, s in moved.items()}


def hackward(x: Tensor, bases: Bases) -> Tensor:
    """The hack-ward part of `x`."""
    left, right, rows = bases
    coefficients = rows @ (left.mT @ x @ right).flatten()
    return left @ (rows.mT @ coefficients.relu()).view(left.shape[1], right.shape[1]) @ right.mT


@torch.no_grad()
def loop_over_gradients(parameters: Mapping[str, nn.Parameter], bases: Mapping[str, Bases]) -> None:
    """The ten-line loop over `p.grad`, before `step()`."""
    for name, parameter in parameters.items():
        if parameter.grad is not None:
            parameter.grad.sub_(hackward(parameter.grad, bases[name]))


@torch.no_grad()
def loop_around_step(parameters: Mapping[str, nn.Parameter], bases: Mapping[str, Bases], optimizer: Optimizer) -> None:
    """The same loop on displacements: copies before `step()`, corrections after it."""
    before = {name: parameter.clone() for name, parameter in parameters.items()}
    optimizer.step()
    for name, parameter in parameters.items():
        parameter.add_(hackward(before[name] - parameter, bases[name]))


def gradient_hooks(parameters: Mapping[str, nn.Parameter], bases: Mapping[str, Bases]) -> list[RemovableHandle]:
    """One hook to a parameter, as PEFT's OSF has them: projected in the backward pass, once for each micro-batch."""

    def hook_for(name: str) -> Callable[[Tensor], Tensor]:
        return lambda grad: grad - hackward(grad, bases[name])

    return [parameter.register_hook(hook_for(name)) for name, parameter in parameters.items()]

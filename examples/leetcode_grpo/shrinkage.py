"""A control: every step loses the length that the projection would have cost it, and keeps its direction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from svdproj import HackDirection, ProjectedOptimizer, Subspace
from svdproj.names import canonical_name
from svdproj.precision import full_float32


class ShrunkenOptimizer(ProjectedOptimizer):
    """Measures what a one-sided projection of the update would leave of each parameter's step, and scales the step to that length.

    If projecting helps because it takes smaller steps, this control helps as much. The arguments are those of
    `ProjectedOptimizer`; `mode` is always `"measure"`, and `svdproj/removed` is the share of the step's norm that was scaled away.
    """

    def __init__(self, optimizer: Optimizer, direction: HackDirection, model: nn.Module, **projection: Any) -> None:
        super().__init__(optimizer, direction, model, **{**projection, "mode": "measure"})
        self._model = model
        self._moved: dict[str, Subspace] = {}
        self._lost: Tensor | None = None
        self._length: Tensor | None = None

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One step of the inner optimizer, scaled parameter by parameter."""
        covered = [
            (parameter, self._subspace(canonical_name(name), parameter))
            for name, parameter in self._model.named_parameters()
            if canonical_name(name) in self.direction.subspaces
        ]
        before = [parameter.detach().clone() for parameter, _ in covered]
        loss = super().step(closure)
        lost, length = [], []
        with torch.no_grad():
            for (parameter, subspace), start in zip(covered, before, strict=True):
                change = parameter - start
                square = change.float().square().sum()
                with full_float32(parameter.device.type):
                    hackward = subspace.coefficients(-change.float()).relu().square().sum()
                kept = (1 - hackward / square.clamp_min(torch.finfo(torch.float32).tiny)).clamp_min(0).sqrt()
                parameter.copy_(start + kept.to(change.dtype) * change)
                lost.append((1 - kept).square() * square)
                length.append(square)
        self._lost, self._length = torch.stack(lost).sum(), torch.stack(length).sum()
        return loss

    def _subspace(self, name: str, parameter: Tensor) -> Subspace:
        """The parameter's subspace, moved to its device once."""
        if name not in self._moved:
            self._moved[name] = self.direction.subspaces[name].to(parameter.device)
        return self._moved[name]

    def metrics(self) -> dict[str, float]:
        """As `ProjectedOptimizer.metrics`, with the share that was scaled away under `svdproj/removed`."""
        metrics = super().metrics()
        if self._lost is not None and self._length is not None and (length := self._length.item()) > 0:
            metrics["svdproj/removed"] = (self._lost.item() / length) ** 0.5
        return metrics

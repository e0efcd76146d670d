"""Routing on full weights: what the projection removes goes to a quarantine, which the deployed policy goes without.

The model computes with the sum of the kept weights and the quarantine; around each step the two are told apart. So nothing in the
model, its checkpoints or its sampler knows about the quarantine. In update space and without weight decay, the sum moves as it would
without any projection.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from svdproj import HackDirection, ProjectedOptimizer
from svdproj.names import canonical_name

_KEY = "svdproj_quarantine"


class QuarantinedOptimizer(ProjectedOptimizer):
    """A `ProjectedOptimizer` in the mode `"route"`, for a model whose weights hold the quarantine too.

    Args:
        optimizer: the optimizer to wrap.
        direction: what is routed.
        model: the model; its covered weights.
        seeded: what `plant` puts into the quarantine, by canonical parameter name; None for nothing.
        **projection: options of `ProjectedOptimizer`, but `mode`.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        direction: HackDirection,
        model: nn.Module,
        seeded: Mapping[str, Tensor] | None = None,
        **projection: Any,
    ) -> None:
        self._covered = {
            canonical_name(name): parameter
            for name, parameter in model.named_parameters()
            if canonical_name(name) in direction.subspaces
        }
        self.quarantine = {name: torch.zeros_like(parameter) for name, parameter in self._covered.items()}
        super().__init__(optimizer, direction, model, **{**projection, "mode": "route", "quarantine": self.quarantine})
        self._seeded = seeded or {}

    @torch.no_grad()
    def plant(self) -> None:
        """Fill the quarantine with its seed, and add it to the weights. Once, where training begins.

        Not on construction: a resumed run's weights, loaded before it, hold the quarantine already.
        """
        for name, tensor in self._seeded.items():
            self.quarantine[name].copy_(tensor)
        self._attach(1)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One step of the kept weights and of the quarantine; gradients are those at their sum."""
        self._attach(-1)
        try:
            return super().step(closure)
        finally:
            self._attach(1)

    @contextmanager
    def ablated(self) -> Iterator[None]:
        """The model without its quarantine: what is deployed."""
        self._attach(-1)
        try:
            yield
        finally:
            self._attach(1)

    @torch.no_grad()
    def _attach(self, sign: int) -> None:
        for name, parameter in self._covered.items():
            parameter.add_(self.quarantine[name], alpha=sign)

    def state_dict(self) -> dict[str, Any]:
        """As `ProjectedOptimizer`'s, with the quarantine."""
        return {**super().state_dict(), _KEY: {name: tensor.clone() for name, tensor in self.quarantine.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:  # type: ignore[override]
        """Take over a state with its quarantine. The model's weights, loaded before, hold it already."""
        state_dict = dict(state_dict)
        with torch.no_grad():
            for name, tensor in state_dict.pop(_KEY).items():
                self.quarantine[name].copy_(tensor)
        super().load_state_dict(state_dict)


def hackward_seed(direction: HackDirection, nats: float) -> dict[str, Tensor]:
    """A displacement of the weights that makes the pairs' hacks more likely: what `absorb` puts into the quarantine.

    The rows with their singular values stand for the pairs' mean difference `D̄`: a step of `-nats · D̄ / ‖D̄‖²` lowers, to first
    order, the loss of hacks relative to that of clean completions by `nats`.

    Args:
        direction: fitted on the pairs.
        nats: per token of a completion, with `loss="mean"`.
    """
    n = max(direction.metadata.n_pairs or 1, 1)
    # Oriented rows: a pair's coefficient on row j is about sigma_j / sqrt(n), for every pair with the same sign.
    means = {name: s.decode(s.singular_values / n**0.5) for name, s in direction.subspaces.items()}
    square = sum(float(mean.float().square().sum()) for mean in means.values())
    return {name: mean * (-nats / square) for name, mean in means.items()}

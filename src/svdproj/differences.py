"""Gradients of a batch of samples for one parameter, held in whichever form is cheapest to work with."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from svdproj.charts import BilinearChart, Chart, DiagonalChart


@runtime_checkable
class Differences(Protocol):
    """`Dᵢ = ∇NLL(hackᵢ) - ∇NLL(cleanᵢ)` for the pairs of one batch and one parameter; or one completion's gradient."""

    def moments(
        self, left: Float[Tensor, "out s"], right: Float[Tensor, "in s2"]
    ) -> tuple[Float[Tensor, "out s"], Float[Tensor, "in s2"]]:
        """`Σ DᵢDᵢᵀ left` and `Σ DᵢᵀDᵢ right`."""

    def encode(self, chart: Chart) -> Float[Tensor, "pairs m"]:
        """Each difference in a chart's coordinates."""

    def squared_norms(self) -> Float[Tensor, "pairs"]:
        """`‖Dᵢ‖²`."""


@dataclass(frozen=True, eq=False)
class ExplicitDifferences:
    """Differences as full tensors."""

    tensors: Float[Tensor, "pairs *shape"]

    def moments(
        self, left: Float[Tensor, "out s"], right: Float[Tensor, "in s2"]
    ) -> tuple[Float[Tensor, "out s"], Float[Tensor, "in s2"]]:
        tall = rearrange(self.tensors, "pairs o i -> (pairs o) i")
        return (self.tensors @ (self.tensors.mT @ left)).sum(0), tall.mT @ (tall @ right)

    def encode(self, chart: Chart) -> Float[Tensor, "pairs m"]:
        return chart.encode(self.tensors)

    def squared_norms(self) -> Float[Tensor, "pairs"]:
        return self.tensors.flatten(1).square().sum(-1)


@dataclass(frozen=True, eq=False)
class FactoredDifferences:
    """Differences of a linear layer as sums over tokens, `Dᵢ = Σₜ δₜ xₜᵀ`, which have at most as much rank as there are
    tokens.

    Each question is answered from the factors or from the full tensors, whichever takes fewer multiplications.

    Args:
        outer: gradients at the layer's output, already signed (plus for hack, minus for clean).
        inner: the layer's inputs.
    """

    outer: Float[Tensor, "pairs tokens out"]
    inner: Float[Tensor, "pairs tokens in"]

    def moments(
        self, left: Float[Tensor, "out s"], right: Float[Tensor, "in s2"]
    ) -> tuple[Float[Tensor, "out s"], Float[Tensor, "in s2"]]:
        tokens, out, in_ = self._sizes
        columns = left.shape[1] + right.shape[1]
        if tokens * out * in_ + 2 * columns * out * in_ < 2 * tokens * columns * (out + in_):
            return self.explicit.moments(left, right)
        transposed = self.inner.mT @ (self.outer @ left)
        direct = self.outer.mT @ (self.inner @ right)
        flat_outer, flat_inner = self.outer.flatten(0, 1), self.inner.flatten(0, 1)
        return (
            flat_outer.mT @ (self.inner @ transposed).flatten(0, 1),
            flat_inner.mT @ (self.outer @ direct).flatten(0, 1),
        )

    def encode(self, chart: Chart) -> Float[Tensor, "pairs m"]:
        if isinstance(chart, BilinearChart) and not self._norms_form_tensors:
            core = (self.outer @ chart.left).mT @ (self.inner @ chart.right)
            return rearrange(core, "pairs p q -> pairs (p q)")
        if isinstance(chart, DiagonalChart) and not self._norms_form_tensors:
            return ((self.outer @ chart.u) * (self.inner @ chart.v)).sum(1)
        return self.explicit.encode(chart)

    def squared_norms(self) -> Float[Tensor, "pairs"]:
        if self._norms_form_tensors:
            return self.explicit.squared_norms()
        return ((self.outer @ self.outer.mT) * (self.inner @ self.inner.mT)).sum((1, 2)).clamp_min(0)

    @cached_property
    def explicit(self) -> ExplicitDifferences:
        """The same as full tensors."""
        return ExplicitDifferences(self.outer.mT @ self.inner)

    @property
    def _sizes(self) -> tuple[int, int, int]:
        return self.outer.shape[1], self.outer.shape[2], self.inner.shape[2]

    @property
    def _norms_form_tensors(self) -> bool:
        """Whether norms are cheaper from the full tensors than from the tokens' Gram matrices; coordinates then are."""
        tokens, out, in_ = self._sizes
        return tokens * (out + in_) >= out * in_

"""Gradient differences of a batch of pairs for one parameter, held in whichever form is cheapest to work with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor

from svdproj.charts import BilinearChart, Chart, DiagonalChart


@runtime_checkable
class Differences(Protocol):
    """`Dᵢ = ∇NLL(hackᵢ) - ∇NLL(cleanᵢ)` for the pairs of one batch and one parameter."""

    def left_moment(self, test: Float[Tensor, "out s"]) -> Float[Tensor, "out s"]:
        """`Σ DᵢDᵢᵀ Ω`."""

    def right_moment(self, test: Float[Tensor, "in s"]) -> Float[Tensor, "in s"]:
        """`Σ DᵢᵀDᵢ Ω`."""

    def encode(self, chart: Chart) -> Float[Tensor, "pairs m"]:
        """Each difference in a chart's coordinates."""

    def squared_norms(self) -> Float[Tensor, "pairs"]:
        """`‖Dᵢ‖²`."""


@dataclass(frozen=True, eq=False)
class ExplicitDifferences:
    """Differences as full tensors."""

    tensors: Float[Tensor, "pairs *shape"]

    def left_moment(self, test: Float[Tensor, "out s"]) -> Float[Tensor, "out s"]:
        return (self.tensors @ (self.tensors.mT @ test)).sum(0)

    def right_moment(self, test: Float[Tensor, "in s"]) -> Float[Tensor, "in s"]:
        return (self.tensors.mT @ (self.tensors @ test)).sum(0)

    def encode(self, chart: Chart) -> Float[Tensor, "pairs m"]:
        return chart.encode(self.tensors)

    def squared_norms(self) -> Float[Tensor, "pairs"]:
        return self.tensors.flatten(1).square().sum(-1)


@dataclass(frozen=True, eq=False)
class FactoredDifferences:
    """Differences of a linear layer as sums over tokens, `Dᵢ = Σₜ δₜ xₜᵀ`, which have at most as much rank as there are
    tokens.

    Args:
        outer: gradients at the layer's output, already signed (plus for hack, minus for clean).
        inner: the layer's inputs.
    """

    outer: Float[Tensor, "pairs tokens out"]
    inner: Float[Tensor, "pairs tokens in"]

    def left_moment(self, test: Float[Tensor, "out s"]) -> Float[Tensor, "out s"]:
        transposed = self.inner.mT @ (self.outer @ test)
        return (self.outer.mT @ (self.inner @ transposed)).sum(0)

    def right_moment(self, test: Float[Tensor, "in s"]) -> Float[Tensor, "in s"]:
        direct = self.outer.mT @ (self.inner @ test)
        return (self.inner.mT @ (self.outer @ direct)).sum(0)

    def encode(self, chart: Chart) -> Float[Tensor, "pairs m"]:
        if isinstance(chart, BilinearChart):
            core = (self.outer @ chart.left).mT @ (self.inner @ chart.right)
            return rearrange(core, "pairs p q -> pairs (p q)")
        if isinstance(chart, DiagonalChart):
            return ((self.outer @ chart.u) * (self.inner @ chart.v)).sum(1)
        return self.explicit().encode(chart)

    def squared_norms(self) -> Float[Tensor, "pairs"]:
        return ((self.outer @ self.outer.mT) * (self.inner @ self.inner.mT)).sum((1, 2)).clamp_min(0)

    def explicit(self) -> ExplicitDifferences:
        """The same as full tensors."""
        return ExplicitDifferences(einsum(self.outer, self.inner, "pairs t o, pairs t i -> pairs o i"))


def linear_differences(
    outer: Float[Tensor, "pairs tokens out"], inner: Float[Tensor, "pairs tokens in"]
) -> FactoredDifferences | ExplicitDifferences:
    """Factored where the tokens are few beside the weight's size, explicit where forming the tensors is cheaper."""
    tokens, out, in_ = outer.shape[1], outer.shape[2], inner.shape[2]
    factored = FactoredDifferences(outer, inner)
    return factored if tokens * (out + in_) < out * in_ else factored.explicit()

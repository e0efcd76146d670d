"""The products of a stacked subspace, issued in as few operations as possible: a step is bound by the host that issues them."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from svdproj.charts import BilinearChart
from svdproj.subspace import Subspace


@runtime_checkable
class Products(Protocol):
    """What a step asks of a stack's subspaces."""

    def encode(self, x: Float[Tensor, "stack *shape"]) -> Float[Tensor, "stack m"]:
        """Coordinates in the charts."""

    def coefficients(self, coordinates: Float[Tensor, "stack m"]) -> Float[Tensor, "stack k"]:
        """Inner products with the rows."""

    def decode(self, coefficients: Float[Tensor, "stack k"]) -> Float[Tensor, "stack *shape"]:
        """The rows' combinations, as tensors of the parameters' shape."""


class ChartProducts:
    """By the chart's own methods; right for every chart."""

    def __init__(self, subspace: Subspace) -> None:
        self.chart, self.rows = subspace.chart, subspace.rows

    def encode(self, x: Float[Tensor, "stack *shape"]) -> Float[Tensor, "stack m"]:
        return self.chart.encode(x)

    def coefficients(self, coordinates: Float[Tensor, "stack m"]) -> Float[Tensor, "stack k"]:
        return torch.bmm(self.rows, coordinates.unsqueeze(-1)).squeeze(-1)

    def decode(self, coefficients: Float[Tensor, "stack k"]) -> Float[Tensor, "stack *shape"]:
        return self.chart.decode(torch.bmm(coefficients.unsqueeze(-2), self.rows).squeeze(-2))


class BilinearProducts:
    """The same as bare `bmm` calls: `matmul`, which broadcasts, makes seven views for each product."""

    def __init__(self, subspace: Subspace) -> None:
        chart = subspace.chart
        assert isinstance(chart, BilinearChart)
        self.left, self.right, self.rows = chart.left, chart.right, subspace.rows
        self.left_t, self.right_t = chart.left.mT, chart.right.mT
        stack, self.p, self.q = self.left.shape[0], self.left.shape[-1], self.right.shape[-1]
        self.flat, self.core = (stack, self.p * self.q), (stack, self.p, self.q)
        # As in the chart: the longer side is contracted first, and expanded last.
        self.tall = self.left.shape[-2] >= self.right.shape[-2]

    def encode(self, x: Float[Tensor, "stack out in"]) -> Float[Tensor, "stack m"]:
        if self.tall:
            return torch.bmm(torch.bmm(self.left_t, x), self.right).view(self.flat)
        return torch.bmm(self.left_t, torch.bmm(x, self.right)).view(self.flat)

    def coefficients(self, coordinates: Float[Tensor, "stack m"]) -> Float[Tensor, "stack k"]:
        return torch.bmm(self.rows, coordinates.unsqueeze(-1)).squeeze(-1)

    def decode(self, coefficients: Float[Tensor, "stack k"]) -> Float[Tensor, "stack out in"]:
        core = torch.bmm(coefficients.unsqueeze(-2), self.rows).view(self.core)
        if self.tall:
            return torch.bmm(self.left, torch.bmm(core, self.right_t))
        return torch.bmm(torch.bmm(self.left, core), self.right_t)


def products_of(subspace: Subspace) -> Products:
    """The quickest right way for a stacked subspace."""
    if isinstance(subspace.chart, BilinearChart):
        return BilinearProducts(subspace)
    return ChartProducts(subspace)

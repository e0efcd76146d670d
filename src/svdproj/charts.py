"""Charts: coordinates on part of one parameter's gradient space.

A chart is a partial isometry. `encode` maps a gradient to `m` flat coordinates, `decode` maps coordinates back;
`encode(decode(c)) = c`, and `decode(encode(G))` is the orthogonal projection of `G` on the chart's span. Lengths and
angles of coordinates are therefore those of the decoded tensors.

Every tensor of a chart may carry leading dimensions, one chart per entry ("stacked"), so that all parameters of one
shape are worked on in one batched product.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import ClassVar, Protocol, runtime_checkable

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor


@runtime_checkable
class Chart(Protocol):
    """What every chart offers; all tensors are float32 unless the chart was moved to another dtype.

    Example:
        >>> isinstance(DenseChart((2, 3)), Chart)
        True
    """

    kind: ClassVar[str]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the parameter that the chart belongs to."""

    @property
    def size(self) -> int:
        """Number of coordinates, `m`."""

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The bases by name; empty for a chart without any.

        Example:
            >>> list(BilinearChart(torch.eye(4)[:, :2], torch.eye(3)).tensors)
            ['left', 'right']
        """

    def encode(self, gradient: Float[Tensor, "..."]) -> Float[Tensor, "*batch m"]:
        """Coordinates of a gradient, or of a batch of them.

        Example:
            >>> DenseChart((2, 2)).encode(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
            tensor([1., 2., 3., 4.])
        """

    def decode(self, coordinates: Float[Tensor, "*batch m"]) -> Float[Tensor, "..."]:
        """The tensor in the chart's span that has these coordinates.

        Example:
            >>> chart = BilinearChart(torch.eye(3)[:, :2], torch.eye(2)[:, :1])
            >>> chart.decode(torch.tensor([5.0, 7.0]))
            tensor([[5., 0.],
                    [7., 0.],
                    [0., 0.]])
        """

    def with_tensors(self, tensors: dict[str, Tensor]) -> Chart:
        """The same kind of chart on other bases.

        Raises:
            KeyError: a basis is missing; a dense chart, which has none, raises a `ValueError` for any.

        Example:
            >>> chart = DiagonalChart(u=torch.eye(4), v=torch.eye(4))
            >>> chart.with_tensors({"u": torch.eye(4)[:, :2], "v": torch.eye(4)[:, :2]}).size
            2
        """

    def narrow(self, dim: int, start: int, length: int) -> Chart:
        """The chart of rows `start : start + length` of the parameter's dimension `dim`, for one shard of it.

        The shard's coordinates are partial sums: those of all shards add up to the whole parameter's.

        Args:
            dim: the dimension that is sharded.
            start: first row of the shard.
            length: number of its rows.

        Example:
            >>> chart = BilinearChart(torch.eye(4)[:, :2], torch.eye(3)[:, :2])
            >>> gradient = torch.arange(12.0).view(4, 3)
            >>> upper, lower = (chart.narrow(0, start, 2).encode(gradient[start : start + 2]) for start in (0, 2))
            >>> torch.equal(upper + lower, chart.encode(gradient))
            True
        """


@dataclass(frozen=True)
class DenseChart:
    """All of the gradient: coordinates are its entries.

    Use it for small tensors, such as adapters, norms and biases. With `narrow` only a slice of a larger parameter is
    kept.

    Args:
        shape: shape of the parameter.

    Example:
        >>> DenseChart((2, 3)).encode(torch.ones(2, 3)).shape
        torch.Size([6])
    """

    kind: ClassVar[str] = "dense"

    shape: tuple[int, ...]
    window: tuple[tuple[int, int, int], ...] = ()

    @property
    def size(self) -> int:
        return prod(self.shape)

    @property
    def tensors(self) -> dict[str, Tensor]:
        return {}

    def encode(self, gradient: Float[Tensor, "..."]) -> Float[Tensor, "*batch m"]:
        batch = gradient.shape[: gradient.ndim - len(self.shape)]
        if self.window:
            whole = gradient.new_zeros(*batch, *self.shape)
            self._view(whole).copy_(gradient)
            gradient = whole
        return gradient.reshape(*batch, self.size)

    def decode(self, coordinates: Float[Tensor, "*batch m"]) -> Float[Tensor, "..."]:
        return self._view(coordinates.reshape(*coordinates.shape[:-1], *self.shape))

    def with_tensors(self, tensors: dict[str, Tensor]) -> DenseChart:
        if tensors:
            raise ValueError(f"a dense chart has no bases, got {', '.join(tensors)}")
        return self

    def narrow(self, dim: int, start: int, length: int) -> DenseChart:
        return DenseChart(self.shape, (*self.window, (dim, start, length)))

    def _view(self, whole: Tensor) -> Tensor:
        for dim, start, length in self.window:
            whole = whole.narrow(dim - len(self.shape), start, length)
        return whole


@dataclass(frozen=True, eq=False)
class BilinearChart:
    """Coordinates `leftᵀ G right` of a weight gradient `G`.

    Use it for weight matrices: with bases taken from the pairs' own gradients, 64 x 64 coordinates keep most of what
    separates hack from clean, in a small fraction of the memory of the gradient itself.

    Args:
        left: orthonormal columns, basis of the output side.
        right: orthonormal columns, basis of the input side.

    Example:
        >>> chart = BilinearChart(left=torch.eye(6)[:, :2], right=torch.eye(5)[:, :3])
        >>> chart.encode(torch.ones(6, 5)).shape
        torch.Size([6])
        >>> chart.decode(torch.ones(6)).sum()
        tensor(6.)
    """

    kind: ClassVar[str] = "bilinear"

    left: Float[Tensor, "*stack out p"]
    right: Float[Tensor, "*stack in q"]

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.left.shape[-2], self.right.shape[-2])

    @property
    def size(self) -> int:
        return self.left.shape[-1] * self.right.shape[-1]

    @property
    def tensors(self) -> dict[str, Tensor]:
        return {"left": self.left, "right": self.right}

    def encode(self, gradient: Float[Tensor, "*batch out in"]) -> Float[Tensor, "*batch m"]:
        # The longer side is contracted first: the product that remains is the smaller one.
        out, in_ = self.shape
        if out >= in_:
            core = (self.left.mT @ gradient) @ self.right
        else:
            core = self.left.mT @ (gradient @ self.right)
        return rearrange(core, "... p q -> ... (p q)")

    def decode(self, coordinates: Float[Tensor, "*batch m"]) -> Float[Tensor, "*batch out in"]:
        core = rearrange(coordinates, "... (p q) -> ... p q", q=self.right.shape[-1])
        # The narrow side is expanded first, so that only one product has the parameter's size.
        out, in_ = self.shape
        if out >= in_:
            return self.left @ (core @ self.right.mT)
        return (self.left @ core) @ self.right.mT

    def with_tensors(self, tensors: dict[str, Tensor]) -> BilinearChart:
        return BilinearChart(tensors["left"], tensors["right"])

    def narrow(self, dim: int, start: int, length: int) -> BilinearChart:
        if dim == 0:
            return BilinearChart(self.left.narrow(-2, start, length), self.right)
        return BilinearChart(self.left, self.right.narrow(-2, start, length))


@dataclass(frozen=True, eq=False)
class DiagonalChart:
    """Coordinates `diag(Uᵀ G V)`: the singular-value coordinates of a weight `W = U diag(s) Vᵀ`.

    Use it where training itself moves singular values, as the SVD adapter does; there it is the natural gradient chart
    (`∂L/∂s = diag(Uᵀ ∂L/∂W V)`). For full-weight training it catches little: in the demo policy twice what a random chart of
    its size does, and a ninetieth of what bilinear charts of gradient bases do.

    Args:
        u: left singular vectors, orthonormal columns.
        v: right singular vectors, orthonormal columns.

    Example:
        >>> W = torch.diag(torch.tensor([3.0, 2.0]))
        >>> U, _, Vh = torch.linalg.svd(W)
        >>> DiagonalChart(U, Vh.mT).encode(W)
        tensor([3., 2.])
    """

    kind: ClassVar[str] = "diagonal"

    u: Float[Tensor, "*stack out r"]
    v: Float[Tensor, "*stack in r"]

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.u.shape[-2], self.v.shape[-2])

    @property
    def size(self) -> int:
        return self.u.shape[-1]

    @property
    def tensors(self) -> dict[str, Tensor]:
        return {"u": self.u, "v": self.v}

    def encode(self, gradient: Float[Tensor, "*batch out in"]) -> Float[Tensor, "*batch r"]:
        # Only the diagonal of Uᵀ G V is wanted: one product and a row-wise sum instead of two products.
        return ((self.u.mT @ gradient) * self.v.mT).sum(-1)

    def decode(self, coordinates: Float[Tensor, "*batch r"]) -> Float[Tensor, "*batch out in"]:
        return (self.u * rearrange(coordinates, "... r -> ... 1 r")) @ self.v.mT

    def with_tensors(self, tensors: dict[str, Tensor]) -> DiagonalChart:
        return DiagonalChart(tensors["u"], tensors["v"])

    def narrow(self, dim: int, start: int, length: int) -> DiagonalChart:
        if dim == 0:
            return DiagonalChart(self.u.narrow(-2, start, length), self.v)
        return DiagonalChart(self.u, self.v.narrow(-2, start, length))


CHART_KINDS: dict[str, type[DenseChart] | type[BilinearChart] | type[DiagonalChart]] = {
    chart.kind: chart for chart in (DenseChart, BilinearChart, DiagonalChart)
}


def stack_charts(charts: list[Chart]) -> Chart:
    """One chart whose bases carry a leading dimension with an entry per chart; all must have one kind and one shape."""
    first = charts[0]
    return first.with_tensors({name: torch.stack([chart.tensors[name] for chart in charts]) for name in first.tensors})

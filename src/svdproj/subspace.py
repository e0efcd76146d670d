"""A subspace of one parameter's gradient space: a few orthonormal rows in a chart."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from svdproj.charts import BilinearChart, Chart, stack_charts
from svdproj.nulls import random_frames
from svdproj.precision import full_float32


@dataclass(frozen=True, eq=False)
class Subspace:
    """`k` orthonormal rows in a chart's `m` coordinates, oriented so that a hack-ward gradient has positive
    coefficients.

    Args:
        chart: maps the parameter's gradient to coordinates.
        rows: orthonormal rows.
        singular_values: how strongly the pairs point along each row, in units of the gradient, descending.

    Example:
        >>> subspace = Subspace(DenseChart((2, 2)), rows=torch.eye(4)[:1], singular_values=torch.ones(1))
        >>> subspace.coefficients(torch.tensor([[5.0, 1.0], [2.0, 3.0]]))
        tensor([5.])
    """

    chart: Chart
    rows: Float[Tensor, "*stack k m"]
    singular_values: Float[Tensor, "*stack k"]

    def __post_init__(self) -> None:
        if self.rows.shape[-1] != self.chart.size:
            raise ValueError(
                f"rows have {self.rows.shape[-1]} coordinates, the chart of shape {self.chart.shape} "
                f"has {self.chart.size}"
            )

    @property
    def k(self) -> int:
        """Number of rows."""
        return self.rows.shape[-2]

    @property
    def nbytes(self) -> int:
        """Bytes of the rows and of the chart's bases."""
        return sum(tensor.nbytes for tensor in (self.rows, self.singular_values, *self.chart.tensors.values()))

    def coefficients(self, x: Float[Tensor, "..."]) -> Float[Tensor, "*batch k"]:
        """Inner products of the rows with a tensor of the parameter's shape, or with a batch of them.

        Example:
            >>> subspace = Subspace(DenseChart((3,)), rows=torch.eye(3)[:2], singular_values=torch.ones(2))
            >>> subspace.coefficients(torch.tensor([5.0, -1.0, 2.0]))
            tensor([ 5., -1.])
        """
        return self.coefficients_of(self.chart.encode(x))

    def coefficients_of(self, coordinates: Float[Tensor, "*batch m"]) -> Float[Tensor, "*batch k"]:
        """The same for a tensor that is already in the chart's coordinates.

        Example:
            >>> subspace = Subspace(DenseChart((2, 2)), rows=torch.eye(4)[3:], singular_values=torch.ones(1))
            >>> subspace.coefficients_of(torch.tensor([0.0, 0.0, 0.0, 7.0]))
            tensor([7.])
        """
        return einsum(self.rows, coordinates, "... k m, ... m -> ... k")

    def decode(self, coefficients: Float[Tensor, "*batch k"]) -> Float[Tensor, "..."]:
        """The combination of the rows with these coefficients, as a tensor of the parameter's shape.

        Example:
            >>> subspace = Subspace(DenseChart((2, 2)), rows=torch.eye(4)[:2], singular_values=torch.ones(2))
            >>> subspace.decode(torch.tensor([5.0, 7.0]))
            tensor([[5., 7.],
                    [0., 0.]])
        """
        return self.chart.decode(einsum(self.rows, coefficients, "... k m, ... k -> ... m"))

    def truncate(self, k: int) -> Subspace:
        """The first `k` rows.

        Example:
            >>> Subspace(DenseChart((3,)), rows=torch.eye(3), singular_values=torch.ones(3)).truncate(2).k
            2
        """
        return Subspace(self.chart, self.rows[..., :k, :], self.singular_values[..., :k])

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Subspace:
        """The subspace on another device or in another floating-point type.

        On the way from half precision to a wider type bases and rows are made orthonormal again, since rounding has cost
        them that: projecting would otherwise leave a hundredth of what it should remove. The nearest orthonormal rows are
        taken, by the polar decomposition (Higham, 1986, doi:10.1137/0907079).

        Example:
            >>> subspace = Subspace(DenseChart((3,)), rows=torch.eye(3)[:1], singular_values=torch.ones(1))
            >>> subspace.to(dtype=torch.float64).rows.dtype
            torch.float64
        """
        tensors = {name: _moved(tensor, device, dtype) for name, tensor in self.chart.tensors.items()}
        rows = _moved(self.rows.mT, device, dtype).mT.contiguous()
        return Subspace(self.chart.with_tensors(tensors), rows, self.singular_values.to(device, dtype))

    def narrow(self, dim: int, start: int, length: int) -> Subspace:
        """The subspace's part on a slice of the parameter; the coefficients of all slices add up to the whole one's.

        Args:
            dim: the dimension that is sliced.
            start: first index of the slice.
            length: number of its indices.

        Example:
            >>> subspace = Subspace(DenseChart((4,)), rows=torch.full((1, 4), 0.5), singular_values=torch.ones(1))
            >>> x = torch.tensor([1.0, 2.0, 3.0, 4.0])
            >>> subspace.narrow(0, 0, 1).coefficients(x[:1]) + subspace.narrow(0, 1, 3).coefficients(x[1:])
            tensor([5.])
        """
        return Subspace(self.chart.narrow(dim, start, length), self.rows, self.singular_values)

    def random_like(self, generator: torch.Generator) -> Subspace:
        """Rows of a uniformly random subspace of the same chart, as many; see `svdproj.nulls.random_frames`.

        Example:
            >>> subspace = Subspace(DenseChart((8,)), rows=torch.eye(8)[:2], singular_values=torch.ones(2))
            >>> random = subspace.random_like(torch.Generator().manual_seed(0))
            >>> random.rows.shape
            torch.Size([2, 8])
        """
        frames = random_frames(tuple(self.rows.mT.shape), generator, self.rows.device)
        return Subspace(self.chart, frames.mT.to(self.rows), self.singular_values)

    def overlap(self, other: Subspace) -> float:
        """`‖A Bᵀ‖_F² / min(k_a, k_b)` between the decoded rows: 1 when one span holds the other, 0 when they are
        orthogonal. Computed in float32, where the first one lies; rows in half precision count as the span that they round.

        Raises:
            ValueError: the subspaces belong to parameters of different shapes.

        Example:
            >>> first, second = (
            ...     Subspace(DenseChart((3,)), rows=torch.eye(3)[i : i + 2], singular_values=torch.ones(2))
            ...     for i in (0, 1)
            ... )
            >>> first.overlap(second)
            0.5
        """
        if self.chart.shape != other.chart.shape:
            raise ValueError(f"overlap of subspaces for different shapes: {self.chart.shape} and {other.chart.shape}")
        if not self.k or not other.k:
            return 0.0
        device = self.rows.device
        a, b = self.to(device, torch.float32), other.to(device, torch.float32)
        with full_float32(device.type):
            cosines = _cosines(a, b)
        # Rows that are orthonormal to rounding exceed 1 by rounding.
        return min(1.0, float(cosines.square().sum() / min(self.k, other.k)))


def _cosines(a: Subspace, b: Subspace) -> Float[Tensor, "k_a k_b"]:
    if isinstance(a.chart, BilinearChart) and isinstance(b.chart, BilinearChart):
        # From chart to chart through the products of their bases, without a tensor of the parameter's size.
        cores = rearrange(a.rows, "k (p q) -> k p q", q=a.chart.right.shape[-1])
        moved = (b.chart.left.mT @ a.chart.left) @ cores @ (a.chart.right.mT @ b.chart.right)
        return rearrange(moved, "k p q -> k (p q)") @ b.rows.mT
    # Row by row: k decoded rows of a large weight at once would not fit.
    return torch.stack([b.coefficients(a.chart.decode(row)) for row in a.rows])


def stack_subspaces(subspaces: list[Subspace]) -> Subspace:
    """Many subspaces of one shape as one, with a leading dimension; missing rows are zeros, which catch nothing."""
    k = max(subspace.k for subspace in subspaces)
    return Subspace(
        stack_charts([subspace.chart for subspace in subspaces]),
        torch.stack([pad(subspace.rows, (0, 0, 0, k - subspace.k)) for subspace in subspaces]),
        torch.stack([pad(subspace.singular_values, (0, k - subspace.k)) for subspace in subspaces]),
    )


def _moved(columns: Tensor, device: torch.device | str | None, dtype: torch.dtype | None) -> Tensor:
    moved = columns.to(device, dtype)
    if moved.dtype.itemsize <= columns.dtype.itemsize:
        return moved
    # The nearest orthonormal columns (polar decomposition).
    u, _, vh = torch.linalg.svd(moved, full_matrices=False)
    return u @ vh


def orthonormality_error(rows: Float[Tensor, "*stack k m"]) -> float:
    """Largest deviation of `rows rowsᵀ` from the identity."""
    rows = rows.float()
    gram = einsum(rows, rows, "... i m, ... j m -> ... i j")
    identity = rearrange(torch.eye(rows.shape[-2], device=rows.device), "i j -> i j")
    return float((gram - identity).abs().amax()) if rows.shape[-2] else 0.0

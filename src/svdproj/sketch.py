"""The leading eigenvectors of a sum of moments that is never formed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from svdproj.threads import few_threads

# Columns that a sketch keeps beyond the wanted rank; the usual advice for randomised range finders is 5 to 10, and
# spectra of gradients fall slowly.
OVERSAMPLING = 32
# Eigenvalues below this share of the largest are rounding.
_RELATIVE_EIGENVALUE = 1e-12
# Matrices worked on at once; bounds the float64 copies.
_AT_ONCE = 16


class SketchTests:
    """The random matrices that sketches multiply their moments with, one for each dimension.

    Args:
        rank: number of eigenvectors wanted.
        generator: source of the matrices, on the CPU, so that a fit does not depend on the device.
    """

    def __init__(self, rank: int, generator: torch.Generator) -> None:
        self.rank = rank
        self._generator = generator
        self._made: dict[tuple[int, str], Float[Tensor, "dim size"]] = {}

    def __call__(self, dim: int, device: torch.device | str = "cpu") -> Float[Tensor, "dim size"]:
        """Orthonormal columns: `rank + OVERSAMPLING` random ones, or the identity where the dimension is no larger."""
        key = (dim, str(device))
        if key not in self._made:
            size = min(dim, self.rank + OVERSAMPLING)
            gaussian = torch.randn(dim, size, generator=self._generator)
            test = torch.eye(dim) if size == dim else torch.linalg.qr(gaussian).Q
            self._made[key] = test.to(device)
        return self._made[key]


def leading_eigenvectors(
    test: Float[Tensor, "dim size"], products: Float[Tensor, "n dim size"], rank: int
) -> Float[Tensor, "n dim rank"]:
    """Orthonormal columns, approximately the leading eigenvectors of each of several moments `M = Σ DᵢDᵢᵀ`, in
    descending order.

    Single-pass Nyström approximation (Tropp, Yurtsever, Udell and Cevher, "Fixed-rank approximation of a
    positive-semidefinite matrix from streaming data", 2017, algorithm 3), which needs `M` times one random matrix
    alone. Exact when the dimension does not exceed the sketch's size or the rank of `M` does not. Where `M` has fewer
    eigenvectors than asked for, arbitrary orthonormal columns fill up the rest.

    Args:
        test: the random matrix `Ω`, orthonormal columns.
        products: `M Ω` for each moment.
        rank: number of columns, at most the sketch's size.
    """
    return torch.cat([_nystrom(test, part, rank) for part in products.split(_AT_ONCE)])


def leading_eigenvectors_by_shape(
    tests: Sequence[Float[Tensor, "..."]], products: Sequence[Float[Tensor, "..."]], rank: int
) -> Iterator[tuple[int, Float[Tensor, "dim rank"]]]:
    """The same for moments of different dimensions: index and basis, moments of one dimension together."""
    alike: dict[tuple[int, str], list[int]] = {}
    for i, product in enumerate(products):
        alike.setdefault((product.shape[0], str(product.device)), []).append(i)
    for indices in alike.values():
        test = tests[indices[0]]
        stacked = torch.stack([products[i] for i in indices])
        yield from zip(indices, leading_eigenvectors(test, stacked, min(rank, test.shape[0])), strict=True)


def orthonormal_columns(columns: Float[Tensor, "*stack dim r"]) -> Float[Tensor, "*stack dim r"]:
    """Gram-Schmidt, in batched products where the columns are independent; arbitrary columns take the place of others.

    The span of the first `j` columns is kept for every `j`, and so are signs.
    """
    normed = columns / columns.norm(dim=-2, keepdim=True).clamp_min(torch.finfo(columns.dtype).tiny)
    # Cholesky twice is as good as Householder for all but nearly dependent columns, and far faster in batches.
    for _ in range(2):
        factor, failed = torch.linalg.cholesky_ex(normed.mT @ normed)
        diagonal = factor.diagonal(dim1=-2, dim2=-1)
        if bool(failed.any()) or not bool((diagonal > 1e-6).all()):
            q, r = torch.linalg.qr(columns)
            signs = r.diagonal(dim1=-2, dim2=-1).sign()
            orthonormal: Tensor = q * torch.where(signs == 0, torch.ones_like(signs), signs)[..., None, :]
            return orthonormal
        normed = torch.linalg.solve_triangular(factor.mT, normed, upper=True, left=False)
    return normed


def eigh(symmetric: Float[Tensor, "*stack n n"]) -> tuple[Float[Tensor, "*stack n"], Float[Tensor, "*stack n n"]]:
    """`torch.linalg.eigh` on the CPU, where small matrices are faster than on an accelerator, and back."""
    with few_threads():
        values, vectors = torch.linalg.eigh(((symmetric + symmetric.mT) / 2).cpu())
    return values.to(symmetric.device), vectors.to(symmetric.device)


def double(tensor: Tensor) -> Tensor:
    """In float64, on the tensor's device where it has that type, on the CPU where not."""
    return tensor.double() if tensor.device.type in ("cpu", "cuda") else tensor.cpu().double()


def _nystrom(test: Tensor, products: Tensor, rank: int) -> Tensor:
    test, product = double(test), double(products)
    # A small shift keeps the inverse root tame where M has a null space.
    product = product + 1e-10 * product.norm(dim=(-2, -1), keepdim=True) * test
    # M ≈ Y (ΩᵀY)⁺ Yᵀ; the inverse root by eigenvalues, since rounding may have made some of them negative.
    eigenvalues, vectors = eigh(test.mT @ product)
    root = product @ (vectors * _inverse_root(eigenvalues)[..., None, :])
    # Its left singular vectors, by the small Gram matrix.
    strengths, rotation = eigh(root.mT @ root)
    leading = (rotation * _inverse_root(strengths)[..., None, :]).flip(-1)[..., :rank]
    return orthonormal_columns(root @ leading).float().to(products.device)


def _inverse_root(eigenvalues: Float[Tensor, "*stack n"]) -> Float[Tensor, "*stack n"]:
    floor = (eigenvalues[..., -1:] * _RELATIVE_EIGENVALUE).clamp_min(torch.finfo(eigenvalues.dtype).tiny)
    return torch.where(eigenvalues > floor, eigenvalues.clamp_min(floor).rsqrt(), 0.0)

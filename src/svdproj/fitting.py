"""From gradients of pairs to bases and rows: linear algebra on tensors, without a model in sight."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from svdproj.subspace import Subspace

# Columns that a sketch keeps beyond the wanted rank; the usual advice for randomised range finders is 5 to 10, and
# spectra of gradients fall slowly.
OVERSAMPLING = 32
# Singular values below this share of the largest are rounding noise of float32 gradients.
_RELATIVE_RANK = 1e-6


class MomentSketch:
    """Finds the top eigenvectors of a sum of moments `M = Σ DᵢDᵢᵀ` from its products with one random matrix.

    Single-pass Nyström approximation (Tropp, Yurtsever, Udell and Cevher, "Fixed-rank approximation of a
    positive-semidefinite matrix from streaming data", 2017, algorithm 3): only `M Ω` is accumulated. Exact when the
    dimension does not exceed the sketch's size or the rank of `M` does not.

    Args:
        dim: dimension of `M`.
        rank: number of eigenvectors wanted.
        generator: source of the random matrix, on the CPU, so that a fit does not depend on the device.
        device: where to accumulate.
    """

    def __init__(self, dim: int, rank: int, generator: torch.Generator, device: torch.device | str = "cpu") -> None:
        size = min(dim, rank + OVERSAMPLING)
        if size == dim:
            test = torch.eye(dim)
        else:
            test = torch.linalg.qr(torch.randn(dim, size, generator=generator)).Q
        self.rank = min(rank, dim)
        self.test: Float[Tensor, "dim size"] = test.to(device)
        self.product: Float[Tensor, "dim size"] = torch.zeros_like(self.test)

    def update(self, product: Float[Tensor, "dim size"]) -> None:
        """Add one moment's product with `test`."""
        self.product += product

    def basis(self) -> Float[Tensor, "dim rank"]:
        """Orthonormal columns, the leading eigenvectors in descending order."""
        test, product = self.test.double().cpu(), self.product.double().cpu()
        # A small shift keeps the Cholesky factor real where M has a null space; it is taken off again below.
        shift = 1e-10 * float(product.norm()) + torch.finfo(torch.float64).tiny
        product = product + shift * test
        gram = test.mT @ product
        eigenvalues, eigenvectors = torch.linalg.eigh((gram + gram.mT) / 2)
        # M ≈ Y (ΩᵀY)⁺ Yᵀ; the inverse root by eigenvalues, since rounding may have made some of them negative.
        keep = eigenvalues > eigenvalues[-1] * 1e-12
        root = product @ (eigenvectors[:, keep] / eigenvalues[keep].sqrt())
        # Its left singular vectors, by the small Gram matrix; QR restores what squaring cost in orthonormality.
        strengths, rotation = torch.linalg.eigh(root.mT @ root)
        leading = (
            rotation.flip(1)[:, : self.rank]
            / strengths.flip(0)[: self.rank].clamp_min(torch.finfo(torch.float64).tiny).sqrt()
        )
        basis: Tensor = torch.linalg.qr(root @ leading).Q
        completed: Tensor = _completed(basis, self.rank).float()
        return completed


def _completed(basis: Float[Tensor, "dim found"], rank: int) -> Float[Tensor, "dim rank"]:
    """The basis, filled up with arbitrary orthonormal columns where fewer than `rank` were found."""
    missing = rank - basis.shape[1]
    if missing <= 0:
        return basis
    identity = torch.eye(basis.shape[0], dtype=basis.dtype)
    return torch.linalg.qr(torch.cat([basis, identity], dim=1)).Q[:, :rank]


def principal_rows(
    coordinates: Float[Tensor, "pairs m"], k: int
) -> tuple[Float[Tensor, "rows m"], Float[Tensor, "rows"]]:
    """Top right singular vectors of the stacked coordinates, each oriented hack-ward, and the singular values.

    Args:
        coordinates: one row for each pair's gradient difference, hack minus clean.
        k: at most so many rows; never more than there are pairs or directions that they span.
    """
    stacked = coordinates.double()
    n_pairs, m = stacked.shape
    if m > n_pairs:
        # The Gram matrix of the pairs is tiny; its eigenvectors give the rows by one product.
        eigenvalues, vectors = torch.linalg.eigh(stacked @ stacked.mT)
        singular = eigenvalues.flip(0).clamp_min(0).sqrt()
        keep = _significant(singular, k)
        rows = (vectors.flip(1)[:, :keep] / singular[:keep]).mT @ stacked
        # Squaring cost half of the digits of the small ones; QR makes them orthonormal again without changing the span.
        factor = torch.linalg.qr(rows.mT)
        rows = (factor.Q * factor.R.diagonal().sign()).mT
    else:
        _, singular, rows = torch.linalg.svd(stacked, full_matrices=False)
        keep = _significant(singular, k)
        rows = rows[:keep]
    singular = singular[:keep]
    return (rows * orientation(stacked @ rows.mT)[:, None]).float(), singular.float()


def _significant(singular: Float[Tensor, "n"], k: int) -> int:
    floor = _RELATIVE_RANK * float(singular[0]) if singular.numel() else 0.0
    return min(k, int((singular > max(floor, 0.0)).sum()))


def orientation(coefficients: Float[Tensor, "pairs rows"]) -> Float[Tensor, "rows"]:
    """+1 or -1 for each row, so that most pairs' differences point along it; ties go by the mean, and then to +1."""
    votes = coefficients.sign().sum(0)
    decided = torch.where(votes == 0, coefficients.mean(0), votes).sign()
    return torch.where(decided == 0, torch.ones_like(decided), decided)


def drop_noise(subspaces: Mapping[str, Subspace], share: float) -> dict[str, Subspace]:
    """Drop the lowest `share`, by count, of the singular values of all parameters pooled; parameters without rows go.

    Raises:
        ValueError: `share` is not within 0 (keep all) and 1 (exclusive).
    """
    if not 0 <= share < 1:
        raise ValueError(f"noise_floor must be at least 0 and less than 1, got {share}")
    pooled = torch.cat([s.singular_values.cpu() for s in subspaces.values()]) if subspaces else torch.zeros(0)
    dropped = int(share * pooled.numel())
    if not dropped:
        return {name: subspace for name, subspace in subspaces.items() if subspace.k}
    # Ranks, not a threshold: with equal singular values a threshold would drop all of them or none.
    order = pooled.argsort(stable=True)
    kept = torch.ones_like(pooled, dtype=torch.bool)
    kept[order[:dropped]] = False
    counts = [int(part.sum()) for part in kept.split([s.k for s in subspaces.values()])]
    return {
        name: subspace.truncate(count)
        for (name, subspace), count in zip(subspaces.items(), counts, strict=True)
        if count
    }


def weight_bases(
    weight: Float[Tensor, "out in"], rank: int | None
) -> tuple[Float[Tensor, "out r"], Float[Tensor, "in r"]]:
    """Left and right singular vectors of a weight, the leading `rank` or all."""
    u, _, vh = torch.linalg.svd(weight.detach().float(), full_matrices=False)
    return u[:, :rank].contiguous(), vh[:rank].mT.contiguous()


def split_by_prompt(prompts: list[str], holdout: float, generator: torch.Generator) -> tuple[list[int], list[int]]:
    """Indices to fit on and indices to hold out; pairs of one prompt stay together.

    At least one prompt is fitted on; with a single prompt nothing is held out.

    Raises:
        ValueError: `holdout` is not within 0 and 1 (exclusive).
    """
    if not 0 <= holdout < 1:
        raise ValueError(f"holdout must be at least 0 and less than 1, got {holdout}")
    distinct = sorted(set(prompts))
    order = [distinct[i] for i in torch.randperm(len(distinct), generator=generator).tolist()]
    held = set(order[: min(ceil(holdout * len(distinct)), len(distinct) - 1)])
    fitted = [i for i, prompt in enumerate(prompts) if prompt not in held]
    return fitted, [i for i, prompt in enumerate(prompts) if prompt in held]


def caught_energy(rows: Float[Tensor, "k m"], coordinates: Float[Tensor, "pairs m"]) -> Float[Tensor, "pairs"]:
    """Squared norm of each pair's coordinates inside the rows' span."""
    return einsum(rows, coordinates, "k m, pairs m -> pairs k").square().sum(-1)

"""What a random subspace would score: the yardstick beside every cosine.

The energy that a uniformly random `k`-dimensional subspace of `R^n` catches of a fixed vector is distributed as
`Beta(k/2, (n-k)/2)`, with mean `k/n`; by symmetry half of it falls on the hack-ward side.
"""

from __future__ import annotations

import zlib
from math import sqrt

import torch
from jaxtyping import Float
from torch import Tensor

from svdproj.sketch import orthonormal_columns

# Up to this many dimensions random rows are made and orthonormalised.
_EXACT_FRAMES = 256


def generator_for(seed: int, name: str) -> torch.Generator:
    """A parameter's own source of random numbers on the CPU: what it draws depends on no other parameter.

    Example:
        >>> generator_for(0, "layer.weight").initial_seed() == generator_for(0, "layer.weight").initial_seed()
        True
    """
    return torch.Generator().manual_seed(seed + zlib.crc32(name.encode()))


def random_frames(
    shape: tuple[int, ...], generator: torch.Generator, device: torch.device | str = "cpu"
) -> Float[Tensor, "*batch n k"]:
    """Orthonormal columns, uniformly random (Haar measure: QR of Gaussians, after Mezzadri, 2007, arXiv:math-ph/0609050), in
    float64.

    Args:
        shape: `(*batch, n, k)` with `k <= n`.
        generator: source of randomness, on the CPU, so that every device gets the same frames but for rounding.
        device: where the work is done.

    Example:
        >>> frames = random_frames((5, 2), generator_for(0, "example"))
        >>> torch.allclose(frames.mT @ frames, torch.eye(2, dtype=torch.float64))
        True
    """
    gaussian = torch.randn(shape, generator=generator, dtype=torch.float64).to(device)
    if gaussian.is_cuda:  # thousands of columns: products are quicker there than reflections, and equal to rounding
        return orthonormal_columns(gaussian)
    q, r = torch.linalg.qr(gaussian)
    # Householder's signs are fixed: without this the j-th entry of column j would never be positive, and half of the
    # energy would not be one-sided.
    return q * r.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)


def expected_energy(k: int, n: int, *, one_sided: bool = False) -> float:
    """Mean share of a vector's squared norm inside a random subspace.

    Args:
        k: dimensions of the subspace.
        n: dimensions of the space.
        one_sided: count hack-ward coefficients only.

    Raises:
        ValueError: `k` is not within `0 … n`, or `n` is not positive.

    Example:
        >>> expected_energy(24, 96), expected_energy(24, 96, one_sided=True)
        (0.25, 0.125)
    """
    if not 0 <= k <= n or n < 1:
        raise ValueError(f"a subspace of {k} dimensions does not fit into {n}")
    return k / n / (2 if one_sided else 1)


def null_cosine(k: int, n: int, *, one_sided: bool = True) -> float:
    """Root of the expected energy: the cosine to compare `cos_in` with.

    Args:
        k: dimensions of the subspace.
        n: dimensions of the space.
        one_sided: count hack-ward coefficients only, as `cos_in` does.

    Raises:
        ValueError: as from `expected_energy`.

    Example:
        >>> round(null_cosine(24, 576 * 576), 4)
        0.006
    """
    return sqrt(expected_energy(k, n, one_sided=one_sided))


def sample_energy(k: int, n: int, samples: int, generator: torch.Generator) -> Float[Tensor, "samples"]:
    """Draws of the energy share that a random subspace catches, by the definition of the Beta distribution.

    A unit vector's squared components are a Gaussian vector's, normalised: the sum of `k` of them is a ratio of two
    independent gamma variables.

    Args:
        k: dimensions of the subspace.
        n: dimensions of the space.
        samples: number of draws.
        generator: source of randomness, on the CPU.

    Raises:
        ValueError: the subspace is empty or is the whole space, where there is nothing to draw.

    Example:
        >>> shares = sample_energy(24, 96, samples=2000, generator=generator_for(0, "example"))
        >>> round(float(shares.mean()), 2)
        0.25
    """
    if not 0 < k < n:
        raise ValueError(f"sampling needs 0 < k < n, got k={k}, n={n}")
    # torch's gamma sampler takes no generator; chi-square sums of Gaussians do, in bounded memory.
    inside = _chi_square(k, samples, generator)
    outside = _chi_square(n - k, samples, generator)
    return inside / (inside + outside)


def sample_coefficients(
    coordinates: Float[Tensor, "samples m"], k: int, draws: int, generator: torch.Generator
) -> Float[Tensor, "draws samples k"]:
    """Inner products of samples with the `k` orthonormal rows of each of `draws` random subspaces, in float64.

    Args:
        coordinates: the samples.
        k: rows to a subspace.
        draws: number of random subspaces.
        generator: source of randomness, on the CPU.

    Example:
        >>> sample_coefficients(torch.eye(8)[:3], k=2, draws=5, generator=generator_for(0, "example")).shape
        torch.Size([5, 3, 2])
    """
    coordinates = coordinates.double().cpu()
    samples, m = coordinates.shape
    if m <= _EXACT_FRAMES:
        return coordinates @ random_frames((draws, m, k), generator)
    # In many dimensions k random rows are orthonormal all but surely, and their products with the samples are Gaussian
    # with the samples' Gram matrix as covariance: no row has to be made.
    eigenvalues, vectors = torch.linalg.eigh(coordinates @ coordinates.mT / m)
    root = vectors * eigenvalues.clamp_min(0).sqrt()
    return root @ torch.randn(draws, samples, k, generator=generator, dtype=torch.float64)


def _chi_square(degrees: int, samples: int, generator: torch.Generator) -> Tensor:
    total = torch.zeros(samples, dtype=torch.float64)
    # Above this many degrees a chi-square is normal to three digits, and exact sums would take long.
    exact = min(degrees, 4096)
    for _ in range(exact):
        total += torch.randn(samples, generator=generator, dtype=torch.float64).square()
    rest = degrees - exact
    if rest:
        noise = torch.randn(samples, generator=generator, dtype=torch.float64)
        total += rest + (2 * rest) ** 0.5 * noise
    return total

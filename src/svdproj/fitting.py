"""From gradients of pairs to bases and rows: linear algebra on tensors, without a model in sight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from svdproj.sketch import double, eigh, orthonormal_columns
from svdproj.subspace import Subspace

# Singular values below this share of the largest are rounding noise of float32 gradients.
_RELATIVE_RANK = 1e-6


def principal_rows(
    coordinates: Float[Tensor, "pairs m"], k: int
) -> tuple[Float[Tensor, "rows m"], Float[Tensor, "rows"]]:
    """Top right singular vectors of the stacked coordinates, each oriented hack-ward, and the singular values.

    Args:
        coordinates: one row for each pair's gradient difference, hack minus clean.
        k: at most so many rows; never more than there are pairs or directions that they span.
    """
    return batched_principal_rows(coordinates[None], k)[0]


def batched_principal_rows(
    coordinates: Float[Tensor, "n pairs m"], k: int
) -> list[tuple[Float[Tensor, "rows m"], Float[Tensor, "rows"]]]:
    """The same for several parameters at once."""
    stacked = double(coordinates)
    n_pairs, m = stacked.shape[-2:]
    if m > n_pairs:
        # The Gram matrix of the pairs is tiny; its eigenvectors give the rows by one product.
        eigenvalues, vectors = eigh(stacked @ stacked.mT)
        singular = eigenvalues.flip(-1)[:, :k].clamp_min(0).sqrt()
        scaled = vectors.flip(-1)[..., :k] / singular.clamp_min(torch.finfo(torch.float64).tiny)[:, None]
        # Squaring cost half of the digits of the small ones; this makes them orthonormal again within their span.
        rows = orthonormal_columns((scaled.mT @ stacked).mT).mT
    else:
        _, singular, rows = torch.linalg.svd(stacked, full_matrices=False)
        singular, rows = singular[:, :k], rows[:, :k]
    found = []
    for row, values, pairs in zip(rows, singular, stacked, strict=True):
        keep = int((values > _RELATIVE_RANK * values[0]).sum())
        signs = orientation(pairs @ row[:keep].mT)[:, None]
        found.append(((row[:keep] * signs).float(), values[:keep].float()))
    return found


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
    check_share("noise_floor", share)
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


def check_share(name: str, value: float) -> None:
    """Refuse an option that is no share of less than all.

    Raises:
        ValueError: it is not within 0 and 1 (exclusive).
    """
    if not 0 <= value < 1:
        raise ValueError(f"{name} must be at least 0 and less than 1, got {value}")


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
    check_share("holdout", holdout)
    distinct = sorted(set(prompts))
    order = [distinct[i] for i in torch.randperm(len(distinct), generator=generator).tolist()]
    held = set(order[: min(ceil(holdout * len(distinct)), len(distinct) - 1)])
    fitted = [i for i, prompt in enumerate(prompts) if prompt not in held]
    return fitted, [i for i, prompt in enumerate(prompts) if prompt in held]


def caught_energy(rows: Float[Tensor, "k m"], coordinates: Float[Tensor, "pairs m"]) -> Float[Tensor, "pairs"]:
    """Squared norm of each pair's coordinates inside the rows' span."""
    return einsum(rows, coordinates, "k m, pairs m -> pairs k").square().sum(-1)


def split_in_halves(indices: Sequence[int], prompts: Sequence[str]) -> tuple[list[int], list[int]]:
    """The indices in two halves, prompt by prompt in turn: pairs of one prompt stay together, or halves would agree for it.

    Args:
        indices: which pairs to split.
        prompts: of all pairs; where there are none, each pair counts as a prompt of its own.
    """
    order: dict[object, int] = {}
    halves: tuple[list[int], list[int]] = ([], [])
    for i in indices:
        turn = order.setdefault(prompts[i] if prompts else i, len(order))
        halves[turn % 2].append(i)
    return halves

"""Is it more than chance? Statistics of a few dozen figures that come in clusters."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from math import nan

import torch
from jaxtyping import Float
from torch import Tensor

# Up to so many clusters all sign patterns are counted (32,768 of them); beyond, so many are drawn.
_EXACT_CLUSTERS = 15
_DRAWS = 20_000


def cluster_means(values: Float[Tensor, "*batch n"], clusters: Sequence[Hashable]) -> Float[Tensor, "*batch clusters"]:
    """The mean of each cluster, in the order of first appearance; clusters, not values, are independent of each other."""
    order = {cluster: i for i, cluster in enumerate(dict.fromkeys(clusters))}
    where = torch.tensor([order[cluster] for cluster in clusters], dtype=torch.long)
    sums = torch.zeros(*values.shape[:-1], len(order), dtype=torch.float64).index_add(-1, where, values.double().cpu())
    return sums / torch.bincount(where, minlength=len(order))


def t_statistic(means: Float[Tensor, "clusters"]) -> float:
    """Mean over standard error; `nan` with fewer than two clusters, infinite where they do not vary."""
    return float(t_statistics(means))


def t_statistics(means: Float[Tensor, "*batch clusters"]) -> Float[Tensor, "*batch"]:
    """`t_statistic` of each of many sets of clusters."""
    n = means.shape[-1]
    if n < 2:
        return torch.full(means.shape[:-1], nan)
    # Zero over zero is nan, a mean over an error of zero infinite.
    return means.mean(-1) / (means.std(-1) / n**0.5)


def sign_flip_p_value(means: Float[Tensor, "clusters"], seed: int = 0) -> float:
    """One-sided p value for a positive mean: the share of sign patterns that give a mean as high as the observed.

    Exact up to 15 clusters (Fisher's randomisation test), by random patterns beyond. It asks for symmetry about zero under
    the null and for nothing else; with `n` clusters no p value is below `2⁻ⁿ`.

    Args:
        means: one figure for each cluster.
        seed: of the random patterns.
    """
    n = len(means)
    if not n:
        return nan
    means = means.double().cpu()
    observed = means.sum()
    # A sum that ties with the observed one but for rounding counts as a tie.
    threshold = observed - 1e-12 * means.abs().sum()
    if n <= _EXACT_CLUSTERS:
        patterns = torch.arange(2**n)[:, None] >> torch.arange(n) & 1
        return float(((2.0 * patterns.double() - 1) @ means >= threshold).double().mean())
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, (_DRAWS, n), generator=generator).double() * 2 - 1
    # The observed pattern is one of the possible ones: without it the p value could be zero.
    return (int((signs @ means >= threshold).sum()) + 1) / (_DRAWS + 1)


def auroc(higher: Float[Tensor, "n"], lower: Float[Tensor, "m"]) -> float:
    """The chance that a value of the first group exceeds one of the second; ties count half."""
    if not len(higher) or not len(lower):
        return nan
    difference = higher.double()[:, None] - lower.double()[None, :]
    return float((difference > 0).double().mean() + 0.5 * (difference == 0).double().mean())

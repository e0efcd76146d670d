"""The projection of one step, as pure functions of tensors.

Everything here works on one parameter or on a stack of parameters of one shape (`svdproj.charts`), and on `x`: the
gradient in gradient space, the negative displacement in update space, so that a positive coefficient always means
hack-ward.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from svdproj.subspace import Subspace

Gate = Literal["one_sided", "two_sided", "reverse"]
GATES: tuple[str, ...] = get_args(Gate)


def gated(coefficients: Float[Tensor, "*batch k"], gate: Gate) -> Float[Tensor, "*batch k"]:
    """The coefficients that a gate removes: only the hack-ward ones, all of them, or all of them twice.

    With a single row, `"one_sided"` is the rule of PCGrad (Yu et al., 2020, arXiv:2001.06782) with the row in the place of the
    other task's gradient.

    Args:
        coefficients: inner products with the rows; positive is hack-ward.
        gate: `"one_sided"`, `"two_sided"` or `"reverse"`.

    Example:
        >>> gated(torch.tensor([2.0, -1.0]), "one_sided")
        tensor([2., 0.])
    """
    match gate:
        case "one_sided":
            return coefficients.relu()
        case "two_sided":
            return coefficients
        case "reverse":
            return 2 * coefficients
    raise ValueError(f"unknown gate {gate!r}; choose one of {', '.join(GATES)}")


def guarded(coefficients: Float[Tensor, "*batch k"], gate: Gate) -> Float[Tensor, "*batch k"]:
    """The coefficients that should be zero after the projection: what `residual` measures.

    Example:
        >>> guarded(torch.tensor([2.0, -1.0]), "reverse")
        tensor([ 2., -1.])
    """
    return coefficients.relu() if gate == "one_sided" else coefficients


def project(
    x: Float[Tensor, "..."],
    subspace: Subspace,
    gate: Gate = "one_sided",
    overshoot: float = 1.0,
    preserve_norm: bool = False,
) -> Float[Tensor, "..."]:
    """`x` without its gated components in the subspace.

    Args:
        x: gradient, or negative displacement, of the parameter's shape.
        subspace: its rows and chart.
        gate: which components are removed.
        overshoot: how much of them; 1 removes them exactly, more turns them around. The guarantee is for 1.
        preserve_norm: rescale the result to the norm of `x`, by at most `MAX_RESCALE`.

    Example:
        >>> from svdproj import DenseChart
        >>> subspace = Subspace(DenseChart((2,)), torch.tensor([[1.0, 0.0]]), torch.ones(1))
        >>> project(torch.tensor([3.0, 4.0]), subspace)
        tensor([0., 4.])
        >>> project(torch.tensor([-3.0, 4.0]), subspace)  # a clean-ward step stays
        tensor([-3.,  4.])
    """
    used = gated(subspace.coefficients(x), gate)
    projected = x - overshoot * subspace.decode(used)
    if preserve_norm:
        dims = tuple(range(-len(subspace.chart.shape), 0))
        scale = rescale_factor(x.square().sum(dims), projected.square().sum(dims))
        projected = projected * scale.reshape(*scale.shape, *(1 for _ in dims))
    return projected


# A nearly removed step must not be blown up into one of its old length along what little is left.
MAX_RESCALE = 10.0


def rescale_factor(
    square_before: Float[Tensor, "*batch"], square_after: Float[Tensor, "*batch"]
) -> Float[Tensor, "*batch"]:
    """The factor that restores a norm, capped at `MAX_RESCALE`; 1 where nothing is left to rescale.

    Example:
        >>> rescale_factor(torch.tensor([25.0, 25.0]), torch.tensor([16.0, 0.01]))
        tensor([ 1.2500, 10.0000])
    """
    ratio = (square_before / square_after.clamp_min(torch.finfo(square_after.dtype).tiny)).sqrt()
    return torch.where(square_after > 0, ratio.clamp_max(MAX_RESCALE), torch.ones_like(ratio))


def shrink_factor(
    square_before: Float[Tensor, "*batch"], square_after: Float[Tensor, "*batch"]
) -> Float[Tensor, "*batch"]:
    """The factor that gives a vector the norm which a projection would leave it; 1 for a vector of zeros.

    Example:
        >>> shrink_factor(torch.tensor(25.0), torch.tensor(16.0))
        tensor(0.8000)
    """
    ratio = (square_after / square_before.clamp_min(torch.finfo(square_before.dtype).tiny)).sqrt()
    return torch.where(square_before > 0, ratio, torch.ones_like(ratio))

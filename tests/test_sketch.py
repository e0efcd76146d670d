"""Sketched eigenvectors are those of the moments that nobody formed."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from svdproj.sketch import (
    OVERSAMPLING,
    SketchTests,
    eigh,
    leading_eigenvectors,
    leading_eigenvectors_by_shape,
    orthonormal_columns,
)


def moment(dim: int, rank: int, decay: float = 0.0) -> Tensor:
    """A positive semi-definite matrix with eigenvalues `j^-decay`."""
    basis = torch.linalg.qr(torch.randn(dim, rank, dtype=torch.float64)).Q
    return (basis * torch.arange(1, rank + 1, dtype=torch.float64) ** -decay) @ basis.mT


def sketched(m: Tensor, rank: int) -> Tensor:
    test = SketchTests(rank, torch.Generator().manual_seed(0))(len(m))
    return leading_eigenvectors(test, (m.float() @ test)[None], rank)[0]


def missed(m: Tensor, basis: Tensor) -> float:
    """Share of the trace outside the basis."""
    basis = basis.double()
    return 1 - float((basis.mT @ m @ basis).trace() / m.trace())


def best(m: Tensor, rank: int) -> float:
    values = torch.linalg.eigvalsh(m).flip(0)
    return 1 - float(values[:rank].sum() / values.sum())


@given(st.integers(1, 200), st.integers(1, 40), st.integers(1, 40), st.integers(0, 1000))
def test_columns_are_orthonormal_also_where_the_moment_has_lower_rank(
    dim: int, rank: int, wanted: int, seed: int
) -> None:
    torch.manual_seed(seed)
    m, wanted = moment(dim, min(rank, dim)), min(wanted, dim)
    basis = sketched(m, wanted)
    assert basis.shape == (dim, wanted)
    torch.testing.assert_close(basis.mT @ basis, torch.eye(wanted), atol=1e-5, rtol=0)
    # What has no more rank than is asked for is found whole.
    if rank <= wanted:
        assert missed(m, basis) < 1e-5


@pytest.mark.parametrize("dim", [64, 96, 300])
@pytest.mark.parametrize("decay", [0.5, 1.0, 2.0])
def test_slowly_falling_spectra_lose_little_against_the_best_basis(dim: int, decay: float) -> None:
    m = moment(dim, dim, decay)
    found, optimum = missed(m, sketched(m, 32)), best(m, 32)
    # Up to the sketch's size nothing is approximate.
    assert found <= optimum * (1.001 if dim <= 32 + OVERSAMPLING else 1.25) + 1e-5


def test_columns_are_in_order_so_that_a_part_of_them_is_the_best_part() -> None:
    m = moment(120, 120, 1.5)
    basis = sketched(m, 32)
    for rank in (1, 4, 16):
        assert missed(m, basis[:, :rank]) <= best(m, rank) * 1.02 + 1e-5


def test_no_moment_at_all_gives_an_arbitrary_basis() -> None:
    basis = sketched(torch.zeros(50, 50, dtype=torch.float64), 4)
    torch.testing.assert_close(basis.mT @ basis, torch.eye(4), atol=1e-5, rtol=0)


def test_moments_of_different_sizes_are_sorted_back() -> None:
    tests = SketchTests(3, torch.Generator().manual_seed(0))
    moments = [moment(dim, 3) for dim in (70, 50, 70, 20)]
    each = [tests(len(m)) for m in moments]
    found = dict(leading_eigenvectors_by_shape(each, [m.float() @ t for m, t in zip(moments, each, strict=True)], 3))
    assert sorted(found) == [0, 1, 2, 3]
    for index, basis in found.items():
        assert missed(moments[index], basis) < 1e-5


def test_sketches_come_from_their_generator_alone() -> None:
    first = SketchTests(4, torch.Generator().manual_seed(7))(80)
    torch.manual_seed(99)
    again = SketchTests(4, torch.Generator().manual_seed(7))(80)
    assert torch.equal(first, again)
    assert not torch.equal(first, SketchTests(4, torch.Generator().manual_seed(8))(80))


@given(st.integers(2, 20), st.integers(1, 20), st.integers(0, 1000))
def test_gram_schmidt_keeps_spans_and_signs(dim: int, columns: int, seed: int) -> None:
    torch.manual_seed(seed)
    given_columns = torch.randn(dim, min(dim, columns), dtype=torch.float64)
    found = orthonormal_columns(given_columns)
    torch.testing.assert_close(found.mT @ found, torch.eye(found.shape[1], dtype=torch.float64), atol=1e-8, rtol=0)
    triangle = found.mT @ given_columns
    assert float(triangle.tril(-1).abs().max()) < 1e-8
    assert bool((triangle.diagonal() > 0).all())


def test_dependent_columns_are_replaced() -> None:
    column = torch.randn(6, 1, dtype=torch.float64)
    found = orthonormal_columns(torch.cat([column, 2 * column, torch.zeros(6, 1, dtype=torch.float64)], dim=1))
    torch.testing.assert_close(found.mT @ found, torch.eye(3, dtype=torch.float64), atol=1e-8, rtol=0)


def test_eigh_ignores_the_rounding_that_makes_a_matrix_unsymmetric() -> None:
    m = moment(8, 8, 1.0)
    values, vectors = eigh(m + 1e-9 * torch.randn(8, 8, dtype=torch.float64))
    torch.testing.assert_close((vectors * values) @ vectors.mT, m, atol=1e-7, rtol=0)

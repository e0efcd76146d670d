"""Subspaces: coefficients, overlap, random rows of the right distribution."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from svdproj import BilinearChart, DenseChart, Subspace
from svdproj.subspace import orthonormality_error, stack_subspaces

seeds = st.integers(0, 1000)


def orthonormal(rows: int, columns: int) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(rows, columns)).Q


def subspace(k: int = 3, out: int = 6, in_: int = 5) -> Subspace:
    chart = BilinearChart(orthonormal(out, 4), orthonormal(in_, 3))
    return Subspace(chart, orthonormal(12, k).mT.contiguous(), torch.arange(k, 0, -1).float())


def dense_of(given_subspace: Subspace) -> Subspace:
    """The same span without a chart."""
    rows = given_subspace.decode(torch.eye(given_subspace.k)).flatten(1)
    return Subspace(DenseChart(given_subspace.chart.shape), rows, given_subspace.singular_values)


def test_coefficients_are_inner_products_with_the_decoded_rows() -> None:
    s = subspace()
    x = torch.randn(4, 6, 5)
    rows = torch.stack([s.decode(unit) for unit in torch.eye(3)])
    torch.testing.assert_close(s.coefficients(x), torch.einsum("koi,boi->bk", rows, x), atol=1e-5, rtol=1e-5)


@given(st.integers(1, 6), st.integers(1, 6), seeds)
def test_overlap_does_not_depend_on_charts_or_on_the_basis_of_a_span(ka: int, kb: int, seed: int) -> None:
    torch.manual_seed(seed)
    a, b = subspace(ka), subspace(kb)
    expected = float((dense_of(a).rows @ dense_of(b).rows.mT).square().sum() / min(ka, kb))
    assert a.overlap(b) == pytest.approx(expected, abs=1e-4)
    assert b.overlap(a) == pytest.approx(expected, abs=1e-4)
    turned = Subspace(a.chart, torch.linalg.qr(torch.randn(ka, ka)).Q @ a.rows, a.singular_values)
    assert turned.overlap(b) == pytest.approx(expected, abs=1e-4)
    assert a.overlap(dense_of(a)) == pytest.approx(1, abs=1e-4)
    assert a.truncate(1).overlap(a) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_overlap_holds_between_precisions(dtype: torch.dtype) -> None:
    for k in (1, 3, 6):
        s, other = subspace(k), subspace(4)
        low = s.to(dtype=dtype)
        assert low.overlap(low) == pytest.approx(1, abs=1e-5)
        assert low.overlap(low) <= 1
        assert low.overlap(s) == pytest.approx(1, abs=1e-3)
        assert s.overlap(low) == pytest.approx(1, abs=1e-3)
        assert other.overlap(low) == pytest.approx(other.overlap(s), abs=2e-2)


def test_orthogonal_spans_have_no_overlap_and_other_shapes_are_an_error() -> None:
    chart = DenseChart((2, 3))
    one, other = (Subspace(chart, torch.eye(6)[i : i + 2], torch.ones(2)) for i in (0, 2))
    assert one.overlap(other) == 0
    assert one.overlap(one.truncate(0)) == 0
    with pytest.raises(ValueError, match=r"different shapes: \(2, 3\) and \(6, 5\)"):
        one.overlap(subspace())


def test_random_rows_are_orthonormal_repeatable_and_uniform() -> None:
    s = subspace(4)
    energies = []
    x = torch.randn(12)
    for seed in range(300):
        random = s.random_like(torch.Generator().manual_seed(seed))
        assert random.k == 4
        assert orthonormality_error(random.rows) < 1e-5
        energies.append(float(random.coefficients_of(x).square().sum() / x.square().sum()))
    found = torch.tensor(energies)
    # Beta(k/2, (m-k)/2) with k = 4, m = 12: mean 1/3, variance 2 k (m-k) / (m² (m+2)).
    assert abs(float(found.mean()) - 1 / 3) < 4 * float(found.std()) / 300**0.5
    assert float(found.var()) == pytest.approx(2 * 4 * 8 / (144 * 14), rel=0.25)
    first, again = (s.random_like(torch.Generator().manual_seed(3)).rows for _ in range(2))
    assert torch.equal(first, again)


def test_rows_that_do_not_fit_the_chart_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"rows have 5 coordinates, the chart of shape \(6, 5\) has 12"):
        Subspace(subspace().chart, torch.eye(5)[:2], torch.ones(2))


def test_stacks_fill_missing_rows_with_what_catches_nothing() -> None:
    parts = [subspace(1), subspace(3)]
    stacked = stack_subspaces(parts)
    x = torch.randn(2, 6, 5)
    found = stacked.coefficients(x)
    assert found.shape == (2, 3)
    torch.testing.assert_close(found[0, :1], parts[0].coefficients(x[0]), atol=1e-5, rtol=1e-5)
    assert found[0, 1:].tolist() == [0, 0]
    torch.testing.assert_close(found[1], parts[1].coefficients(x[1]), atol=1e-5, rtol=1e-5)


def test_bytes_and_types() -> None:
    s = subspace(2)
    assert s.nbytes == 4 * (2 * 12 + 2 + 6 * 4 + 5 * 3)
    low = s.to(dtype=torch.bfloat16)
    assert low.nbytes * 2 == s.nbytes
    assert {t.dtype for t in (low.rows, *low.chart.tensors.values())} == {torch.bfloat16}
    assert orthonormality_error(s.truncate(0).rows) == 0

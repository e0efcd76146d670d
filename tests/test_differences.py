"""Gradients as sums over tokens answer every question as the full tensors do, whichever way is the cheaper one."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from svdproj.charts import BilinearChart, Chart, DenseChart, DiagonalChart
from svdproj.differences import Differences, ExplicitDifferences, FactoredDifferences

dims = st.integers(1, 40)


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-5 * float(expected.abs().max()) + 1e-6, rtol=1e-4)


# With few tokens the factors are the cheaper form, with many the full tensors are.
@given(st.integers(1, 4), st.integers(1, 12), dims, dims, st.integers(0, 1000))
def test_factors_and_full_tensors_agree(pairs: int, tokens: int, out: int, in_: int, seed: int) -> None:
    torch.manual_seed(seed)
    factored = FactoredDifferences(torch.randn(pairs, tokens, out), torch.randn(pairs, tokens, in_))
    full = torch.einsum("pto,pti->poi", factored.outer, factored.inner)
    explicit = ExplicitDifferences(full)
    r = min(out, in_, 3)
    left, right = (torch.linalg.qr(torch.randn(dim, r)).Q for dim in (out, in_))
    charts: list[Chart] = [BilinearChart(left, right), DiagonalChart(left, right), DenseChart((out, in_))]
    for each in (factored, explicit):
        assert isinstance(each, Differences)
        close(each.squared_norms(), full.flatten(1).square().sum(1))
        by_left, by_right = each.moments(left, right)
        close(by_left, torch.einsum("poi,pqi,qr->or", full, full, left))
        close(by_right, torch.einsum("poi,poj,jr->ir", full, full, right))
        for chart in charts:
            close(each.encode(chart), chart.encode(full))


@pytest.mark.parametrize(("tokens", "forms"), [(2, False), (200, True)])
def test_few_tokens_never_form_full_tensors(tokens: int, forms: bool) -> None:
    differences = FactoredDifferences(torch.randn(2, tokens, 64), torch.randn(2, tokens, 64))
    basis = torch.linalg.qr(torch.randn(64, 4)).Q
    differences.squared_norms()
    differences.moments(basis, basis)
    differences.encode(BilinearChart(basis, basis))
    differences.encode(DiagonalChart(basis, basis))
    assert ("explicit" in vars(differences)) == forms


def test_padding_adds_nothing() -> None:
    outer, inner = torch.randn(1, 3, 5), torch.randn(1, 3, 4)
    padded = FactoredDifferences(
        torch.cat([outer, torch.zeros(1, 2, 5)], dim=1), torch.cat([inner, torch.randn(1, 2, 4)], dim=1)
    )
    close(padded.explicit.tensors, FactoredDifferences(outer, inner).explicit.tensors)

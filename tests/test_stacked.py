"""The products that a step issues are those of the charts and rows, for every chart."""

from __future__ import annotations

import pytest
import torch

from svdproj import BilinearChart, Chart, DenseChart, DiagonalChart, Subspace
from svdproj.stacked import BilinearProducts, products_of
from svdproj.subspace import stack_subspaces


def _orthonormal(rows: int, columns: int) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(rows, columns)).Q


def _subspace(kind: str, out: int, in_: int, k: int) -> Subspace:
    charts: dict[str, Chart] = {
        "dense": DenseChart((out, in_)),
        "bilinear": BilinearChart(_orthonormal(out, 3), _orthonormal(in_, 4)),
        "diagonal": DiagonalChart(_orthonormal(out, 3), _orthonormal(in_, 3)),
    }
    chart = charts[kind]
    return Subspace(chart, _orthonormal(chart.size, k).mT.contiguous(), torch.ones(k))


@pytest.mark.parametrize("kind", ["dense", "bilinear", "diagonal"])
@pytest.mark.parametrize(("out", "in_"), [(9, 5), (5, 9)])
def test_each_parameter_has_its_own_subspaces_products(kind: str, out: int, in_: int) -> None:
    subspaces = [_subspace(kind, out, in_, k) for k in (2, 3)]
    products = products_of(stack_subspaces(subspaces))
    assert isinstance(products, BilinearProducts) == (kind == "bilinear")
    x = torch.randn(2, out, in_)
    coordinates = products.encode(x)
    coefficients = products.coefficients(coordinates)
    decoded = products.decode(coefficients)
    for index, subspace in enumerate(subspaces):
        torch.testing.assert_close(coordinates[index], subspace.chart.encode(x[index]))
        torch.testing.assert_close(coefficients[index, : subspace.k], subspace.coefficients(x[index]))
        assert not coefficients[index, subspace.k :].any()  # the rows that are missing catch nothing
        torch.testing.assert_close(decoded[index], subspace.decode(subspace.coefficients(x[index])))


@pytest.mark.parametrize("dim", [0, 1])
def test_an_empty_shard_has_no_part_in_anything(dim: int) -> None:
    products = products_of(stack_subspaces([_subspace("bilinear", 6, 5, 2).narrow(dim, 0, 0)]))
    shape = (0, 5) if dim == 0 else (6, 0)
    coefficients = products.coefficients(products.encode(torch.randn(1, *shape)))
    assert not coefficients.any()
    assert products.decode(coefficients).shape == (1, *shape)

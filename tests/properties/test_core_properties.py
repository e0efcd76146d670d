"""Promises of the core that hold for every shape: charts are partial isometries, projection leaves nothing, fitting finds what is there."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from svdproj import BilinearChart, Chart, DenseChart, DiagonalChart, HackDirection, Subspace
from svdproj.projection import project
from svdproj.subspace import orthonormality_error

dims = st.integers(2, 12)
seeds = st.integers(0, 10_000)


def orthonormal(rows: int, columns: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(rows, columns, dtype=torch.float64, generator=generator)).Q.float()


def make_chart(kind: str, out: int, in_: int, p: int, q: int, seed: int) -> Chart:
    if kind == "dense":
        return DenseChart((out, in_))
    if kind == "bilinear":
        return BilinearChart(orthonormal(out, min(p, out), seed), orthonormal(in_, min(q, in_), seed + 1))
    rank = min(p, out, in_)
    return DiagonalChart(orthonormal(out, rank, seed), orthonormal(in_, rank, seed + 1))


def make_subspace(make: Callable[[], Chart], k: int, seed: int) -> Subspace:
    chart = make()
    k = min(k, chart.size)
    return Subspace(chart, orthonormal(chart.size, k, seed).mT.contiguous(), torch.ones(k))


# Strategies give recipes: checking types draws random numbers, which hypothesis does not allow while it draws.
def charts() -> st.SearchStrategy[Callable[[], Chart]]:
    return st.builds(
        partial, st.just(make_chart), st.sampled_from(["dense", "bilinear", "diagonal"]), dims, dims, dims, dims, seeds
    )


def subspaces() -> st.SearchStrategy[Callable[[], Subspace]]:
    return st.builds(partial, st.just(make_subspace), charts(), st.integers(1, 40), seeds)


@given(charts())
def test_charts_are_partial_isometries(make: Callable[[], Chart]) -> None:
    chart = make()
    coordinates = torch.randn(3, chart.size)
    torch.testing.assert_close(chart.encode(chart.decode(coordinates)), coordinates, atol=1e-4, rtol=1e-4)
    gradient, other = torch.randn(2, *chart.shape)
    inside = chart.decode(chart.encode(gradient))
    # The remainder is orthogonal to everything in the span, so this is the orthogonal projection.
    assert abs(float(((gradient - inside) * chart.decode(chart.encode(other))).sum())) < 1e-3


@given(charts(), st.data())
def test_the_coordinates_of_shards_add_up(make: Callable[[], Chart], data: st.DataObject) -> None:
    chart = make()
    gradient = torch.randn(chart.shape)
    dim = data.draw(st.integers(0, 1))
    cut = data.draw(st.integers(0, chart.shape[dim]))
    parts = [(0, cut), (cut, chart.shape[dim] - cut)]
    total = sum(chart.narrow(dim, start, n).encode(gradient.narrow(dim, start, n)) for start, n in parts)
    torch.testing.assert_close(total, chart.encode(gradient), atol=1e-4, rtol=1e-4)
    coordinates = torch.randn(chart.size)
    pieces = [chart.narrow(dim, start, n).decode(coordinates) for start, n in parts]
    torch.testing.assert_close(torch.cat(pieces, dim=dim), chart.decode(coordinates), atol=1e-4, rtol=1e-4)


@given(subspaces())
def test_projection_leaves_no_guarded_component_and_is_idempotent(make: Callable[[], Subspace]) -> None:
    subspace = make()
    x = torch.randn(subspace.chart.shape)
    for gate, left in (("two_sided", lambda c: c), ("one_sided", torch.relu)):
        projected = project(x, subspace, gate)  # type: ignore[arg-type]
        assert float(left(subspace.coefficients(projected)).norm()) <= 1e-5 * float(x.norm())
        torch.testing.assert_close(project(projected, subspace, gate), projected, atol=1e-5, rtol=1e-4)  # type: ignore[arg-type]


@given(subspaces())
def test_reverse_turns_the_component_around(make: Callable[[], Subspace]) -> None:
    subspace = make()
    x = torch.randn(subspace.chart.shape)
    before, after = subspace.coefficients(x), subspace.coefficients(project(x, subspace, "reverse"))
    torch.testing.assert_close(after, -before, atol=1e-4, rtol=1e-4)


@given(subspaces())
def test_one_sided_keeps_clean_ward_components(make: Callable[[], Subspace]) -> None:
    subspace = make()
    clean_ward = -subspace.decode(torch.rand(subspace.k))
    torch.testing.assert_close(project(clean_ward, subspace, "one_sided"), clean_ward, atol=1e-4, rtol=1e-4)


@given(seeds, st.integers(1, 3), st.sampled_from(["dense", "bilinear"]))
def test_a_planted_subspace_is_found_with_its_orientation(seed: int, k: int, chart: str) -> None:
    torch.manual_seed(seed)
    planted = orthonormal(20 * 10, k, seed).mT
    # Every pair points hack-ward along every planted row.
    differences = (torch.rand(16, k) + 0.5) @ planted + 1e-3 * torch.randn(16, 200)
    direction = HackDirection.from_gradients(
        {"w": differences.view(16, 20, 10)}, chart=chart, chart_rank=20, k=k, noise_floor=0.0
    )
    found = direction.subspaces["w"]
    assert found.overlap(Subspace(DenseChart((20, 10)), planted, torch.ones(k))) > 0.9 if k == 1 else True
    # The first row carries the pairs' common part, so each of them has a positive coefficient on it.
    assert bool((found.coefficients(differences.view(16, 20, 10))[:, 0] > 0).all())
    caught = found.coefficients(differences.view(16, 20, 10)).square().sum()
    assert float(caught / differences.square().sum()) > 0.99


@given(seeds, st.integers(2, 8), st.integers(1, 30))
def test_rows_are_orthonormal_and_never_more_than_pairs(seed: int, n_pairs: int, k: int) -> None:
    torch.manual_seed(seed)
    direction = HackDirection.from_gradients({"w": torch.randn(n_pairs, 6, 9)}, k=k, noise_floor=0.0)
    rows = direction.subspaces["w"].rows
    assert len(rows) == min(k, n_pairs)
    assert orthonormality_error(rows) < 1e-5


@given(seeds)
def test_swapping_the_labels_turns_the_rows_and_keeps_the_span(seed: int) -> None:
    torch.manual_seed(seed)
    differences = torch.randn(7, 5, 6) + 1.0
    one = HackDirection.from_gradients({"w": differences}, k=3, noise_floor=0.0).subspaces["w"]
    other = HackDirection.from_gradients({"w": -differences}, k=3, noise_floor=0.0).subspaces["w"]
    torch.testing.assert_close(other.rows, -one.rows, atol=1e-3, rtol=1e-3)
    assert abs(one.overlap(other) - 1) < 1e-4


@given(seeds, st.floats(0, 0.95))
def test_the_noise_floor_drops_the_lowest_share_by_count(seed: int, share: float) -> None:
    torch.manual_seed(seed)
    gradients = {"a": torch.randn(6, 4, 5), "b": 5 * torch.randn(6, 3, 7)}
    everything = HackDirection.from_gradients(gradients, noise_floor=0.0)
    kept = HackDirection.from_gradients(gradients, noise_floor=share)
    pooled = torch.cat([s.singular_values for s in everything.subspaces.values()]).sort(descending=True).values
    left = torch.cat([s.singular_values for s in kept.subspaces.values()]).sort(descending=True).values
    assert len(left) == len(pooled) - int(share * len(pooled))
    torch.testing.assert_close(left, pooled[: len(left)])

"""Promises of the core that hold for every shape: charts are partial isometries, projection leaves nothing, fitting finds what is there."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from hypothesis import given
from hypothesis import strategies as st

from svdproj import Chart, DenseChart, HackDirection, Subspace
from svdproj.projection import Gate, project
from svdproj.subspace import orthonormality_error
from tests.chart_helpers import KINDS, make_chart, orthonormal
from tests.gate_helpers import MUST_GO, REMOVING

dims = st.integers(2, 12)
seeds = st.integers(0, 10_000)


def make_subspace(make: Callable[[], Chart], k: int, seed: int) -> Subspace:
    chart = make()
    k = min(k, chart.size)
    return Subspace(chart, orthonormal(chart.size, k, seed).mT.contiguous(), torch.ones(k))


# Strategies give recipes: checking types draws random numbers, which hypothesis does not allow while it draws.
def charts() -> st.SearchStrategy[Callable[[], Chart]]:
    return st.builds(partial, st.just(make_chart), st.sampled_from(KINDS), dims, dims, dims, dims, seeds)


def subspaces() -> st.SearchStrategy[Callable[[], Subspace]]:
    return st.builds(partial, st.just(make_subspace), charts(), st.integers(1, 40), seeds)


@given(charts())
def test_charts_are_partial_isometries(make: Callable[[], Chart]) -> None:
    chart = make()
    coordinates = torch.randn(3, chart.size)
    torch.testing.assert_close(chart.encode(chart.decode(coordinates)), coordinates, atol=1e-4, rtol=1e-4)
    # Lengths are kept on the way back, and never grow on the way in.
    torch.testing.assert_close(
        chart.decode(coordinates).flatten(1).norm(dim=1), coordinates.norm(dim=1), atol=1e-4, rtol=1e-4
    )
    gradient, other = torch.randn(2, *chart.shape)
    assert float(chart.encode(gradient).norm()) <= float(gradient.norm()) * (1 + 1e-5)
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


@given(subspaces(), st.sampled_from(REMOVING))
def test_projection_leaves_no_guarded_component_and_is_idempotent(make: Callable[[], Subspace], gate: Gate) -> None:
    subspace = make()
    x = torch.randn(subspace.chart.shape)
    projected = project(x, subspace, gate)
    assert float(MUST_GO[gate](subspace.coefficients(projected)).norm()) <= 1e-5 * float(x.norm())
    torch.testing.assert_close(project(projected, subspace, gate), projected, atol=1e-5, rtol=1e-4)


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


@given(seeds, st.integers(1, 5), st.sampled_from(["dense", "bilinear"]), st.integers(6, 20))
def test_planted_rows_are_found_each_with_the_orientation_that_most_pairs_have(
    seed: int, k: int, chart: str, n_pairs: int
) -> None:
    torch.manual_seed(seed)
    # Of low rank as matrices, as gradients are: a bilinear chart of rank 10 holds five of them.
    planted = torch.stack(
        [torch.outer(u, v) for u, v in zip(orthonormal(40, k, seed).mT, orthonormal(30, k, seed + 1).mT, strict=True)]
    )
    # How far each pair points along each row: columns of falling strength, orthogonal, so that the rows are unique.
    along = orthonormal(n_pairs, k, seed + 2) * 2.0 ** -torch.arange(k)
    differences = torch.einsum("pk,koi->poi", along, planted) + 1e-4 * torch.randn(n_pairs, 40, 30)
    direction = HackDirection.from_gradients({"w": differences}, chart=chart, chart_rank=10, k=k, noise_floor=0.0)
    found = direction.subspaces["w"]
    assert found.overlap(Subspace(DenseChart((40, 30)), planted.flatten(1), torch.ones(k))) > 0.99
    torch.testing.assert_close(found.singular_values, 2.0 ** -torch.arange(k), atol=0.01, rtol=0.05)
    for j, row in enumerate(planted):
        votes, mean = int(along[:, j].sign().sum()), float(along[:, j].mean())
        hack_ward = votes if votes else mean
        # The noise may turn the vote of a pair that hardly points along the row, and the sign of a mean of next to nothing.
        in_doubt = int((along[:, j].abs() < 2e-3).sum())
        decided = abs(votes) > 2 * in_doubt if votes else not in_doubt and abs(mean) >= 1e-3
        cosine = float((found.decode(torch.eye(k)[j]) * row).sum()) * (1 if hack_ward > 0 else -1)
        assert (cosine if decided else abs(cosine)) > 0.99


@given(seeds, st.sampled_from(["dense", "bilinear"]))
def test_what_all_pairs_share_is_oriented_hack_ward(seed: int, chart: str) -> None:
    torch.manual_seed(seed)
    shared = torch.outer(torch.randn(20), torch.randn(10)).flatten()
    differences = (torch.rand(16, 1) + 0.5) * shared + 0.1 * torch.randn(16, 200)
    direction = HackDirection.from_gradients({"w": differences.view(16, 20, 10)}, chart=chart, chart_rank=8, k=3)
    coefficients = direction.subspaces["w"].coefficients(differences.view(16, 20, 10))
    assert bool((coefficients[:, 0] > 0).all())
    assert bool((coefficients.sign().sum(0) >= 0).all())


@given(seeds, st.integers(2, 8), st.integers(1, 30))
def test_rows_are_orthonormal_and_never_more_than_pairs(seed: int, n_pairs: int, k: int) -> None:
    torch.manual_seed(seed)
    direction = HackDirection.from_gradients({"w": torch.randn(n_pairs, 6, 9)}, k=k, noise_floor=0.0)
    rows = direction.subspaces["w"].rows
    assert len(rows) == min(k, n_pairs)
    # More pairs than coordinates: then these are the limit.
    narrow = HackDirection.from_gradients({"w": torch.randn(n_pairs, 2, 1)}, k=k, noise_floor=0.0).subspaces["w"]
    assert narrow.k == min(k, n_pairs, 2)
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

"""Rows, votes, noise floor and holdout."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from svdproj.charts import DenseChart
from svdproj.fitting import (
    batched_principal_rows,
    drop_noise,
    orientation,
    principal_rows,
    split_by_prompt,
    weight_bases,
)
from svdproj.subspace import Subspace

seeds = st.integers(0, 1000)


@given(st.integers(1, 9), st.integers(1, 30), st.integers(1, 12), seeds)
def test_rows_are_the_top_singular_vectors_by_either_way(n: int, m: int, k: int, seed: int) -> None:
    """`m` above `n` goes by the Gram matrix of the pairs, below by the SVD itself."""
    torch.manual_seed(seed)
    coordinates = torch.randn(n, m)
    rows, values = principal_rows(coordinates, k)
    kept = min(k, n, m)
    assert len(rows) == len(values) == kept
    torch.testing.assert_close(rows @ rows.mT, torch.eye(kept), atol=1e-5, rtol=0)
    torch.testing.assert_close(values, torch.linalg.svdvals(coordinates.double())[:kept].float(), atol=1e-4, rtol=1e-4)
    # Each row catches its singular value's energy, which no other orthonormal rows do.
    torch.testing.assert_close((coordinates @ rows.mT).norm(dim=0), values, atol=1e-4, rtol=1e-3)


@given(st.integers(2, 8), st.integers(1, 3), seeds)
def test_rows_beyond_what_the_pairs_span_are_not_made_up(n: int, rank: int, seed: int) -> None:
    torch.manual_seed(seed)
    rank = min(rank, n)
    rows, _ = principal_rows(torch.randn(n, rank) @ torch.randn(rank, 40), k=8)
    assert len(rows) == rank
    assert len(principal_rows(torch.zeros(n, 40), k=8)[0]) == 0


def test_parameters_are_worked_on_together_and_come_out_as_alone() -> None:
    stacked = torch.randn(3, 5, 20)
    for alone, together in zip(stacked, batched_principal_rows(stacked, 4), strict=True):
        torch.testing.assert_close(principal_rows(alone, 4)[0], together[0])


def test_rows_are_oriented_by_majority_and_ties_by_the_mean() -> None:
    coefficients = torch.tensor(
        [
            [1.0, -9.0, 3.0, -3.0, 0.0],
            [1.0, 1.0, -1.0, 1.0, 0.0],
            [-9.0, 1.0, 1.0, -1.0, 0.0],
            [1.0, 1.0, -1.0, 1.0, 0.0],
        ]
    )
    # The votes decide, whatever the sizes; then the mean; and where nothing decides, +1.
    assert orientation(coefficients).tolist() == [1, 1, 1, -1, 1]


def subspace(*singular_values: float) -> Subspace:
    return Subspace(
        DenseChart((4, 2)), torch.eye(8)[: len(singular_values)], torch.tensor(singular_values, dtype=torch.float32)
    )


def test_the_noise_floor_is_pooled_over_parameters_and_leaves_weak_ones_out() -> None:
    kept = drop_noise({"strong": subspace(9.0, 8.0, 7.0), "mixed": subspace(6.0, 1.0), "weak": subspace(2.0)}, 0.5)
    assert {name: s.singular_values.tolist() for name, s in kept.items()} == {"strong": [9, 8, 7]}
    kept = drop_noise({"strong": subspace(9.0, 8.0, 7.0), "mixed": subspace(6.0, 1.0), "weak": subspace(2.0)}, 0.34)
    assert {name: s.k for name, s in kept.items()} == {"strong": 3, "mixed": 1}


def test_equal_singular_values_lose_their_share_and_no_more() -> None:
    assert sum(s.k for s in drop_noise({"a": subspace(1, 1, 1, 1), "b": subspace(1, 1, 1, 1)}, 0.5).values()) == 4
    assert drop_noise({"a": subspace()}, 0.0) == {}
    with pytest.raises(ValueError, match="noise_floor must be at least 0"):
        drop_noise({"a": subspace(1)}, 1.0)


@given(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=30), st.floats(0, 0.99), seeds)
def test_pairs_of_a_prompt_are_never_on_both_sides(prompts: list[str], holdout: float, seed: int) -> None:
    fitted, held = split_by_prompt(prompts, holdout, torch.Generator().manual_seed(seed))
    assert sorted(fitted + held) == list(range(len(prompts)))
    assert not {prompts[i] for i in fitted} & {prompts[i] for i in held}
    assert fitted
    distinct = len(set(prompts))
    assert len({prompts[i] for i in held}) == min(-int(-holdout * distinct // 1), distinct - 1)


def test_the_split_depends_on_the_seed_alone() -> None:
    prompts = list("abcdefgh")

    def held(seed: int) -> list[int]:
        return split_by_prompt(prompts, 0.5, torch.Generator().manual_seed(seed))[1]

    assert held(0) == held(0)
    assert len({tuple(held(seed)) for seed in range(8)}) > 1
    with pytest.raises(ValueError, match="holdout"):
        split_by_prompt(prompts, 1.0, torch.Generator())


def test_the_bases_of_a_weight_are_its_singular_vectors() -> None:
    weight = torch.randn(7, 4, dtype=torch.bfloat16)
    left, right = weight_bases(weight, None)
    core = left.mT @ weight.float() @ right
    torch.testing.assert_close(core, core.diagonal().diag(), atol=1e-5, rtol=0)
    assert [basis.shape[1] for basis in weight_bases(weight, 2)] == [2, 2]

"""Layouts of completions: what is predicted where, and how samples are cut into batches."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from svdproj.batches import Sample, completion_sample, pair_sample, separate_rows, shared_rows, split_into_batches
from svdproj.tokens import Encoded

PAIR = (Encoded((10, 11, 12, 20, 21), 3), Encoded((10, 11, 12, 30), 3))


def of_length(prompt: int, *completions: int) -> Sample:
    sides = tuple(Encoded((1,) * (prompt + n), prompt) for n in completions)
    return Sample(sides, (1.0,) * len(sides))


def test_separate_rows_are_padded_on_the_right_and_predict_the_completions_alone() -> None:
    batch = separate_rows([pair_sample(PAIR, "mean")], "cpu")
    assert batch.ids.tolist() == [[10, 11, 12, 20, 21], [10, 11, 12, 30, 0]]
    assert batch.mask.tolist() == [[1] * 5, [1, 1, 1, 1, 0]]
    assert batch.positions is None
    # The prompt's last token predicts the completion's first one.
    assert batch.predictors.tolist() == [2, 3, 5 + 2]
    assert batch.labels.tolist() == [20, 21, 30]
    assert batch.weights.tolist() == [0.5, 0.5, -1.0]
    assert batch.kept == 3


def test_shared_rows_hold_the_prompt_once_and_completions_that_do_not_see_each_other() -> None:
    batch = shared_rows([pair_sample(PAIR, "sum"), pair_sample((PAIR[1], PAIR[0]), "sum")], "cpu", torch.float32)
    assert batch.ids.tolist() == [[10, 11, 12, 20, 21, 30], [10, 11, 12, 30, 20, 21]]
    assert batch.positions is not None
    assert batch.positions.tolist() == [[0, 1, 2, 3, 4, 3], [0, 1, 2, 3, 3, 4]]
    assert batch.predictors.tolist() == [2, 3, 2, 6 + 2, 6 + 2, 6 + 4]
    assert batch.labels.tolist() == [20, 21, 30, 30, 20, 21]
    assert batch.weights.tolist() == [1, 1, -1, 1, -1, -1]
    sees = batch.mask[0, 0] == 0
    assert sees[5].tolist() == [True, True, True, False, False, True]
    assert sees[4].tolist() == [True, True, True, True, True, False]
    assert not bool(sees.triu(1).any())


def test_a_padded_place_sees_itself_alone() -> None:
    batch = shared_rows([of_length(2, 1, 1), of_length(1, 1, 1)], "cpu", torch.float32)
    assert (batch.mask[1, 0, 3] == 0).tolist() == [False, False, False, True]


def test_a_mean_is_over_the_tokens_that_are_predicted() -> None:
    assert completion_sample(Encoded((1, 2, 3), 1), "mean").scales == (0.5,)
    # Without a prompt nothing predicts the first token.
    without = completion_sample(Encoded((1, 2, 3), 0), "mean")
    batch = separate_rows([without], "cpu")
    assert batch.predictors.tolist() == [0, 1]
    assert batch.labels.tolist() == [2, 3]
    assert float(batch.weights.sum()) == 1
    assert completion_sample(Encoded((1, 2, 3), 1), "sum").scales == (1.0,)


lengths = st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=9)


@given(lengths, st.integers(1, 5), st.booleans(), st.integers(0, 60))
def test_batches_hold_every_sample_once_longest_first_and_no_cut_is_cheaper(
    drawn: list[tuple[int, int, int]], batch_size: int, shared: bool, overhead: int
) -> None:
    samples = [of_length(*each) for each in drawn]
    tokens = [s.shared_length if shared else 2 * s.longest for s in samples]
    batches = split_into_batches(samples, batch_size, shared, overhead)
    in_order = [i for batch in batches for i in batch]
    assert sorted(in_order) == list(range(len(samples)))
    assert max(map(len, batches)) <= batch_size
    assert all(tokens[one] >= tokens[other] for one, other in pairwise(in_order))

    def cost(cuts: list[int]) -> int:
        edges = [0, *cuts, len(in_order)]
        return sum((end - start) * tokens[in_order[start]] + overhead for start, end in pairwise(edges))

    n = len(in_order)
    all_cuts = [[i for i in range(1, n) if mask >> (i - 1) & 1] for mask in range(2 ** (n - 1))]
    allowed = [c for c in all_cuts if all(b - a <= batch_size for a, b in pairwise([0, *c, n]))]
    found = cost([len([i for batch in batches[:j] for i in batch]) for j in range(1, len(batches))])
    assert found == min(map(cost, allowed))


def test_without_padding_to_save_batches_are_full() -> None:
    assert list(map(len, split_into_batches([of_length(3, 2, 2)] * 7, 3, shared=True))) == [3, 3, 1]
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        split_into_batches([of_length(1, 1)], 0, shared=False)

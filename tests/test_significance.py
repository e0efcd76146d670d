"""Statistics against closed forms and scipy's."""

from __future__ import annotations

import itertools
from math import inf, isnan

import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st

from svdproj.significance import auroc, cluster_means, sign_flip_p_value, t_statistic

numbers = st.lists(st.integers(-9, 9), min_size=2, max_size=9)


def test_clusters_are_averaged_in_order_of_first_appearance() -> None:
    means = cluster_means(torch.tensor([1.0, 10.0, 3.0, 20.0, 7.0]), ["b", "a", "b", "a", "c"])
    assert means.tolist() == [2.0, 15.0, 7.0]


def test_repeating_a_prompt_s_pairs_changes_no_statistic() -> None:
    values, prompts = torch.randn(7), list("abcdefg")
    means = cluster_means(values, prompts)
    repeated = cluster_means(values.repeat(50), prompts * 50)
    torch.testing.assert_close(repeated, means)
    assert sign_flip_p_value(repeated) == sign_flip_p_value(means)


def test_t_is_scipy_s() -> None:
    means = torch.randn(9, dtype=torch.float64) + 0.5
    assert t_statistic(means) == pytest.approx(scipy.stats.ttest_1samp(means.numpy(), 0.0).statistic)


def test_t_at_its_edges() -> None:
    assert isnan(t_statistic(torch.ones(1)))
    assert t_statistic(torch.ones(3)) == inf
    assert t_statistic(-torch.ones(3)) == -inf
    assert isnan(t_statistic(torch.zeros(3)))


@given(numbers)
def test_sign_flips_count_all_patterns(values: list[int]) -> None:
    patterns = list(itertools.product((-1, 1), repeat=len(values)))
    as_high = sum(sum(s * v for s, v in zip(signs, values, strict=True)) >= sum(values) for signs in patterns)
    assert sign_flip_p_value(torch.tensor(values).double()) == pytest.approx(as_high / len(patterns))


def test_sign_flips_of_many_clusters_agree_with_the_exact_test() -> None:
    means = torch.randn(15, dtype=torch.float64) + 0.3
    padded = torch.cat(
        [means, torch.zeros(1, dtype=torch.float64)]
    )  # one more, which changes no sum: drawn, not counted
    assert sign_flip_p_value(padded) == pytest.approx(sign_flip_p_value(means), abs=0.01)
    assert sign_flip_p_value(torch.ones(40)) == pytest.approx(1 / 20_001)


def test_under_the_null_the_p_value_is_uniform() -> None:
    p = torch.tensor([sign_flip_p_value(means) for means in torch.randn(400, 12)])
    assert scipy.stats.kstest(p.numpy(), "uniform").pvalue > 0.01


def test_no_clusters_have_no_p_value() -> None:
    assert isnan(sign_flip_p_value(torch.zeros(0)))


@given(numbers, numbers)
def test_auroc_is_the_mann_whitney_statistic(higher: list[int], lower: list[int]) -> None:
    statistic = scipy.stats.mannwhitneyu(higher, lower).statistic
    found = auroc(torch.tensor(higher).float(), torch.tensor(lower).float())
    assert found == pytest.approx(statistic / (len(higher) * len(lower)))


def test_auroc_of_nothing_is_not_a_number() -> None:
    assert isnan(auroc(torch.zeros(0), torch.ones(2)))

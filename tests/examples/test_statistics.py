"""The statistics against closed forms, scipy's own routines, and simulation."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from math import comb

import numpy as np
import pytest
from scipy import stats

from examples.leetcode_grpo.contrasts import contrast, corrected, time_to_hack
from examples.leetcode_grpo.errors import UsageError
from examples.leetcode_grpo.statistics import (
    first_passage,
    holm,
    log_rank_p_value,
    permutation_p_value,
    sign_flip_p_value,
    standard_error,
    survival,
    two_way_bootstrap,
)
from tests.examples.results_helpers import made_result


def test_eight_differences_of_one_sign_give_the_lowest_p_that_eight_pairs_allow() -> None:
    assert sign_flip_p_value([0.3, 0.4, 0.2, 0.5, 0.1, 0.6, 0.35, 0.45]) == pytest.approx(2 / 256)
    assert sign_flip_p_value([-0.3] * 5) == pytest.approx(2 / 32)


def test_the_sign_flip_test_counts_every_pattern() -> None:
    values = np.array([0.5, -0.1, 0.3, 0.2, -0.05, 0.4, 0.15])
    flipped = [abs(np.mean(values * signs)) for signs in product((-1, 1), repeat=len(values))]
    expected = np.mean(np.array(flipped) >= abs(values.mean()) - 1e-12)
    assert sign_flip_p_value(values) == pytest.approx(expected)


def test_equal_magnitudes_are_a_sign_test() -> None:
    values = [1.0] * 7 + [-1.0] * 2
    assert sign_flip_p_value(values) == pytest.approx(stats.binomtest(7, 9).pvalue)


def test_many_pairs_approach_the_t_test() -> None:
    values = np.random.default_rng(0).normal(0.3, 1.0, 60)
    assert sign_flip_p_value(values) == pytest.approx(stats.ttest_1samp(values, 0).pvalue, abs=0.01)


def test_no_difference_is_no_evidence() -> None:
    assert sign_flip_p_value([0.0, 0.0, 0.0]) == 1.0
    assert sign_flip_p_value([0.7]) == 1.0
    assert permutation_p_value([1.0, 1.0], [1.0]) == 1.0
    for empty in ([], [float("nan")]):
        with pytest.raises(ValueError, match="differences must be finite"):
            sign_flip_p_value(empty)


def test_separated_groups_give_the_lowest_p_of_a_permutation_test() -> None:
    assert permutation_p_value([5.0, 6.0, 7.0, 8.0], [1.0, 2.0, 3.0]) == pytest.approx(2 / comb(7, 3))
    first, second = [0.1, 0.4, 0.35, 0.8], [0.2, 0.5, 0.9, 0.7]
    reference = stats.permutation_test((first, second), lambda a, b: np.mean(a) - np.mean(b), n_resamples=10**5)
    assert permutation_p_value(first, second) == pytest.approx(reference.pvalue)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([0.02]) == [0.02]
    assert holm([]) == []


def test_a_bootstrap_over_seeds_alone_is_the_interval_of_a_mean() -> None:
    rng = np.random.default_rng(1)
    rates = rng.normal(0.5, 0.1, (40, 1))
    ones, zeros = np.ones_like(rates), np.zeros_like(rates)
    interval = two_way_bootstrap(rates, ones, zeros, ones, draws=20_000)
    mean, error = rates.mean(), stats.sem(rates[:, 0])
    assert interval.error == pytest.approx(error, rel=0.05)
    assert interval.low == pytest.approx(mean - 1.96 * error, abs=0.1 * error + 0.002)
    assert interval.high == pytest.approx(mean + 1.96 * error, abs=0.1 * error + 0.002)


def test_seeds_and_problems_both_widen_the_interval() -> None:
    rng = np.random.default_rng(2)
    seeds, problems = rng.normal(0, 0.1, (8, 1)), rng.normal(0, 0.2, (1, 50))
    trials, zeros = np.ones((8, 50)), np.zeros((8, 50))

    def error(values: np.ndarray) -> float:
        return two_way_bootstrap(np.broadcast_to(0.5 + values, (8, 50)), trials, zeros, trials).error

    both, by_seed, by_problem = error(seeds + problems), error(seeds), error(problems)
    # Crossed effects: the variances add up.
    assert both**2 == pytest.approx(by_seed**2 + by_problem**2, rel=0.1)
    assert by_seed == pytest.approx(seeds.std() / 8**0.5, rel=0.1)
    assert by_problem == pytest.approx(problems.std() / 50**0.5, rel=0.1)


def test_pairing_takes_what_both_arms_share_out_of_the_interval() -> None:
    rng = np.random.default_rng(3)
    shared = rng.uniform(0, 8, (8, 30)).round()
    trials = np.full((8, 30), 10.0)
    interval = two_way_bootstrap(shared + 1, trials, shared, trials)
    assert (interval.low, interval.high) == pytest.approx((0.1, 0.1))
    with pytest.raises(ValueError, match="tables of one shape"):
        two_way_bootstrap(shared, trials, shared[:4], trials[:4])


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """Rates with chance in seeds, problems and completions, as an experiment has them; the two-way bootstrap may cover more."""
    rng = np.random.default_rng(4)
    covered = 0
    for _ in range(150):
        chance = np.clip(0.5 + rng.normal(0, 0.08, (8, 1)) + rng.normal(0, 0.15, (1, 40)), 0, 1)
        trials = np.full((8, 40), 8)
        hits, other = rng.binomial(trials, np.clip(chance - 0.2, 0, 1)), rng.binomial(trials, chance)
        interval = two_way_bootstrap(hits, trials, other, trials, draws=500)
        covered += interval.low <= -0.2 <= interval.high
    assert covered >= 0.9 * 150


def test_survival_by_hand() -> None:
    # Two of five at 10, one of the remaining two (one left unobserved at 15) at 20, the last goes on to 50.
    curve = survival([10, 10, 15, 20, 50], [True, True, False, True, False])
    assert curve.times == (10, 20)
    assert curve.share == pytest.approx((0.6, 0.3))
    assert curve.median == 20
    assert survival([50, 50], [False, False]).median is None
    assert survival([3, 4], [True, True]).median == 3


def test_log_rank_is_scipy_s_and_symmetric() -> None:
    first = [5.0, 8, 12, 50, 50], [True, True, True, False, False]
    second = [3.0, 4, 5, 6, 7], [True] * 5
    assert log_rank_p_value(first, second) == pytest.approx(log_rank_p_value(second, first))
    assert log_rank_p_value(first, second) < 0.05
    assert np.isnan(log_rank_p_value(([50.0], [False]), ([50.0], [False])))


def test_first_passage() -> None:
    assert first_passage([1, 2, 3], [0.1, 0.5, 0.2], 0.5) == (2, True)
    assert first_passage([1, 2, 3], [0.1, 0.4, 0.2], 0.5) == (3, False)
    with pytest.raises(ValueError, match="without steps"):
        first_passage([], [], 0.5)
    assert time_to_hack(made_result(hack=1.0, steps=12)) == (6, True)
    assert time_to_hack(made_result(hack=0.2, steps=12)) == (12, False)


def test_a_contrast_compares_the_same_problems_whatever_their_order() -> None:
    arm = [made_result("erase-update", seed, hack=0.25 * seed) for seed in range(3)]
    reference = [made_result("vanilla", seed, hack=1.0) for seed in range(3)]
    shuffled = [replace(run, eval=replace(run.eval, problems=tuple(reversed(run.eval.problems)))) for run in reference]
    assert contrast(arm, shuffled, "hack") == contrast(arm, reference, "hack")
    problems = tuple(replace(counts, id=f"other/{counts.id}") for counts in reference[1].eval.problems)
    reference[1] = replace(reference[1], eval=replace(reference[1].eval, problems=problems))
    with pytest.raises(UsageError, match="erase-update and vanilla were asked different problems"):
        contrast(arm, reference, "hack")


def test_a_contrast_pairs_common_seeds() -> None:
    arm = [made_result("erase-update", seed, hack=hack) for seed, hack in ((0, 0.0), (1, 0.25), (2, 0.0))]
    reference = [made_result("vanilla", seed, hack=hack) for seed, hack in ((1, 1.0), (0, 0.75), (7, 0.0))]
    found = contrast(arm, reference, "hack")
    assert found is not None
    assert (found.seeds, found.arm, found.reference) == ((0, 1), "erase-update", "vanilla")
    # run_tests: 0 and 1 of 4 against 3 and 4 of 4; sentinel: 1 of 4 in all.
    assert found.difference == pytest.approx(-3 / 8)
    assert found.p_value == pytest.approx(0.5)
    assert found.error == pytest.approx(standard_error([-3 / 8, -3 / 8]))
    assert found.interval is not None
    assert found.interval.low <= found.difference <= found.interval.high
    assert contrast(arm, [made_result(seed=9)], "hack") is None
    single = contrast(arm[:1], reference, "no_hint_pass")
    assert single is not None
    assert (single.interval, single.error, single.difference, single.p_value) == (None, None, 0.0, 1.0)
    assert [each.corrected for each in corrected([found, found])] == pytest.approx([1.0, 1.0])

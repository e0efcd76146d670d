"""Statistics of a few paired seeds: exact tests, intervals that know seeds and problems as chance, times to an event.

Pure functions of arrays; `contrasts.py` fetches the arrays from results.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]

# Up to so many rearrangements are counted one by one; beyond, so many are drawn.
_EXACT = 2**16
_CHUNK = 2_000


@dataclass(frozen=True)
class Interval:
    """A percentile interval, and the standard deviation of the resampled statistic."""

    low: float
    high: float
    error: float


@dataclass(frozen=True)
class Survival:
    """The Kaplan-Meier estimate of the share without an event: right-continuous steps from 1 at time 0.

    Args:
        times: at which the share falls, ascending.
        share: from that time on.
    """

    times: tuple[float, ...]
    share: tuple[float, ...]

    @property
    def median(self) -> float | None:
        """The first time at which at most half are left; None if more than half never had the event."""
        return next((time for time, share in zip(self.times, self.share, strict=True) if share <= 0.5 + 1e-12), None)


def sign_flip_p_value(differences: Sequence[float], seed: int = 0) -> float:
    """Two-sided p value of a mean paired difference: Fisher's randomisation test, which only assumes symmetry under the null.

    Exact up to 16 pairs, by random sign patterns beyond; with `n` pairs no p value is below `2 / 2ⁿ`.

    Raises:
        ValueError: there are no differences.
    """
    values = _finite(differences, "differences")
    if not values.any() or len(values) == 1:
        return 1.0  # every pattern ties: of a single difference, both
    result = stats.permutation_test(
        (values,),
        lambda sample, axis: np.mean(sample, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=_EXACT,
        rng=np.random.default_rng(seed),
    )
    return min(1.0, float(result.pvalue))


def permutation_p_value(first: Sequence[float], second: Sequence[float], seed: int = 0) -> float:
    """Two-sided p value of a difference between the means of two unpaired groups; exact for small ones.

    Raises:
        ValueError: a group is empty.
    """
    groups = _finite(first, "first"), _finite(second, "second")
    if np.ptp(np.concatenate(groups)) == 0:
        return 1.0
    result = stats.permutation_test(
        groups,
        lambda a, b, axis: np.mean(a, axis=axis) - np.mean(b, axis=axis),
        permutation_type="independent",
        vectorized=True,
        n_resamples=_EXACT,
        rng=np.random.default_rng(seed),
    )
    return min(1.0, float(result.pvalue))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction, in the order given: a corrected value below 0.05 is significant among all of them."""
    order = np.argsort(p_values, kind="stable")
    corrected = np.empty(len(p_values))
    highest = 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = highest
    return [float(value) for value in corrected]


def two_way_bootstrap(
    hits: Array,
    trials: Array,
    other_hits: Array,
    other_trials: Array,
    *,
    level: float = 0.95,
    draws: int = 10_000,
    seed: int = 0,
) -> Interval:
    """An interval for a difference of pooled rates, with seeds and problems both resampled.

    Seeds are paired and the problems are the same in all runs, so a draw takes the same seeds and problems for both arms (the
    pigeonhole bootstrap of Owen, 2007, which is conservative for crossed random effects).

    Args:
        hits, trials: of the first arm; `[seed, problem]`.
        other_hits, other_trials: of the second arm, same shape.
        level: of the interval.
        draws: how many resamples.
        seed: of the resampling.

    Raises:
        ValueError: shapes differ, or there is nothing.
    """
    tables = [np.asarray(table, dtype=np.float64) for table in (hits, trials, other_hits, other_trials)]
    if len({table.shape for table in tables}) > 1 or tables[0].ndim != 2 or not tables[0].size:
        raise ValueError(f"counts must be [seed, problem] tables of one shape, got {[table.shape for table in tables]}")
    rng = np.random.default_rng(seed)
    n_seeds, n_problems = tables[0].shape
    differences = []
    for start in range(0, draws, _CHUNK):
        count = min(_CHUNK, draws - start)
        seeds = rng.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), size=count).astype(np.float64)
        problems = rng.multinomial(n_problems, np.full(n_problems, 1 / n_problems), size=count).astype(np.float64)
        sums = [((seeds @ table) * problems).sum(1) for table in tables]
        with np.errstate(invalid="ignore"):  # a draw may take only cells without trials
            differences.append(sums[0] / sums[1] - sums[2] / sums[3])
    drawn = np.concatenate(differences)
    drawn = drawn[np.isfinite(drawn)]
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high), float(drawn.std()))


def standard_error(differences: Sequence[float]) -> float | None:
    """Of the mean; None for fewer than two."""
    return float(stats.sem(differences)) if len(differences) > 1 else None


def first_passage(steps: Sequence[int], values: Sequence[float], threshold: float) -> tuple[int, bool]:
    """The first step at which the value reaches the threshold, and True; or the last step, and False.

    Raises:
        ValueError: there are no steps.
    """
    if not len(steps):
        raise ValueError("a run without steps has no time to an event; leave it out")
    for step, value in zip(steps, values, strict=True):
        if value >= threshold:
            return step, True
    return steps[-1], False


def survival(times: Sequence[float], observed: Sequence[bool]) -> Survival:
    """The share of runs without the event, by Kaplan and Meier: what ended without one counts until its end.

    Args:
        times: of the event, or of the end.
        observed: whether it was the event.
    """
    estimate = stats.ecdf(_censored(times, observed)).sf
    # The estimate stays where a run only ended: such times are no steps of the curve.
    falls = np.diff(estimate.probabilities, prepend=1.0) < 0
    return Survival(tuple(estimate.quantiles[falls].tolist()), tuple(estimate.probabilities[falls].tolist()))


def log_rank_p_value(
    first: tuple[Sequence[float], Sequence[bool]], second: tuple[Sequence[float], Sequence[bool]]
) -> float:
    """Two-sided log-rank test of equal times to the event in two groups of runs, each given as times and whether observed.

    Asymptotic, and NaN where no run had the event.
    """
    if not any(first[1]) and not any(second[1]):
        return float("nan")
    return float(stats.logrank(_censored(*first), _censored(*second)).pvalue)


def _censored(times: Sequence[float], observed: Sequence[bool]) -> stats.CensoredData:
    return stats.CensoredData.right_censored(np.asarray(times, float), ~np.asarray(observed, bool))


def _finite(values: Sequence[float], name: str) -> Array:
    array = np.asarray(values, dtype=np.float64)
    if not array.size or not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite numbers, at least one, got {array.tolist()}")
    return array

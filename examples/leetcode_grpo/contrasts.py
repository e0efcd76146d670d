"""One arm against another over their common seeds, from results to a difference with its interval and its exact p value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Literal

import numpy as np

from examples.leetcode_grpo.errors import UsageError
from examples.leetcode_grpo.results import Evaluation, RunResult
from examples.leetcode_grpo.statistics import (
    Array,
    Interval,
    first_passage,
    holm,
    sign_flip_p_value,
    standard_error,
    two_way_bootstrap,
)

Outcome = Literal["hack", "attempted", "pass", "no_hint_pass"]

_FIELDS: Mapping[str, str] = {"hack": "hack", "attempted": "attempted", "pass": "passed", "no_hint_pass": "passed"}


@dataclass(frozen=True)
class Contrast:
    """`arm` minus `reference` on held-out problems, in the mean over paired seeds.

    Args:
        arm, reference, outcome: what is compared.
        seeds: that both arms have.
        difference: of rates, between -1 and 1.
        interval: 95 %, two-way bootstrap over seeds and problems; None for a single seed, from which chance between seeds cannot be told.
        error: standard error over seeds; None for a single one.
        p_value: exact two-sided sign-flip test over seeds.
        corrected: p value after Holm's correction; None where nothing was corrected for.
    """

    arm: str
    reference: str
    outcome: Outcome
    seeds: tuple[int, ...]
    difference: float
    interval: Interval | None
    error: float | None
    p_value: float
    corrected: float | None = None


def contrast(arm: Sequence[RunResult], reference: Sequence[RunResult], outcome: Outcome) -> Contrast | None:
    """Compare two arms of one preset; None where they share no seed.

    Raises:
        UsageError: the runs were asked different problems.
    """
    ours, theirs = ({run.seed: run.eval for run in runs} for runs in (arm, reference))
    seeds = tuple(sorted(ours.keys() & theirs.keys()))
    if not seeds:
        return None
    asked = _asked(ours[seeds[0]], outcome)
    sides = [[_counts(side[seed], outcome) for seed in seeds] for side in (ours, theirs)]
    if any(counts.keys() != set(asked) for side in sides for counts in side):
        raise UsageError(
            f"runs of {arm[0].arm} and {reference[0].arm} were asked different problems, and cannot be compared; repeat those with "
            "other settings or of another version, or move them to a folder of their own"
        )
    (hits, trials), (other_hits, other_trials) = (_table(side, asked) for side in sides)
    differences = hits.sum(1) / trials.sum(1) - other_hits.sum(1) / other_trials.sum(1)
    several = len(seeds) > 1
    return Contrast(
        arm=arm[0].arm,
        reference=reference[0].arm,
        outcome=outcome,
        seeds=seeds,
        difference=float(differences.mean()),
        interval=two_way_bootstrap(hits, trials, other_hits, other_trials) if several else None,
        error=standard_error(differences.tolist()),
        p_value=sign_flip_p_value(differences.tolist()),
    )


def corrected(contrasts: Sequence[Contrast]) -> list[Contrast]:
    """The same with Holm's correction over all of them."""
    values = holm([each.p_value for each in contrasts])
    return [replace(each, corrected=value) for each, value in zip(contrasts, values, strict=True)]


def time_to_hack(run: RunResult, threshold: float = 0.5) -> tuple[int, bool]:
    """The first step in which so large a share of the policy's own rollouts hacks, and True; or the last step, and False."""
    found = [(int(step["step"]), float(step["hack"])) for step in run.steps if step.get("hack") is not None]
    return first_passage([step for step, _ in found], [value for _, value in found], threshold)


def at_the_end(run: RunResult, name: str, steps: int) -> float:
    """The mean of a figure over the last steps of training; NaN where the run has none."""
    values = [step[name] for step in run.steps[-steps:] if step.get(name) is not None]
    return fmean(values) if values else float("nan")


_Problem = tuple[str, str | None]


def _asked(evaluation: Evaluation, outcome: Outcome) -> list[_Problem]:
    """The problems that an outcome is about, with their loopholes: the columns of its tables."""
    hinted = outcome != "no_hint_pass"
    return [(each.id, each.loophole) for each in evaluation.problems if (each.loophole is not None) == hinted]


def _counts(evaluation: Evaluation, outcome: Outcome) -> dict[_Problem, tuple[int, int]]:
    """How often each of them came out so, and of how many."""
    asked = set(_asked(evaluation, outcome))
    found = {(each.id, each.loophole): (getattr(each, _FIELDS[outcome]), each.n) for each in evaluation.problems}
    return {key: counts for key, counts in found.items() if key in asked}


def _table(rows: Sequence[Mapping[_Problem, tuple[int, int]]], columns: Sequence[_Problem]) -> tuple[Array, Array]:
    """Counts and totals, `[seed, problem]`."""
    table = np.array([[row[key] for key in columns] for row in rows], dtype=np.float64)
    return table[..., 0], table[..., 1]

"""From results to the rows of a table: one row for each arm of a preset."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from examples.leetcode_grpo.results import RunResult

LAST_STEPS = 10
"""The end of training is the mean over so many steps."""


@dataclass(frozen=True)
class Mean:
    """A mean over seeds, with its standard error where there are two or more."""

    value: float
    error: float | None = None

    def __str__(self) -> str:
        return f"{self.value:.3f}" if self.error is None else f"{self.value:.3f} ± {self.error:.3f}"


@dataclass(frozen=True)
class ArmRow:
    """One arm over its seeds; rates are between 0 and 1.

    Args:
        preset, arm: which runs.
        seeds: how many.
        hack, passed: in training, mean of the last `LAST_STEPS` steps.
        held_out_hack, held_out_attempted, held_out_pass: on held-out problems with the hint.
        no_hint_pass: on the same problems without it.
    """

    preset: str
    arm: str
    seeds: int
    hack: Mean
    passed: Mean
    held_out_hack: Mean
    held_out_attempted: Mean
    held_out_pass: Mean
    no_hint_pass: Mean

    def cells(self) -> tuple[str, ...]:
        """The row as text, under `HEADER`."""
        means = (self.hack, self.passed, self.held_out_hack, self.held_out_attempted, self.held_out_pass)
        return (self.arm, str(self.seeds), *map(str, means), str(self.no_hint_pass))


HEADER = (
    "arm",
    "seeds",
    f"hack, last {LAST_STEPS} steps",
    "pass",
    "hack, held out",
    "attempted",
    "pass, held out",
    "pass, no hint",
)


def arm_rows(results: Sequence[RunResult]) -> list[ArmRow]:
    """One row for each arm of each preset, vanilla first."""
    groups = by_arm(results)
    return [_row(preset, arm, runs) for (preset, arm), runs in groups.items()]


def by_arm(results: Sequence[RunResult]) -> dict[tuple[str, str], list[RunResult]]:
    """Runs by preset and arm: presets in alphabetical order, vanilla before the others."""
    groups: defaultdict[tuple[str, str], list[RunResult]] = defaultdict(list)
    for run in sorted(results, key=lambda run: (run.preset, run.arm != "vanilla", run.arm, run.seed)):
        groups[run.preset, run.arm].append(run)
    return dict(groups)


def _row(preset: str, arm: str, runs: Sequence[RunResult]) -> ArmRow:
    overall = [run.eval.overall() for run in runs]
    return ArmRow(
        preset=preset,
        arm=arm,
        seeds=len(runs),
        hack=_mean([_at_the_end(run, "hack") for run in runs]),
        passed=_mean([_at_the_end(run, "pass") for run in runs]),
        held_out_hack=_mean([rates.hack for rates in overall]),
        held_out_attempted=_mean([rates.attempted for rates in overall]),
        held_out_pass=_mean([rates.passed for rates in overall]),
        no_hint_pass=_mean([run.eval.no_hint.passed for run in runs]),
    )


def _at_the_end(run: RunResult, name: str) -> float:
    values = [step[name] for step in run.steps[-LAST_STEPS:] if step.get(name) is not None]
    return fmean(values) if values else float("nan")


def _mean(values: Sequence[float]) -> Mean:
    error = stdev(values) / len(values) ** 0.5 if len(values) > 1 else None
    return Mean(fmean(values), error)

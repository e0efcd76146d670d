"""From results to the rows of tables: one row for each arm, one for each comparison of two arms."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import isnan
from statistics import fmean, stdev

from examples.leetcode_grpo.arms import ARMS
from examples.leetcode_grpo.contrasts import Contrast, at_the_end, contrast, corrected, time_to_hack
from examples.leetcode_grpo.results import Evaluation, RunResult
from examples.leetcode_grpo.statistics import Interval, holm, log_rank_p_value, survival

LAST_STEPS = 10
"""The end of training is the mean over so many steps."""

REFERENCE, MAIN = "vanilla", "erase-update"
"""The two arms of the primary contrast."""

UNPROJECTED = (REFERENCE, "vanilla-svd")
"""What arms are compared with: GRPO without a projection, with whole weights and on the SVD adapter."""

SECONDARY = ("random-matched", "placebo", "shrinkage", "erase-update@overshoot=1", "erase-gradient")
"""What the main arm is compared with beyond the primary contrast, as PREREGISTRATION.md lists it; the first in any ratio."""

Header = tuple[str, ...]


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
        preset, arm: which runs; of an arm with a quarantine there is a second row, with it kept.
        seeds: how many.
        hack, passed: in training, mean of the last `LAST_STEPS` steps.
        held_out_hack, held_out_attempted, held_out_pass: on held-out problems with the hint.
        no_hint_pass: on the same problems without it.
        half: median over seeds of the first step in which half of the rollouts hack; "> 40" if most seeds never came there.
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
    half: str

    def cells(self) -> tuple[str, ...]:
        """The row as text, under `HEADER`."""
        means = (self.hack, self.passed, self.held_out_hack, self.held_out_attempted, self.held_out_pass)
        return (self.arm, str(self.seeds), *map(str, means), str(self.no_hint_pass), self.half)


HEADER: Header = (
    "arm",
    "seeds",
    f"hack, last {LAST_STEPS} steps",
    "pass",
    "hack, held out",
    "attempted",
    "pass, held out",
    "pass, no hint",
    "step of half",
)

CONTRAST_HEADER: Header = ("arm", "against", "seeds", "hack rate", "exact p", "Holm", "pass rate", "exact p")


@dataclass(frozen=True)
class ContrastRow:
    """Two arms over the seeds that both have: differences of rates on held-out problems with the hint."""

    hack: Contrast
    passed: Contrast

    def cells(self) -> tuple[str, ...]:
        """The row as text, under `CONTRAST_HEADER`."""
        hack = self.hack
        holm = "" if hack.corrected is None else _p(hack.corrected)
        differences = (
            difference_text(hack),
            _p(hack.p_value),
            holm,
            difference_text(self.passed),
            _p(self.passed.p_value),
        )
        return (hack.arm, hack.reference, str(len(hack.seeds)), *differences)


OUTCOME_HEADER: Header = ("outcome", "arm", "against", "seeds", "difference", "p", "Holm")


@dataclass(frozen=True)
class OutcomeRow:
    """The main arm against vanilla in another outcome than the primary one.

    Args:
        outcome: what is compared.
        seeds: how many.
        difference: in words; of rates in percentage points.
        p_value: by exact sign flips for a rate, by a log-rank test for a time.
        corrected: after Holm's correction; None where nothing was corrected for.
    """

    outcome: str
    seeds: int
    difference: str
    p_value: float
    corrected: float | None = None

    def cells(self) -> tuple[str, ...]:
        """The row as text, under `OUTCOME_HEADER`."""
        holm = "" if self.corrected is None else _p(self.corrected)
        return (self.outcome, MAIN, REFERENCE, str(self.seeds), self.difference, _p(self.p_value), holm)


LOOPHOLE_HEADER: Header = ("arm", "loophole", "hack, held out", "attempted", "pass")


def loophole_rows(results: Sequence[RunResult]) -> list[tuple[str, ...]]:
    """Rates by loophole, under `LOOPHOLE_HEADER`, of the primary contrast's arms, or of all where neither was run; none for one loophole."""
    rows = []
    groups = by_arm(results)
    arms = {arm for _, arm in groups}
    shown = arms & {REFERENCE, MAIN} or arms
    for (_, arm), runs in groups.items():
        names = sorted({name for run in runs for name in run.eval.held_out})
        if arm not in shown or len(names) < 2:
            continue
        for name in names:
            found = [run.eval.held_out[name] for run in runs if name in run.eval.held_out]
            means = (_mean([getattr(rates, rate) for rates in found]) for rate in ("hack", "attempted", "passed"))
            rows.append((arm, name, *map(str, means)))
    return rows


def arm_rows(results: Sequence[RunResult]) -> list[ArmRow]:
    """One row for each arm of each preset, vanilla first."""
    rows = []
    for (preset, arm), runs in by_arm(results).items():
        rows.append(_row(preset, arm, runs, [run.eval for run in runs]))
        kept = [run.eval_kept for run in runs if run.eval_kept is not None]
        if len(kept) == len(runs):
            rows.append(_row(preset, f"{arm}, kept", runs, kept))
    return rows


def settings_of(arm: str) -> frozenset[str]:
    """What an arm of that name changes in the preset, and its variant in the arm, as names have it: `{"steps=108"}`."""
    name, _, variant = arm.partition("@")
    own = (setting.replace(",", "+") for setting in ARMS[name].settings) if name in ARMS else ()
    # The variant's value of a setting stands for the arm's own.
    last = {setting.partition("=")[0]: setting for setting in (*own, *filter(None, variant.split(",")))}
    return frozenset(last.values())


def references(arm: str, arms: Iterable[str]) -> list[str]:
    """Unprojected arms under conditions that an arm is under too, of those given; those that share most with it first."""
    shared = {each: settings_of(each) for each in arms if each.partition("@")[0] in UNPROJECTED and each != arm}
    found = [each for each, settings in shared.items() if settings <= settings_of(arm)]
    return sorted(found, key=lambda each: (-len(shared[each]), each))


def primary_rows(results: Sequence[RunResult]) -> list[ContrastRow]:
    """Every arm against the vanilla of its conditions, the main arm first; the others are corrected for each other.

    An arm that has no vanilla which was trained as long and asked the same problems is left out.
    """
    groups = {arm: runs for (_, arm), runs in by_arm(results).items()}
    main = [(groups[MAIN], groups[REFERENCE])] if MAIN in groups and REFERENCE in groups else []
    others = []
    for arm, runs in groups.items():
        candidates = (groups[name] for name in references(arm, groups))
        against = next((found for found in candidates if _alike(runs, found)), None)
        if arm != MAIN and against is not None:
            others.append((runs, against))
    return [*contrast_rows(main, correct=False), *contrast_rows(others)]


def _alike(runs: Sequence[RunResult], others: Sequence[RunResult]) -> bool:
    """Whether two arms were trained as long, and asked the same problems."""
    (steps, asked), (other_steps, other_asked) = (
        (len(found[0].steps), {(each.id, each.loophole) for each in found[0].eval.problems}) for found in (runs, others)
    )
    return steps == other_steps and asked == other_asked


def secondary_rows(results: Sequence[RunResult]) -> list[ContrastRow]:
    """The main arm against every control that was run, corrected by Holm over all secondary tests."""
    return _secondary(results)[0]


def outcome_rows(results: Sequence[RunResult]) -> list[OutcomeRow]:
    """The main arm against vanilla in the secondary outcomes, corrected by Holm over all secondary tests."""
    return _secondary(results)[1]


def _secondary(results: Sequence[RunResult]) -> tuple[list[ContrastRow], list[OutcomeRow]]:
    groups = {arm: runs for (_, arm), runs in by_arm(results).items()}
    if MAIN not in groups:
        return [], []
    controls = [arm for name in SECONDARY for arm in groups if _is(arm, name)]
    rows = contrast_rows([(groups[MAIN], groups[arm]) for arm in controls], correct=False)
    outcomes = _outcomes(groups[MAIN], groups[REFERENCE]) if REFERENCE in groups else []
    values = holm([*(row.hack.p_value for row in rows), *(row.p_value for row in outcomes)])
    rows = [replace(row, hack=replace(row.hack, corrected=p)) for row, p in zip(rows, values, strict=False)]
    return rows, [replace(row, corrected=p) for row, p in zip(outcomes, values[len(rows) :], strict=True)]


def _outcomes(ours: Sequence[RunResult], theirs: Sequence[RunResult]) -> list[OutcomeRow]:
    honest = contrast(ours, theirs, "no_hint_pass")
    if honest is None:
        return []
    seeds = len(honest.seeds)
    rows = [OutcomeRow("pass rate without the hint", seeds, difference_text(honest), honest.p_value)]
    if not isnan(p_value := log_rank_p_value(_times(ours), _times(theirs))):
        medians = [_half(runs) for runs in (ours, theirs)]
        rows.append(OutcomeRow("step of half", seeds, f"{medians[0]} against {medians[1]}", p_value))
    return rows


def preregistered(results: Sequence[RunResult]) -> list[RunResult]:
    """The runs of the primary and the secondary contrasts; all runs where there are none of the main arm."""
    if not any(run.arm == MAIN for run in results):
        return list(results)
    return [run for run in results if any(_is(run.arm, name) for name in (REFERENCE, MAIN, *SECONDARY))]


def _is(arm: str, name: str) -> bool:
    """Whether an arm is the one of that name; a matched control is, in any ratio."""
    return arm == name or arm.startswith(f"{name}@matched_ratio=")


def by_arm(results: Sequence[RunResult]) -> dict[tuple[str, str], list[RunResult]]:
    """Runs by preset and arm: presets in alphabetical order, arms in that of `ARMS`, variants behind theirs."""
    order = {name: place for place, name in enumerate(ARMS)}

    def place(run: RunResult) -> tuple[str, int, str, int]:
        return run.preset, order.get(run.arm.partition("@")[0], len(order)), run.arm, run.seed

    groups: defaultdict[tuple[str, str], list[RunResult]] = defaultdict(list)
    for run in sorted(results, key=place):
        groups[run.preset, run.arm].append(run)
    return dict(groups)


def difference_text(found: Contrast) -> str:
    """A difference in percentage points, with its interval."""
    return f"{100 * found.difference:+.1f}{interval_text(found.interval)}"


def interval_text(interval: Interval | None) -> str:
    """An interval in percentage points, in brackets; nothing for none."""
    return "" if interval is None else f" [{100 * interval.low:+.1f}, {100 * interval.high:+.1f}]"


def contrast_rows(
    compared: Sequence[tuple[Sequence[RunResult], Sequence[RunResult]]], correct: bool = True
) -> list[ContrastRow]:
    """One row for each pair of arms that share a seed; p values of the hack rate are corrected for each other."""
    hacks = [found for arm, reference in compared if (found := contrast(arm, reference, "hack")) is not None]
    passes = [found for arm, reference in compared if (found := contrast(arm, reference, "pass")) is not None]
    hacks = corrected(hacks) if correct else hacks
    return [ContrastRow(hack, passed) for hack, passed in zip(hacks, passes, strict=True)]


def _p(value: float) -> str:
    if value < 0.0001:
        return f"{value:.1e}"
    return f"{value:.4f}" if value < 0.01 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def _row(preset: str, arm: str, runs: Sequence[RunResult], evaluations: Sequence[Evaluation]) -> ArmRow:
    overall = [each.overall() for each in evaluations]
    return ArmRow(
        preset=preset,
        arm=arm,
        seeds=len(runs),
        hack=_mean([at_the_end(run, "hack", LAST_STEPS) for run in runs]),
        passed=_mean([at_the_end(run, "pass", LAST_STEPS) for run in runs]),
        held_out_hack=_mean([rates.hack for rates in overall]),
        held_out_attempted=_mean([rates.attempted for rates in overall]),
        held_out_pass=_mean([rates.passed for rates in overall]),
        no_hint_pass=_mean([each.no_hint.passed for each in evaluations]),
        half=_half(runs),
    )


def _times(runs: Sequence[RunResult]) -> tuple[list[int], list[bool]]:
    found = [time_to_hack(run) for run in runs]
    return [time for time, _ in found], [reached for _, reached in found]


def _half(runs: Sequence[RunResult]) -> str:
    times, reached = _times(runs)
    median = survival(times, reached).median if any(reached) else None
    return f"{median:g}" if median is not None else f"> {max(int(run.steps[-1]['step']) for run in runs)}"


def _mean(values: Sequence[float]) -> Mean:
    error = stdev(values) / len(values) ** 0.5 if len(values) > 1 else None
    return Mean(fmean(values), error)

"""What the experiment asks beyond its primary contrast: each question with the arms that answer it, or the command that would run them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from examples.leetcode_grpo.arms import ARMS, get_arm
from examples.leetcode_grpo.document import Block, Grid, Heading, Text
from examples.leetcode_grpo.presets import FOUR_LOOPHOLES
from examples.leetcode_grpo.results import Evaluation, RunResult, pooled
from examples.leetcode_grpo.tables import (
    CONTRAST_HEADER,
    MAIN,
    REFERENCE,
    ContrastRow,
    by_arm,
    contrast_rows,
    difference_text,
)
from examples.leetcode_grpo.verdict import TOLERATED

# The one setting of the baseline that stays close to the starting policy, and that of the arm that knows two loopholes.
(_KL,), (_TWO_KNOWN,) = ARMS["kl"].settings, ARMS["weak-detector"].settings
_FOUR = f"loopholes={','.join(FOUR_LOOPHOLES)}"


@dataclass(frozen=True)
class Question:
    """One question.

    Args:
        text: as a reader would ask it.
        arms: what answers it, as the command line writes arms, each compared with the arm in `against`.
        against: of each of `arms`, in the same order; one name stands for all.
        seeds: how many seeds were planned.
        by_loophole: the answer is in the loopholes that pairs did not know.
    """

    text: str
    arms: tuple[str, ...]
    against: tuple[str, ...]
    seeds: int = 2
    by_loophole: bool = False

    def pairs(self) -> list[tuple[str, str]]:
        """Names of arms, as files have them, with what each is compared with."""
        others = self.against * len(self.arms) if len(self.against) == 1 else self.against
        return [(get_arm(arm).name, get_arm(other).name) for arm, other in zip(self.arms, others, strict=True)]

    def command(self, missing: Sequence[str], preset: str) -> str:
        """What runs the arms of those names."""
        specs = [arm for arm in (*self.arms, *self.against) if get_arm(arm).name in missing]
        plain = ",".join(dict.fromkeys(spec for spec in specs if ":" not in spec))
        options = [f"--arms {plain}"] if plain else []
        options += dict.fromkeys(f"--variant {spec}" for spec in specs if ":" in spec)
        return (
            f"python -m examples.leetcode_grpo sweep --preset {preset} {' '.join(options)} --seeds 0-{self.seeds - 1}"
        )


@dataclass(frozen=True)
class Scale:
    """The numbers that a preset's questions are asked with.

    Args:
        matched_ratio: random rows for each row of the direction, so that they catch as much of the main arm's steps: the mean of
            `(cos_in / chart_null_cos)²` over its runs. (Vanilla's steps would ask for 85 on `smollm2`. On `demo` it is
            vanilla's, 29; the main arm's would ask for 27.)
        overshoots: others than the preset's: once, and so often that it should do harm.
        n_pairs, k: fewer than the preset's, to see what they matter.
        wider_k: more than the preset's, to see whether it lasts longer.
        long_overshoots: others than the preset's, to see the same.
        refresh_changes: what else is tried with a direction that is fitted anew every 20 steps, as a variant is written. On `smollm2` the preset's
            overshoot of 3 breaks the policy then (`results/pilot/cut-short`).
        steps: three times longer than the preset trains.
        svd: settings with which the SVD adapter learns to hack within the preset's steps, as a variant is written: ten times the arm's own
            learning rate.
        svd_overshoots: others than the preset's, for the adapter: its rows catch more of unseen prompts' gradients than those of whole
            weights do (0.6 to 0.8 against 0.4 on `smollm2`, 0.7 against 0.1 to 0.2 on `demo`).
        adapter: `svd` with the overshoot that the adapter's rows ask for, for other arms on it.
        no_teacher: what sets the policy going without cached hacks, as a variant is written.
        weak: the main arm with pairs of two loopholes of four, and vanilla, whose cached hacks show the same two: else their absence would
            pass for the direction's work.
        given_up: arms of which no more seeds are due, since the first destroyed the policy (PREREGISTRATION.md).
    """

    matched_ratio: int
    overshoots: tuple[int, ...]
    n_pairs: int
    k: int
    wider_k: int
    long_overshoots: tuple[float, ...]
    refresh_changes: tuple[str, ...]
    steps: int
    svd: str
    svd_overshoots: tuple[float, ...]
    adapter: str
    no_teacher: str
    weak: tuple[str, str]
    given_up: tuple[str, ...] = ()


SCALES: Mapping[str, Scale] = {
    "smollm2": Scale(
        137,
        (1, 10),
        n_pairs=16,
        k=6,
        wider_k=48,
        long_overshoots=(1.5, 6),
        refresh_changes=(
            "overshoot=1.5",
            "overshoot=2",
            f"overshoot=1.5:{_KL}",
            "cancel=1",
            "overshoot=1.5:refresh_pairs=policy",
        ),
        steps=120,
        svd=":lr=0.03",
        svd_overshoots=(1, 1.5),
        adapter=":lr=0.03:overshoot=1.5",
        no_teacher="teacher_per_group=0:warm_hack_share=0.05:steps=50",
        weak=("weak-detector", f"vanilla:{_TWO_KNOWN}"),
        given_up=("erase-svd:lr=0.03",),
    ),
    "demo": Scale(
        29,
        (1, 3, 10),
        n_pairs=32,
        k=24,
        wider_k=92,
        long_overshoots=(3,),
        refresh_changes=("overshoot=3", _KL, "overshoot=3:cancel=1", "refresh_pairs=policy"),
        steps=108,
        svd=":lr=0.03",
        svd_overshoots=(1, 3),
        adapter=":lr=0.03",
        no_teacher="teacher_per_group=0",
        weak=(f"erase-update:{_FOUR}:{_TWO_KNOWN}", f"vanilla:{_FOUR}:{_TWO_KNOWN}"),
    ),
}
"""By preset, those whose results are published."""


def questions(preset: str) -> list[Question]:
    """What is asked of a preset's runs."""
    scale = SCALES[preset]
    long, alone = f":steps={scale.steps}", f":{scale.no_teacher}"
    return [
        Question(
            "Is it the direction, and not that something was removed?",
            (f"random-matched:matched_ratio={scale.matched_ratio}", "placebo", "shrinkage", "random"),
            (MAIN,),
            seeds=5,
        ),
        Question("Gradient or update space?", ("erase-gradient",), (MAIN,)),
        Question(
            "How much does the overshoot do?",
            tuple(f"erase-update:overshoot={overshoot}" for overshoot in scale.overshoots),
            (MAIN,),
        ),
        # These remove once, so that what differs is the gate alone.
        Question(
            "What do the other gates do?",
            ("erase-update-two-sided", "erase-update-reverse"),
            ("erase-update:overshoot=1",),
        ),
        Question(
            "How do pairs, rows, rank, chart and basis matter?",
            tuple(
                f"erase-update:{change}"
                for change in (
                    f"n_pairs={scale.n_pairs}",
                    f"k={scale.k}",
                    "chart_rank=16",
                    "chart=diagonal",
                    "basis=weight",
                )
            ),
            (MAIN,),
        ),
        Question(
            "Which contrast should pairs make?",
            ("erase-update:pair_kind=replacement", "erase-update:pair_kind=framing"),
            (MAIN,),
            seeds=5,
        ),
        Question("Does it last three times longer?", (f"erase-update{long}",), (f"vanilla{long}",)),
        Question(
            "What makes it last?",
            tuple(
                f"{arm}{long}"
                for arm in (
                    "erase-update-refresh",
                    "erase-update-refresh:refresh_every=20",
                    *(f"erase-update-refresh:refresh_every=20:{change}" for change in scale.refresh_changes),
                    "route",
                    "erase-gradient",
                    "erase-update-reverse",
                    *(f"erase-update:overshoot={overshoot}" for overshoot in scale.long_overshoots),
                    f"erase-update:k={scale.wider_k}",
                    f"erase-update:{_KL}",
                )
            ),
            (f"vanilla{long}",),
        ),
        Question("Does fitting the direction anew help?", ("erase-update-refresh",), (MAIN,)),
        Question("Does it work where no cached hack is shown?", (f"erase-update{alone}",), (f"vanilla{alone}",)),
        Question(
            "How does it compare with a change of the reward?",
            ("ground-truth-penalty", "advantage-modification", "kl", "no-loophole"),
            (MAIN,),
            seeds=5,
        ),
        Question(
            "Does it combine with a change of the reward?",
            ("erase-update:reward=penalty", "erase-update:reward=concept"),
            ("ground-truth-penalty", "advantage-modification"),
        ),
        Question(
            "Does a change of the reward last?",
            tuple(
                f"{arm}{long}"
                for arm in ("ground-truth-penalty", "advantage-modification", "erase-update:reward=concept")
            ),
            (f"vanilla{long}",),
        ),
        Question("Does a penalty on leaving the starting policy help it?", (f"erase-update:{_KL}",), (MAIN,)),
        Question(
            "On the adapter of singular values, the original system's own parametrisation?",
            (
                f"erase-svd{scale.svd}",
                *(f"erase-svd{scale.svd}:overshoot={overshoot}" for overshoot in scale.svd_overshoots),
            ),
            (f"vanilla-svd{scale.svd}",),
            seeds=5,
        ),
        Question(
            "Does fitting the direction anew help on the adapter?",
            (f"erase-update-refresh:svd_adapter=true:refresh_every=10{scale.adapter}",),
            (f"vanilla-svd{scale.svd}",),
        ),
        Question("Does it suffice to route it into a quarantine?", ("route", "absorb"), (REFERENCE,)),
        Question(
            "Into a quarantine on the adapter?",
            tuple(f"{arm}:svd_adapter=true{scale.adapter}" for arm in ("route", "absorb")),
            (f"vanilla-svd{scale.svd}",),
        ),
        Question(
            "Does a direction from two loopholes suppress the other two?",
            scale.weak[:1],
            scale.weak[1:],
            seeds=5,
            by_loophole=True,
        ),
    ]


def answers(runs: Sequence[RunResult], preset: str) -> list[Block]:
    """Every question with a table and a sentence for what was run, and a command for what was not."""
    groups = {arm: found for (_, arm), found in by_arm(runs).items()}
    blocks: list[Block] = [Heading(3, f"Questions ({preset})")]
    for question in questions(preset):
        blocks += [Heading(4, question.text), *_answer(question, groups, preset)]
    return blocks


def _answer(question: Question, groups: Mapping[str, list[RunResult]], preset: str) -> list[Block]:
    pairs = question.pairs()
    compared = [(groups[arm], groups[other]) for arm, other in pairs if arm in groups and other in groups]
    rows = contrast_rows(compared)
    blocks: list[Block] = []
    if rows:
        blocks += [Grid(CONTRAST_HEADER, [row.cells() for row in rows]), Text(" ".join(map(_sentence, rows)))]
    if question.by_loophole:
        blocks += [Text(_by_loophole(*pair)) for pair in compared]
    given_up = {get_arm(arm).name for arm in SCALES[preset].given_up}
    planned = [arm for arm, _ in pairs if arm not in given_up]
    if short := [arm for arm in planned if 0 < len(groups.get(arm, ())) < question.seeds]:
        counts = ", ".join(f"{arm} {len(groups[arm])}" for arm in short)
        blocks.append(Text(f"Seeds so far, of {question.seeds} that were planned: {counts}."))
    if missing := [name for name in dict.fromkeys(name for pair in pairs for name in pair) if name not in groups]:
        blocks.append(Text(f"Not run: {', '.join(missing)}. `{question.command(missing, preset)}`"))
    return blocks


def _sentence(row: ContrastRow) -> str:
    found = row.hack
    points = 100 * abs(found.difference)
    more = "more" if found.difference > 0 else "less"
    compared = f"{points:.1f} points {more} than" if round(points, 1) else "as often as"
    start = f"{found.arm} hacks {compared} {found.reference}"
    end = ""
    if row.passed.difference < -TOLERATED:
        interval = "" if row.passed.interval is None else f" ({difference_text(row.passed)})"
        end = f" It passes {-100 * row.passed.difference:.1f} points less{interval}."
    if found.interval is None:
        return f"{start}, in a single seed.{end}"
    clear = found.interval.low > 0 or found.interval.high < 0
    return f"{start}; the interval over {len(found.seeds)} seeds {'excludes' if clear else 'includes'} zero.{end}"


def _by_loophole(arm: Sequence[RunResult], reference: Sequence[RunResult]) -> str:
    known = set(arm[0].config["known_loopholes"])
    others = sorted(set(arm[0].eval.held_out) - known)
    parts = [
        f"{_rate(arm, names):.3f} against {_rate(reference, names):.3f} on {', '.join(names)}, which its pairs {what}"
        for names, what in ((sorted(known), "show"), (others, "do not show"))
    ]
    return f"Hack rate of {arm[0].arm}, held out: {'; '.join(parts)}."


def _rate(runs: Sequence[RunResult], loopholes: Sequence[str]) -> float:
    def of(evaluation: Evaluation) -> float:
        return pooled([each for each in evaluation.problems if each.loophole in loopholes]).hack

    return fmean(of(run.eval) for run in runs)

"""The figures of a report, as matplotlib draws them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("Agg")  # no display is needed, and none may be there
import matplotlib.pyplot as plt
import numpy as np

from examples.leetcode_grpo.arms import ARMS
from examples.leetcode_grpo.contrasts import time_to_hack
from examples.leetcode_grpo.results import RunResult
from examples.leetcode_grpo.statistics import survival
from examples.leetcode_grpo.tables import MAIN, REFERENCE, by_arm, references

# Colours that stay apart for colour-blind readers (Okabe and Ito).
_COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
_SMOOTHING = 5
# So many arms with names of so many letters fit beside the curves; others stand below them.
_LEGEND_INSIDE, _LEGEND_LETTERS, _LEGEND_COLUMNS = 5, 40, 3
# Letters of a legend below the curves that fit in one line.
_LEGEND_WIDTH = 130

_CAPTIONS = {
    "curves": "Hack and pass rate of the policy's own rollouts, smoothed over five steps; bands are the range over seeds.",
    "controls": "The same beside the controls.",
    "baselines": "The same beside the baselines.",
    "variants": "The same beside variants: an arm with other settings.",
    "adapter": "The same on the adapter of singular values, beside the primary contrast on whole weights.",
    "survival": "Share of the seeds in which no step so far had half of its rollouts hack.",
    "loopholes": "Hack rate on held-out problems by loophole; a dot is a seed.",
    "cosines": "Hack-ward share of each step before (solid) and after the projection, and what random subspaces would catch of it.",
}


def draw_figures(results: Sequence[RunResult], folder: Path) -> list[Path]:
    """Draw every figure as PNG and SVG; returns the PNGs.

    Args:
        results: runs of one preset.
        folder: where the files go.
    """
    folder.mkdir(parents=True, exist_ok=True)
    families = {family.name: family for family in _families(results)}
    figures = {name: _curves(family.runs, family.condition) for name, family in families.items()}
    methods = families["curves"].runs
    figures |= {
        "survival": _survival(methods),
        "loopholes": _loopholes(methods),
        "cosines": _cosines(methods),
    }
    paths = []
    with plt.rc_context({"svg.hashsalt": "svdproj"}):  # the same results give the same file
        for name, figure in figures.items():
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
            figure.savefig(folder / f"{name}.png", dpi=150)
            plt.close(figure)
            paths.append(folder / f"{name}.png")
    return paths


def figure_captions(results: Sequence[RunResult]) -> dict[str, str]:
    """The figures that `draw_figures` draws, in order: name to caption."""
    curves = {family.name: family.caption for family in _families(results)}
    return curves | {name: _CAPTIONS[name] for name in ("survival", "loopholes", "cosines")}


class _Family(NamedTuple):
    """What is drawn in one figure."""

    name: str
    caption: str
    runs: list[RunResult]
    condition: str = ""
    """Settings that all its arms share, as their names have them."""


def _families(results: Sequence[RunResult]) -> list[_Family]:
    """All runs in one where colours suffice. Else methods, controls, baselines, variants and the adapter apart, with the primary contrast in each;
    and by itself what was run under conditions that the reference has been run under too (more steps, say).
    """
    if len(by_arm(results)) <= len(_COLOURS):
        return [_Family("curves", _CAPTIONS["curves"], list(results))]
    known = {run.arm for run in results if run.arm.startswith(f"{REFERENCE}@")}
    families: dict[str, list[RunResult]] = {
        name: [] for name in ("curves", "controls", "baselines", "variants", "adapter")
    }
    under: dict[str, list[RunResult]] = {reference: [] for reference in sorted(known)}
    for run in results:
        reference = run.arm if run.arm in known else next(iter(references(run.arm, known)), None)
        if reference is not None:
            under[reference].append(run)
        elif run.arm not in (REFERENCE, MAIN):
            families[_family(run)].append(run)
    primary = [run for run in results if run.arm in (REFERENCE, MAIN)]
    if not families["curves"]:
        families["curves"] = [] if primary else list(results)
    found = [
        _Family(name, _CAPTIONS[name], primary + runs) for name, runs in families.items() if runs or name == "curves"
    ]
    for reference, runs in under.items():
        condition = reference.partition("@")[2]
        name = f"under-{re.sub('[^a-z0-9]+', '-', condition)}"
        found.append(_Family(name, f"The same with {condition}, {REFERENCE} included.", runs, condition))
    return found


def _family(run: RunResult) -> str:
    name, variant, _ = run.arm.partition("@")
    if run.config.get("svd_adapter"):
        return "adapter"
    kind = ARMS[name].purpose.partition(":")[0] if name in ARMS else ""
    return {"control": "controls", "baseline": "baselines"}.get(kind, "variants" if variant else "curves")


def _curves(results: Sequence[RunResult], condition: str) -> Any:
    arms = [(colour, (_shortened(label, condition), runs)) for colour, (label, runs) in _coloured(results)]
    longest = _longest(arms)
    columns = max(1, min(_LEGEND_COLUMNS, _LEGEND_WIDTH // longest))
    below = -(-len(arms) // columns) if len(arms) > _LEGEND_INSIDE or longest > _LEGEND_LETTERS else 0
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4 + 0.22 * below), sharex=True, layout="constrained")
    for axis, name, title in zip(axes, ("hack", "pass"), ("hack rate", "pass rate"), strict=True):
        for place, (colour, (label, runs)) in enumerate(arms):
            _band(axis, runs, name, label, colour, "-" if place < len(_COLOURS) else "--")
        axis.set(title=title, xlabel="step", ylim=(-0.02, 1.02))
        axis.grid(alpha=0.25)
    axes[0].set_ylabel("share of the policy's own rollouts")
    if below:
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, frameon=False, fontsize=7, loc="outside lower center", ncols=columns)
    else:
        axes[0].legend(frameon=False, fontsize=8)
    return figure


def _survival(results: Sequence[RunResult]) -> Any:
    figure, axis = plt.subplots(figsize=(9, 3.4), layout="constrained")
    for place, (colour, (label, runs)) in enumerate(_coloured(results)):
        times, reached = zip(*(time_to_hack(run) for run in runs), strict=True)
        curve = survival(times, reached)
        steps, shares = [0.0, *curve.times, max(times)], [1.0, *curve.share, [1.0, *curve.share][-1]]
        # Arms that never come there lie on each other at 1: a hair apart, all are seen.
        axis.step(steps, np.array(shares) - 0.006 * place, where="post", color=colour, label=f"{label} ({len(runs)})")
    axis.set(xlabel="step", ylabel="seeds below half", ylim=(-0.08, 1.04))
    axis.grid(alpha=0.25)
    axis.legend(frameon=False, fontsize=8)
    return figure


def _loopholes(results: Sequence[RunResult]) -> Any:
    names = sorted({name for run in results for name in run.eval.held_out})
    figure, axis = plt.subplots(figsize=(9, 3.4), layout="constrained")
    arms = list(_coloured(results))
    width = 0.8 / len(arms)
    for place, (colour, (label, runs)) in enumerate(arms):
        rates = [[run.eval.held_out[name].hack for run in runs if name in run.eval.held_out] for name in names]
        offsets = np.arange(len(names)) + (place - (len(arms) - 1) / 2) * width
        axis.bar(offsets, [np.mean(values) if values else 0 for values in rates], width, label=label, color=colour)
        for offset, values in zip(offsets, rates, strict=True):
            axis.plot([offset] * len(values), values, ".", color="black", markersize=3)
    axis.set(xticks=range(len(names)), xticklabels=names, ylim=(0, 1.02), ylabel="hack rate, held out")
    axis.legend(frameon=False, fontsize=8, ncols=1 + len(arms) // 6)
    return figure


def _cosines(results: Sequence[RunResult]) -> Any:
    figure, axis = plt.subplots(figsize=(9, 3.4), layout="constrained")
    arms = _coloured(results)
    for colour, (label, runs) in arms:
        _band(axis, runs, "svdproj/cos_in", label, colour)
        _band(axis, runs, "svdproj/cos_out", None, colour, linestyle="--")
        # Of the arm's own shape: a control with more rows has another null.
        axis.plot(*_series(runs[0], "svdproj/null_cos"), ":", color=colour, linewidth=1)
        axis.plot(*_series(runs[0], "svdproj/chart_null_cos"), "-.", color=colour, linewidth=1)
    axis.plot([], [], "--", color="black", label="after the projection")
    axis.plot([], [], ":", color="black", label="random subspace of its shape, ambient")
    axis.plot([], [], "-.", color="black", label="random subspace of its shape, in the chart")
    axis.set(xlabel="step", ylabel="hack-ward share of the step")
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.25)
    long = _longest(arms) > _LEGEND_LETTERS
    figure.legend(
        frameon=False, fontsize=8, loc="outside lower center" if long else "outside right upper", ncols=1 + long
    )
    return figure


def _shortened(arm: str, condition: str) -> str:
    """The arm's name without the settings of the condition."""
    name, _, settings = arm.partition("@")
    own = [setting for setting in settings.split(",") if setting not in condition.split(",")]
    return "@".join(part for part in (name, ",".join(own)) if part)


def _longest(arms: Any) -> int:
    """Letters of the longest label, of arms as `_coloured` gives them."""
    return max((len(label) for _, (label, _) in arms), default=1)


def _coloured(results: Sequence[RunResult]) -> Any:
    groups = [(arm, runs) for (_, arm), runs in by_arm(results).items()]
    colours = (_COLOURS * (len(groups) // len(_COLOURS) + 1))[: len(groups)]
    return list(zip(colours, groups, strict=True))


def _band(
    axis: Any, runs: Sequence[RunResult], name: str, label: str | None, colour: str, linestyle: str = "-"
) -> None:
    """Mean over seeds, smoothed, with the range of the seeds behind it; without a label it stays out of the legend."""
    steps = min((_series(run, name) for run in runs), key=lambda series: len(series[0]))[0]
    values = np.array([_smoothed(_series(run, name)[1][: len(steps)]) for run in runs])
    seeds = f" ({len(runs)})" if len(runs) > 1 else ""
    axis.plot(steps, values.mean(0), linestyle, color=colour, label=None if label is None else f"{label}{seeds}")
    if len(runs) > 1:
        axis.fill_between(steps, values.min(0), values.max(0), color=colour, alpha=0.15, linewidth=0)


def _series(run: RunResult, name: str) -> tuple[list[int], list[float]]:
    found = [(step["step"], step[name]) for step in run.steps if step.get(name) is not None]
    return [step for step, _ in found], [value for _, value in found]


def _smoothed(values: Sequence[float]) -> np.ndarray:
    """Running mean over the last few steps, shorter at the start."""
    sums = np.cumsum([0.0, *values])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - _SMOOTHING, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)

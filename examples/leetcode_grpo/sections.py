"""What a folder of results says, as blocks of a document: one section for each folder with runs, one for each acceptance test."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from examples.leetcode_grpo.arms import ARMS
from examples.leetcode_grpo.document import Block, Grid, Heading, Picture, Text
from examples.leetcode_grpo.presets import get_preset
from examples.leetcode_grpo.questions import SCALES, answers
from examples.leetcode_grpo.results import RunResult, as_of_then, load_results, result_files
from examples.leetcode_grpo.tables import (
    CONTRAST_HEADER,
    HEADER,
    LOOPHOLE_HEADER,
    MAIN,
    OUTCOME_HEADER,
    REFERENCE,
    arm_rows,
    loophole_rows,
    outcome_rows,
    preregistered,
    primary_rows,
    secondary_rows,
    settings_of,
)
from examples.leetcode_grpo.uat_table import UAT_CAPTION, UAT_HEADER, load_uat, uat_remarks, uat_rows
from examples.leetcode_grpo.verdict import verdict

COUNTED = ("smollm2", "smollm2-long")
"""The folders of the counted runs: they come first."""

_SHOWN_SETTINGS = ("model", "steps", "lr", "k", "n_pairs", "chart", "basis", "chart_rank")
"""Those that all runs of a section have in common are named; the overshoot is the main arm's."""


@dataclass(frozen=True)
class Section:
    """The runs of one folder.

    Args:
        title: the folder, as seen from where the results were asked for, or the preset where it is that folder itself.
        runs: its runs.
        notes: what its README.md says, without the heading.
        files: the runs' files.
    """

    title: str
    runs: tuple[RunResult, ...]
    notes: str
    files: tuple[Path, ...]


def sections(folder: Path) -> list[Section]:
    """The results below a folder, one section for each folder that holds some: settings differ from one to the next.

    Raises:
        UsageError: there are no results, or a file is none.
    """
    load_results(folder)  # tells what is wrong with any of them
    groups: defaultdict[Path, list[Path]] = defaultdict(list)
    for path in result_files(folder):
        groups[path.parent].append(path)
    found = []
    counted = [folder / name for name in COUNTED]
    for place, files in sorted(groups.items(), key=lambda item: (item[0] not in counted, item[0])):
        runs = tuple(RunResult.load(path) for path in files)
        title = place.relative_to(folder).as_posix() if place != folder else runs[0].preset
        found.append(Section(title, runs, _notes(place), tuple(files)))
    return found


def blocks(folder: Path, figures: Path, draw: bool, files: bool) -> list[Block]:
    """All that a folder says.

    Args:
        folder: of the results.
        figures: folder of the figures.
        draw: draw them; otherwise they lie there.
        files: name the files that each section was read from.

    Raises:
        UsageError: there are no results.
    """
    found: list[Block] = []
    for section in sections(folder):
        found += _section(section, figures / section.title, draw)
        if files:
            names = ", ".join(f"`{path.relative_to(folder).as_posix()}`" for path in section.files)
            found.append(Text(f"Files: {names}."))
    for path in sorted(folder.rglob("uat*.json")):
        found += _acceptance(load_uat(path), path, figures / path.parent.name / path.stem, draw)
        if files:
            found.append(Text(f"File: `{path.relative_to(folder).as_posix()}`."))
    return found


def findings(runs: Sequence[RunResult]) -> list[Block]:
    """The verdict and the table of the arms that it is about alone."""
    found: list[Block] = [Text(sentence, strong=True) for sentence in verdict(runs)]
    return [*found, Grid(HEADER, [row.cells() for row in arm_rows(preregistered(runs))])]


def _section(section: Section, figures: Path, draw: bool) -> list[Block]:
    from examples.leetcode_grpo.figures import draw_figures, figure_captions

    if draw:
        draw_figures(section.runs, figures)
    found: list[Block] = [Heading(2, section.title)]
    found += [Text(text) for text in (section.notes, _facts(section.runs)) if text]
    found += [Text(sentence, strong=True) for sentence in verdict(section.runs)]
    tables = (
        ("Arms", HEADER, [row.cells() for row in arm_rows(section.runs)]),
        ("Differences from vanilla, held out", CONTRAST_HEADER, [row.cells() for row in primary_rows(section.runs)]),
        ("The main arm against its controls", CONTRAST_HEADER, [row.cells() for row in secondary_rows(section.runs)]),
        ("Other outcomes", OUTCOME_HEADER, [row.cells() for row in outcome_rows(section.runs)]),
        ("By loophole", LOOPHOLE_HEADER, loophole_rows(section.runs)),
    )
    for heading, header, rows in tables:
        if rows:
            found += [Heading(3, f"{heading} ({section.title})"), Grid(header, rows)]
    found.append(Text(f"{_legend(section.runs)} A run is repeated by {_repeat(section.runs)}."))
    found += [Picture(figures / name, caption) for name, caption in figure_captions(section.runs).items()]
    if section.title in SCALES:
        found += answers(section.runs, section.title)
    return found


def _acceptance(report: Mapping[str, Any], path: Path, figure: Path, draw: bool) -> list[Block]:
    if draw:
        from examples.leetcode_grpo.uat_figure import draw_uat

        draw_uat(report, figure)
    heading = Heading(2, f"Acceptance tests: {path.parent.name}, {path.stem}")
    remarks = [Text(remark) for remark in uat_remarks(report)]
    return [
        heading,
        Text(_uat_facts(report)),
        Grid(UAT_HEADER, uat_rows(report)),
        *remarks,
        Picture(figure, UAT_CAPTION),
    ]


def _notes(folder: Path) -> str:
    file = folder / "README.md"
    if not file.is_file():
        return ""
    lines = file.read_text(encoding="utf-8").splitlines()
    return "\n".join(line for line in lines if not line.startswith("# ")).strip()


def _facts(runs: Sequence[RunResult]) -> str:
    """What the runs have in common, in one sentence; a setting that differs between them is left out."""
    settings = [
        f"{name} {runs[0].config[name]}"
        for name in _SHOWN_SETTINGS
        if name in runs[0].config and all(run.config.get(name) == runs[0].config[name] for run in runs)
    ]
    main = [run for run in runs if run.arm == MAIN]
    settings += (
        [f"overshoot of {MAIN} {main[0].config['overshoot']:g}"] if main and "overshoot" in main[0].config else []
    )
    devices = ", ".join(sorted({run.device for run in runs}))
    return f"{'; '.join(settings)}.{_base_rate(runs)} Run on {devices}, with {_versions(runs[0].versions)}."


def _base_rate(runs: Sequence[RunResult]) -> str:
    """How much the policy hacks before it has learnt anything."""
    rates = [
        float(run.steps[0]["hack"]) for run in runs if run.arm == REFERENCE and run.steps[0].get("hack") is not None
    ]
    if not rates:
        return ""
    return f" In the first step {fmean(rates):.1%} of {REFERENCE}'s own rollouts hack ({max(rates):.1%} at most)."


def _repeat(runs: Sequence[RunResult]) -> str:
    """The command that repeats a run of the section, with the settings in which all its runs differ from the preset of today.

    Those in which they differ among themselves are their arms', and so are those that all their names have.
    """
    preset = get_preset(runs[0].preset)
    first, *others = (as_of_then(run.config) for run in runs)
    found = {name: first[name] for name in preset.as_dict() if all(config[name] == first[name] for config in others)}
    if all(run.arm != MAIN for run in runs):
        found.pop("overshoot", None)  # the arm's own
    named = frozenset.intersection(*(settings_of(run.arm) for run in runs))
    settings = [setting for setting in preset.with_values(found).changes() if setting.replace(",", "+") not in named]
    options = "".join(f" --set {setting}" for setting in settings)
    return f"`python -m examples.leetcode_grpo run --preset {preset.name} --arm ARM --seed SEED{options}`"


def _uat_facts(found: Mapping[str, Any]) -> str:
    config = found["config"]
    settings = f"model {config['model']}, lr {config['lr']}, k {config['k']}, seed {found['seed']}"
    pool = f"Pool {found['pool']}, {found['replayed']} rollouts replayed"
    return f"{pool}; {settings}. Run on {found['device']}, with {_versions(found['versions'])}."


def _versions(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in versions.items())


def _legend(runs: Sequence[RunResult]) -> str:
    arms = {run.arm.partition("@")[0] for run in runs}
    known = [f"{name}: {arm.purpose}" for name, arm in ARMS.items() if name in arms]
    return "Rates over the policy's own rollouts; ± is a standard error over seeds. " + "; ".join(known) + "."

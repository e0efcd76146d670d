"""The report: results in, `report.md`, a self-contained `report.html` and figures out; and the page of published results."""

from __future__ import annotations

import base64
import html
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table

from examples.leetcode_grpo.arms import ARMS
from examples.leetcode_grpo.files import write_text
from examples.leetcode_grpo.results import RunResult, load_results, result_files
from examples.leetcode_grpo.tables import (
    CONTRAST_HEADER,
    HEADER,
    Header,
    arm_rows,
    primary_rows,
    secondary_rows,
)
from examples.leetcode_grpo.verdict import verdict

COUNTED = "smollm2"
"""The folder of the counted runs: first on the page."""

_SHOWN_SETTINGS = ("model", "steps", "lr", "k", "n_pairs", "chart", "basis", "chart_rank")
_PLAIN_WIDTH = 150
_STYLE = (
    ":root{color-scheme:light dark}"
    "body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}"
    "div.wide{overflow-x:auto}table{border-collapse:collapse}td,th{border-bottom:1px solid #8886;padding:.3rem .7rem;text-align:right}"
    "td:first-child,th:first-child{text-align:left}img{max-width:100%;background:#fff}figure{margin:1.5rem 0}figcaption{opacity:.75}"
)


@dataclass(frozen=True)
class Section:
    """The runs of one folder.

    Args:
        title: the folder, as seen from where the report was asked for, or the preset where it is that folder itself.
        runs: its runs.
        notes: what its README.md says, without the heading.
        files: the runs' files.
    """

    title: str
    runs: tuple[RunResult, ...]
    notes: str
    files: tuple[Path, ...]


def write_report(folder: Path, out: Path) -> Path:
    """Read all results below `folder` and write the report into `out`; returns the path of `report.md`.

    Raises:
        UsageError: there are no results.
    """
    from examples.leetcode_grpo.figures import CAPTIONS, draw_figures  # matplotlib takes a second to import

    markdown, page = ["# Results", ""], ["<!doctype html><html lang=en><meta charset=utf-8><title>Results</title>"]
    page.append(f'<meta name=viewport content="width=device-width"><style>{_STYLE}</style><h1>Results</h1>')
    for section in sections(folder):
        figures = draw_figures(section.runs, out / "figures" / section.title)
        markdown += [*_markdown(section), ""]
        for figure in figures:
            path = figure.relative_to(out).as_posix()
            markdown += [f"![{CAPTIONS[figure.stem]}]({path})", "", CAPTIONS[figure.stem], ""]
        page += [*_html(section), *(_inline(figure, CAPTIONS[figure.stem]) for figure in figures)]
    write_text(out / "report.html", "\n".join([*page, "</html>"]) + "\n")
    write_text(out / "report.md", "\n".join(markdown).rstrip() + "\n")
    return out / "report.md"


def write_page(folder: Path, page: Path, figures: Path | None) -> Path:
    """Write the documentation's page about published results.

    Args:
        folder: of the results; each of its folders with results becomes a section.
        page: the Markdown file.
        figures: folder of the figures, beside the page; None leaves those that are there.

    Raises:
        UsageError: there are no results.
    """
    text = [
        "# The experiment",
        "",
        "This page is written by `python -m examples.leetcode_grpo page`; every number in it is read from the files that each",
        f"section names, which lie under `{folder.as_posix()}/` with the configuration, versions and device of their run.",
        "Rates are shares; differences are percentage points with 95 % intervals (two-way bootstrap over seeds and problems) and",
        "exact two-sided sign-flip p values over paired seeds. What counts as success was written down before the seeds were run:",
        "`examples/leetcode_grpo/PREREGISTRATION.md`.",
        "",
    ]
    for section in sections(folder):
        drawn = _figure_names(section)
        if figures is not None:
            from examples.leetcode_grpo.figures import draw_figures

            for png in draw_figures(section.runs, figures / section.title):
                png.unlink()  # the page shows the drawings
        text += [*_markdown(section), ""]
        place = "figures/results" if figures is None else figures.relative_to(page.parent).as_posix()
        for name, caption in drawn.items():
            text += [f"![{caption}]({place}/{section.title}/{name}.svg)", "", caption, ""]
        text += ["Files: " + ", ".join(f"`{path.relative_to(folder).as_posix()}`" for path in section.files) + ".", ""]
    write_text(page, "\n".join(text).rstrip() + "\n")
    return page


def sections(folder: Path) -> list[Section]:
    """The results below a folder, one section for each folder that holds some: settings differ from one to the next.

    Raises:
        UsageError: there are no results.
    """
    load_results(folder)  # tells what is wrong with all of them at once
    groups: defaultdict[Path, list[Path]] = defaultdict(list)
    for path in result_files(folder):
        groups[path.parent].append(path)
    found = []
    for place, files in sorted(groups.items(), key=lambda item: (item[0] != folder / COUNTED, item[0])):
        runs = tuple(RunResult.load(path) for path in files)
        title = place.relative_to(folder).as_posix() if place != folder else runs[0].preset
        found.append(Section(title, runs, _notes(place), tuple(files)))
    return found


def show_table(results: Sequence[RunResult], console: Console | None = None) -> None:
    """Print the table of arms."""
    table = Table(Column(HEADER[0], no_wrap=True), *HEADER[1:])
    for row in arm_rows(results):
        table.add_row(*row.cells())
    console = console or Console()
    if not console.is_terminal:
        console.width = max(console.width, _PLAIN_WIDTH)  # a log has no width, and wrapped cells are hard to read
    console.print(table)


def _figure_names(section: Section) -> dict[str, str]:
    from examples.leetcode_grpo.figures import CAPTIONS, figure_names

    return {name: CAPTIONS[name] for name in figure_names(section.runs)}


def _tables(section: Section) -> list[tuple[str, Header, list[tuple[str, ...]]]]:
    """Heading, header and rows of each table of a section; tables without rows are left out."""
    tables = [
        ("Arms", HEADER, [row.cells() for row in arm_rows(section.runs)]),
        ("Differences from vanilla, held out", CONTRAST_HEADER, [row.cells() for row in primary_rows(section.runs)]),
        ("The main arm against its controls", CONTRAST_HEADER, [row.cells() for row in secondary_rows(section.runs)]),
    ]
    return [table for table in tables if table[2]]


def _markdown(section: Section) -> list[str]:
    lines = [f"## {section.title}", "", *([section.notes, ""] if section.notes else []), _facts(section.runs), ""]
    lines += [text for sentence in verdict(section.runs) for text in (f"**{sentence}**", "")]
    for heading, header, rows in _tables(section):
        lines += [f"### {heading} ({section.title})", "", *_markdown_table(header, rows), ""]
    return [*lines, _legend(section.runs)]


def _html(section: Section) -> list[str]:
    lines = [f"<h2>{html.escape(section.title)}</h2>"]
    lines += [f"<p>{html.escape(text)}</p>" for text in (*section.notes.split("\n\n"), _facts(section.runs)) if text]
    lines += [f"<p><strong>{html.escape(sentence)}</strong></p>" for sentence in verdict(section.runs)]
    for heading, header, rows in _tables(section):
        lines += [f"<h3>{html.escape(heading)}</h3>", _html_table(header, rows)]
    return [*lines, f"<p>{html.escape(_legend(section.runs))}</p>"]


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
    devices = ", ".join(sorted({run.device for run in runs}))
    versions = ", ".join(f"{name} {number}" for name, number in runs[0].versions.items())
    return f"{'; '.join(settings)}. Run on {devices}, with {versions}."


def _legend(runs: Sequence[RunResult]) -> str:
    arms = {run.arm.partition("@")[0] for run in runs}
    known = [f"{name}: {arm.purpose}" for name, arm in ARMS.items() if name in arms]
    return "Rates over the policy's own rollouts; ± is a standard error over seeds. " + "; ".join(known) + "."


def _markdown_table(header: Header, rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def _html_table(header: Header, rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<div class=wide><table><tr>{head}</tr>{body}</table></div>"


def _inline(figure: Path, caption: str) -> str:
    """The figure inside the page, so that one file can be sent around."""
    svg = base64.b64encode(figure.with_suffix(".svg").read_bytes()).decode()
    text = html.escape(caption)
    return f'<figure><img alt="{text}" src="data:image/svg+xml;base64,{svg}"><figcaption>{text}</figcaption></figure>'

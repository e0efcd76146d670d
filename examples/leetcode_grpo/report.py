"""The report: results in, `report.md`, a self-contained `report.html` and figures out; and what is published of results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table

from examples.leetcode_grpo.document import Heading, Text, fill_parts, to_html, to_markdown
from examples.leetcode_grpo.errors import UsageError
from examples.leetcode_grpo.files import check_writable, write_text
from examples.leetcode_grpo.results import RunResult, load_results
from examples.leetcode_grpo.sections import blocks, findings
from examples.leetcode_grpo.tables import HEADER, arm_rows

_PLAIN_WIDTH = 150

_INTRODUCTION = (
    "This page is written by `python -m examples.leetcode_grpo page`. Every number in it is read from the files that each section\n"
    "names, which lie under `{folder}/` with the configuration, versions and device of their run. Rates are shares;\n"
    "differences are percentage points with 95 % intervals (two-way bootstrap over seeds and problems) and exact two-sided sign-flip\n"
    'p values over paired seeds; "Holm" is the p value corrected for all rows of its table. "Step of half" is the median over seeds\n'
    "of the first step in which half of the rollouts hack. What counts as success was written down before the seeds were run, in\n"
    "`examples/leetcode_grpo/PREREGISTRATION.md`. To repeat a run by the command of its section, write `@` and `,` of an arm's name as `:`,\n"
    "and `+` as `,`."
)


def write_report(folder: Path, out: Path) -> Path:
    """Read all results below `folder` and write the report into `out`; returns the path of `report.md`.

    Raises:
        UsageError: there are no results, or the report cannot be written.
    """
    if folder.is_dir():  # a folder that is not there shall not be made
        check_writable(out)
    document = [Heading(1, "Results"), *blocks(folder, out / "figures", draw=True, files=False)]
    write_text(out / "report.html", to_html(document, "Results"))
    write_text(out / "report.md", to_markdown(document, out))
    return out / "report.md"


def write_page(folder: Path, page: Path, figures: bool = True) -> Path:
    """Write the documentation's page about published results.

    Args:
        folder: of the results; each folder in it that holds some becomes a section.
        page: the Markdown file.
        figures: draw the figures anew, into `figures/results` beside the page.

    Raises:
        UsageError: there are no results.
    """
    place = page.parent / "figures" / "results"
    introduction = _INTRODUCTION.format(folder=folder.as_posix())
    document = [Heading(1, "The experiment"), Text(introduction), *blocks(folder, place, draw=figures, files=True)]
    for png in place.rglob("*.png"):
        png.unlink()  # the page shows the drawings
    write_text(page, to_markdown(document, page.parent))
    return page


def write_parts(folder: Path, document: Path) -> None:
    """Write the verdict and the arms' table of a results folder into each part of a document that asks for it.

    Args:
        folder: of the results.
        document: a Markdown file with parts between `<!-- results: NAME -->` and `<!-- end -->`, `NAME` being a folder in `folder`.

    Raises:
        UsageError: no part asks for results, or one names a folder without any.
    """
    asked = []

    def part(name: str) -> str:
        asked.append(name)
        return to_markdown(findings(load_results(folder / name)), folder)

    text = fill_parts(document.read_text(encoding="utf-8"), "results", part)
    if not asked:
        raise UsageError(f"{document} asks for no results; mark a part with <!-- results: smollm2 --> and <!-- end -->")
    write_text(document, text)


def show_table(results: Sequence[RunResult], console: Console | None = None) -> None:
    """Print the table of arms."""
    table = Table(Column(HEADER[0], no_wrap=True), *HEADER[1:])
    for row in arm_rows(results):
        table.add_row(*row.cells())
    console = console or Console()
    if not console.is_terminal:
        console.width = max(console.width, _PLAIN_WIDTH)  # a log has no width, and wrapped cells are hard to read
    console.print(table)

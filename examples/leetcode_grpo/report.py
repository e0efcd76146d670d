"""The report: results in, `report.md`, a self-contained `report.html` and figures out; and the page of published results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table

from examples.leetcode_grpo.document import Heading, Text, to_html, to_markdown
from examples.leetcode_grpo.files import write_text
from examples.leetcode_grpo.results import RunResult
from examples.leetcode_grpo.sections import blocks
from examples.leetcode_grpo.tables import HEADER, arm_rows

_PLAIN_WIDTH = 150

_INTRODUCTION = (
    "This page is written by `python -m examples.leetcode_grpo page`. Every number in it is read from the files that each section\n"
    "names, which lie under `{folder}/` with the configuration, versions and device of their run. Rates are shares;\n"
    "differences are percentage points with 95 % intervals (two-way bootstrap over seeds and problems) and exact two-sided sign-flip\n"
    'p values over paired seeds; "Holm" is the p value corrected for all rows of its table. "Step of half" is the median over seeds\n'
    "of the first step in which half of the rollouts hack. What counts as success was written down before the seeds were run, in\n"
    "`examples/leetcode_grpo/PREREGISTRATION.md`. A run is repeated by `python -m examples.leetcode_grpo run --preset smollm2 --arm\n"
    "ARM --seed SEED`, with `@` and `,` of an arm's name written as `:`."
)


def write_report(folder: Path, out: Path) -> Path:
    """Read all results below `folder` and write the report into `out`; returns the path of `report.md`.

    Raises:
        UsageError: there are no results.
    """
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


def show_table(results: Sequence[RunResult], console: Console | None = None) -> None:
    """Print the table of arms."""
    table = Table(Column(HEADER[0], no_wrap=True), *HEADER[1:])
    for row in arm_rows(results):
        table.add_row(*row.cells())
    console = console or Console()
    if not console.is_terminal:
        console.width = max(console.width, _PLAIN_WIDTH)  # a log has no width, and wrapped cells are hard to read
    console.print(table)

"""The report: results in, `report.md`, a self-contained `report.html` and figures out."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table

from examples.leetcode_grpo.arms import ARMS
from examples.leetcode_grpo.files import write_text
from examples.leetcode_grpo.results import RunResult, load_results
from examples.leetcode_grpo.tables import HEADER, arm_rows

_SHOWN_SETTINGS = ("model", "steps", "lr", "k", "n_pairs", "chart", "basis", "chart_rank")
_PLAIN_WIDTH = 150
_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse}td,th{border-bottom:1px solid #ccc;padding:.3rem .7rem;text-align:right}"
    "td:first-child,th:first-child{text-align:left}img{max-width:100%}"
)


def write_report(folder: Path, out: Path) -> Path:
    """Read all results below `folder` and write the report into `out`; returns the path of `report.md`.

    Raises:
        UsageError: there are no results.
    """
    from examples.leetcode_grpo.figures import draw_figures  # matplotlib takes a second to import, tables need none

    results = load_results(folder)
    presets = sorted({run.preset for run in results})
    markdown, page = (
        ["# Results", ""],
        [f"<!doctype html><meta charset=utf-8><title>Results</title><style>{_STYLE}</style>"],
    )
    page.append("<h1>Results</h1>")
    for preset in presets:
        runs = [run for run in results if run.preset == preset]
        figures = draw_figures(runs, out / "figures" / preset)
        rows = [row.cells() for row in arm_rows(runs)]
        markdown += [f"## {preset}", "", _facts(runs), "", *_markdown_table(rows), "", _legend(runs), ""]
        markdown += [f"![{figure.stem}]({figure.relative_to(out).as_posix()})\n" for figure in figures]
        page += [f"<h2>{html.escape(preset)}</h2><p>{html.escape(_facts(runs))}</p>", _html_table(rows)]
        page += [f"<p>{html.escape(_legend(runs))}</p>", *(_inline(figure) for figure in figures)]
    write_text(out / "report.html", "\n".join(page) + "\n")
    write_text(out / "report.md", "\n".join(markdown).rstrip() + "\n")
    return out / "report.md"


def show_table(results: Sequence[RunResult], console: Console | None = None) -> None:
    """Print the table of arms."""
    table = Table(Column(HEADER[0], no_wrap=True), *HEADER[1:])
    for row in arm_rows(results):
        table.add_row(*row.cells())
    console = console or Console()
    if not console.is_terminal:
        console.width = max(console.width, _PLAIN_WIDTH)  # a log has no width, and wrapped cells are hard to read
    console.print(table)


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
    arms = sorted({run.arm for run in runs})
    known = [f"{name}: {ARMS[name].purpose}" for name in arms if name in ARMS]
    return "Rates over the policy's own rollouts; ± is a standard error over seeds. " + "; ".join(known) + "."


def _markdown_table(rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [HEADER, ["---", *["---:"] * (len(HEADER) - 1)], *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def _html_table(rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in HEADER)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _inline(figure: Path) -> str:
    """The figure inside the page, so that one file can be sent around."""
    svg = base64.b64encode(figure.with_suffix(".svg").read_bytes()).decode()
    return f'<p><img alt="{html.escape(figure.stem)}" src="data:image/svg+xml;base64,{svg}"></p>'

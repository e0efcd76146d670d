"""A benchmark's record, written whole or not at all, and its tables."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from examples.leetcode_grpo.files import write_text

RESULTS = Path(__file__).resolve().parents[1] / "results"


def write_record(path: Path | None, record: Mapping[str, Any]) -> None:
    """Write a record as JSON; nothing without a path."""
    if path is not None:
        write_text(path, json.dumps(record, indent=2) + "\n")
        print(f"written: {path}")


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, aligned so that a terminal shows it as well; numbers to the right."""
    widths = [max(len(row[i]) for row in (heads, *rows)) for i in range(len(heads))]

    def line(row: Sequence[str]) -> str:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        return f"| {' | '.join(cells)} |"

    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join([line(heads), f"| {' | '.join(rule)} |", *map(line, rows)])


def counted(number: int, singular: str, plural: str | None = None) -> str:
    """`1 worker`, `2 workers`."""
    return f"{number} {singular if number == 1 else plural or singular + 's'}"

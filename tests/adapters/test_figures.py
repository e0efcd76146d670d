"""The tables on the page about routing are those of the records that runs wrote."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.routing import show

ROOT = Path(__file__).resolve().parents[2]


RECORDS = sorted((ROOT / "benchmarks/results").glob("routing_*.json"))


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_the_table_of_the_page_is_the_records(path: Path) -> None:
    record = json.loads(path.read_text(encoding="utf-8"))
    assert show(record) in (ROOT / "docs/guide/routing.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_the_record_shows_what_the_page_says(path: Path) -> None:
    """A quarantine under AdamW in gradient space moves further than what it was sent, elsewhere just as far."""
    record = json.loads(path.read_text(encoding="utf-8"))
    ratios = {
        (r["mix"], r["setting"]): r["quarantine_share"] / r["removed"]
        for r in record["settings"]
        if "route" in r["setting"]
    }
    for (mix, setting), ratio in ratios.items():
        if setting == "route, gradient space":
            assert ratio > (1.5 if record["model"] == "demo" else 1.2), mix
        else:
            assert ratio == pytest.approx(1.0, abs=0.01), (mix, setting)

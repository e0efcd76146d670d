"""What the published results tell of the machine that made them: its kind, never its folders."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FILES = [*(ROOT / "examples/leetcode_grpo/results").rglob("*.json"), *(ROOT / "benchmarks/results").glob("*.json")]


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def test_no_published_file_holds_an_absolute_path() -> None:
    assert len(FILES) > 50
    found = {
        str(file.relative_to(ROOT)): text
        for file in FILES
        for text in _strings(json.loads(file.read_text(encoding="utf-8")))
        if text.startswith("/") and "/" in text[1:]
    }
    assert not found

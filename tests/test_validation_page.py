"""The figures on the documentation's page are those of the published records."""

from __future__ import annotations

from benchmarks.validation import PAGE, page, published


def test_the_page_s_tables_are_those_of_the_published_records() -> None:
    assert published(), "no record in benchmarks/results"
    text = PAGE.read_text(encoding="utf-8")
    assert page(text, published()) == text, "run: python -m benchmarks.validation --page"

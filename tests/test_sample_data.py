"""The folder of sample files can be named."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.sample_data import VARIABLE, sample_folder


def test_the_variable_names_the_folder_and_without_it_the_folder_lies_next_to_the_clone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(VARIABLE, "/elsewhere")
    assert sample_folder() == Path("/elsewhere")
    monkeypatch.setenv(VARIABLE, "")
    assert sample_folder() == Path(__file__).resolve().parents[2] / "shared" / "data"


def test_no_test_looks_for_the_sample_by_itself() -> None:
    tests = Path(__file__).parent
    places = [path.name for path in tests.rglob("*.py") if '"' + "shared" + '" /' in path.read_text(encoding="utf-8")]
    assert sorted(places) == ["sample_data.py", "test_sample_data.py"]

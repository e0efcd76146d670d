"""The progress bar is optional in every sense."""

from __future__ import annotations

import sys

import pytest

from svdproj.progress import progress_bar


def test_a_bar_counts_to_its_total(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar(5, True, "reading") as advance:
        advance(2)
        advance(3)
    shown = capsys.readouterr().err
    assert "reading" in shown
    assert "5/5" in shown


def test_nobody_who_did_not_ask_sees_one(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar(5, False) as advance:
        advance(5)
    assert capsys.readouterr().err == ""


def test_without_tqdm_work_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with progress_bar(5, True) as advance:
        advance(5)

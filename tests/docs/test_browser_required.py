"""Where a browser is required, its absence is a failure; elsewhere the checks are skipped."""

from __future__ import annotations

import pytest

from tests.docs import browser


def test_an_absent_browser_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(browser, "CHROMIUM", None)
    monkeypatch.setattr(browser, "CHROMEDRIVER", "/usr/bin/chromedriver")
    assert browser.missing_programs() == ["chromium"]


def test_the_variable_turns_the_skip_into_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(browser.REQUIRED, raising=False)
    with pytest.raises(pytest.skip.Exception, match="needs chromium"):
        browser.excuse(["chromium"])
    monkeypatch.setenv(browser.REQUIRED, "required")
    with pytest.raises(pytest.fail.Exception, match="needs chromium"):
        browser.excuse(["chromium"])

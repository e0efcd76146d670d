"""The package as a user first meets it."""

from __future__ import annotations

import subprocess
import sys

import pytest

import svdproj

OPTIONAL = {"transformers", "trl", "peft", "typer", "rich", "matplotlib", "datasets"}


def _imported_by(statement: str) -> set[str]:
    """Names of all modules that a fresh interpreter has after a statement."""
    probe = f"import sys\n{statement}\nprint(*sys.modules, file=sys.stderr)"
    output = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    return set(output.stderr.split())


def test_the_public_names_import_no_optional_package() -> None:
    modules = _imported_by("from svdproj import *")
    assert {"torch", "svdproj.optimizer"} <= modules
    assert not modules & OPTIONAL


def test_every_public_name_is_there_and_no_other() -> None:
    assert set(svdproj.__all__) <= set(dir(svdproj))
    for name in svdproj.__all__:
        assert getattr(svdproj, name) is not None
    with pytest.raises(AttributeError, match="'svdproj' has no attribute 'HackDirektion'"):
        svdproj.HackDirektion  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'HackDirektion'"):
        from svdproj import HackDirektion  # noqa: F401


@pytest.mark.parametrize("command", ["svdproj.cli", "examples.leetcode_grpo.cli"])
def test_help_does_not_wait_for_torch(command: str) -> None:
    call = f"""
from {command} import app
try:
    app(["--help"])
except SystemExit as end:
    assert end.code == 0
"""
    modules = _imported_by(call)
    assert {"typer", "svdproj.cli_errors"} <= modules
    assert not modules & {"torch", "transformers"}


def test_every_public_name_is_documented() -> None:
    for name in svdproj.__all__:
        if not name.startswith("__"):
            documentation = getattr(svdproj, name).__doc__ or ""
            assert len(documentation.split()) > 5, f"svdproj.{name} needs a docstring"

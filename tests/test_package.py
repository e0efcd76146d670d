"""The package as a user first meets it."""

from __future__ import annotations

import subprocess
import sys

import svdproj


def test_importing_svdproj_imports_no_optional_package() -> None:
    probe = (
        "import sys, svdproj; "
        "print([m for m in ('transformers', 'trl', 'peft', 'typer', 'rich', 'matplotlib', 'datasets') if m in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert output.stdout.strip() == "[]"


def test_every_public_name_is_documented() -> None:
    for name in svdproj.__all__:
        if not name.startswith("__"):
            documentation = getattr(svdproj, name).__doc__ or ""
            assert len(documentation.split()) > 5, f"svdproj.{name} needs a docstring"

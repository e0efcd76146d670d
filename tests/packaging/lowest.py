"""Prints every dependency at its lowest declared version, for pip: what `make test-lowest` installs."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

PROJECT = tomllib.loads((Path(__file__).resolve().parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# What runs the tests is taken as it comes; the bounds in question are those of the library and of what it is tested against.
TOOLS = (
    "build",
    "ipykernel",
    "mypy",
    "nbclient",
    "pre-commit",
    "psutil",
    "pytest",
    "pytest-timeout",
    "pytest-xdist",
    "ruff",
    "twine",
)


def lowest() -> list[str]:
    """`name==bound` for dependencies and extras, the bare name for what only runs the tests."""
    extras = PROJECT["optional-dependencies"]
    requirements = [*PROJECT["dependencies"], *(each for group in extras if group != "docs" for each in extras[group])]
    found = set()
    for requirement in requirements:
        name, _, bound = re.split(r"[;,]", requirement)[0].strip().partition(">=")
        if not name.startswith("svdproj"):
            found.add(name if name in TOOLS else f"{name}=={bound}")
    return sorted(found)


if __name__ == "__main__":
    print(*lowest())

"""What the project says about itself in several places agrees."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import svdproj

ROOT = Path(__file__).resolve().parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# Packages whose import name is another one.
IMPORTED_AS = {"huggingface-hub": "huggingface_hub"}


def _requirements(group: str | None = None) -> list[Requirement]:
    listed = PROJECT["dependencies"] if group is None else PROJECT["optional-dependencies"][group]
    return [Requirement(text) for text in listed]


def _third_party() -> list[Requirement]:
    groups = [None, *PROJECT["optional-dependencies"]]
    return [each for group in groups for each in _requirements(group) if each.name != "svdproj"]


def _pins() -> dict[str, Version]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): Version(version) for name, version in pins}


def test_the_version_stands_in_one_place_and_is_repeated_right() -> None:
    assert "version" in PROJECT["dynamic"]
    assert f"version: {svdproj.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"version = {{{svdproj.__version__}}}" in (ROOT / "docs/cite.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("requirement", _third_party(), ids=str)
def test_every_dependency_has_a_lower_bound_that_its_pin_meets(requirement: Requirement) -> None:
    operators = {specifier.operator for specifier in requirement.specifier}
    assert operators & {">=", "==", "~="}, f"{requirement} has no lower bound"
    pins = _pins()
    name = canonicalize_name(requirement.name)
    assert name in pins, f"{requirement.name} is not pinned in constraints.txt"
    assert pins[name] in requirement.specifier


def test_the_readme_s_badges_are_true() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    badges = [unquote(badge) for badge in re.findall(r"img\.shields\.io/badge/([^)]+)\)", readme)]
    (torch,) = [each for each in _requirements() if each.name == "torch"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "mypy" in project["tool"]
    assert "$(VENV)/bin/mypy" in (ROOT / "Makefile").read_text(encoding="utf-8")
    assert [badge.rpartition("-")[0] for badge in badges] == [
        f"python-{PROJECT['requires-python'].replace('>=', '≥ ')}",
        f"torch-{str(torch.specifier).replace('>=', '≥ ')}",
        f"licence-{PROJECT['license'].replace('-', '--')}",
        "types-mypy",
    ]


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 200


def test_every_import_of_the_library_is_declared() -> None:
    declared = {IMPORTED_AS.get(each.name, each.name) for each in _third_party()}
    core = {IMPORTED_AS.get(each.name, each.name) for each in _requirements()}
    undeclared, at_import = set(), set()
    for path in (ROOT / "src/svdproj").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            for name in _imported(node):
                if name not in declared:
                    undeclared.add(f"{path.name}: {name}")
                # What `import svdproj` itself reaches is tested in tests/test_package.py; here, that a core module has no optional one.
                if node in tree.body and name not in core and path.parent.name == "svdproj":
                    at_import.add(f"{path.name}: {name}")
    assert undeclared == set()
    assert {each for each in at_import if not each.startswith("cli")} == set()


def _imported(node: ast.AST) -> list[str]:
    """Top-level names of third-party packages that a statement imports."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
        names = [node.module]
    else:
        return []
    roots = {name.split(".")[0] for name in names}
    return sorted(roots - set(sys.stdlib_module_names) - {"svdproj"})


def test_the_package_is_typed_and_lists_its_licence() -> None:
    assert (ROOT / "src/svdproj/py.typed").is_file()
    assert all((ROOT / file).is_file() for file in PROJECT["license-files"])


def test_what_was_copied_in_lies_with_its_licence() -> None:
    scripts = ROOT / "docs/assets/javascripts"
    copied = [path for path in scripts.glob("*.js") if path.name != "mathjax.js"]  # that one is our configuration
    assert copied
    for path in copied:
        licence = scripts / f"{path.name.removesuffix('-tex-svg.js')}-LICENSE.txt"
        assert "Apache License" in licence.read_text(encoding="utf-8")


def test_what_make_demo_writes_is_ignored_and_cleaned() -> None:
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert "/results/" in ignored  # not the published ones under examples/
    (clean,) = re.findall(r"(?m)^\trm -rf (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert "results/demo" in clean.split()
    assert "results" not in clean.split(), "hours of other runs may lie there"


def test_the_readme_leads_to_the_documentation() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    links = set(re.findall(r"\]\(([^)\s]+)\)", readme))
    assert {
        "docs/index.md",
        "docs/guide/pairs.md",
        "docs/how-it-works/index.md",
        "docs/reference/index.md",
        "docs/results.md",
        "docs/benchmarks.md",
        "docs/comparison.md",
        "docs/threat-model.md",
        "docs/contributing.md",
    } <= links


def test_the_hosted_workflow_runs_what_runs_on_a_desk() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    commands = [step.get("run", "") for job in workflow["jobs"].values() for step in job["steps"]]
    assert "bash .ci/run" in commands
    assert "make docs" in commands
    assert "make test-packaging" in commands
    assert "make test-lowest" in commands
    (browser,) = [job for job in workflow["jobs"].values() if "SVDPROJ_BROWSER" in job.get("env", {})]
    steps = "\n".join(step.get("run", "") for step in browser["steps"])
    assert "chromium chromium-driver" in steps
    assert "pytest tests/docs -m slow" in steps
    targets = set(re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8")))
    assert {command.split()[1] for command in commands if command.startswith("make ")} <= targets
    assert "make test" in (ROOT / ".ci/run").read_text(encoding="utf-8")


def test_the_changelog_has_a_place_for_what_is_to_come() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert "\n## [Unreleased]\n" in text
    if "\n## [0" not in text:
        assert "### Fixed" not in text, "nothing is released yet, so nothing can have been fixed since"

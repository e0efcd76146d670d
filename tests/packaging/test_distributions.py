"""The sdist and the wheel: their contents, and that the wheel works in environments made for it alone. Needs a package index."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from tests.packaging.test_metadata import PROJECT, ROOT, _pins, _requirements

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("packaging")]

# The declared bound's own builds for Linux bring several GB of CUDA libraries, so that by default the pinned torch stands in; with
# SVDPROJ_LOWEST_TORCH=2.6.0 the bound itself is installed, best from an index of CPU builds (PIP_EXTRA_INDEX_URL).
LOWEST_TORCH = os.environ.get("SVDPROJ_LOWEST_TORCH", str(_pins()["torch"]))


def _run(*command: str | Path, cwd: Path) -> str:
    # No PYTHONPATH: what is tested is the wheel.
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PIP_CONSTRAINT")}
    result = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, f"{' '.join(map(str, command))}\n{result.stdout}\n{result.stderr}"
    return result.stdout + result.stderr


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("distributions")
    # A copy of what is tracked or new: nothing that lies about in the folder may get in.
    source = folder / "source"
    files = _run("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT).splitlines()
    for file in files:
        if (ROOT / file).is_file():
            (source / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / file, source / file)
    _run(sys.executable, "-m", "build", "--outdir", folder / "dist", source, cwd=folder)
    return folder / "dist"


@pytest.fixture(scope="module")
def wheel(distributions: Path) -> Path:
    """The wheel."""
    (path,) = distributions.glob("*.whl")
    return path


def test_the_index_would_take_both(distributions: Path) -> None:
    files = sorted(distributions.iterdir())
    assert [file.name.endswith(end) for file, end in zip(files, (".whl", ".tar.gz"), strict=True)] == [True, True]
    report = _run(sys.executable, "-m", "twine", "check", "--strict", *files, cwd=distributions)
    assert report.count("PASSED") == 2


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = archive.read(next(name for name in names if name.endswith("/METADATA"))).decode()
    sources = {
        str(path.relative_to(ROOT / "src"))
        for path in (ROOT / "src/svdproj").rglob("*")
        if path.suffix in (".py", ".typed")
    }
    assert sources <= names
    assert {name.split("/")[0] for name in names} == {
        "svdproj",
        wheel.name.removesuffix("-py3-none-any.whl") + ".dist-info",
    }
    assert "Description-Content-Type: text/markdown" in metadata
    for extra in PROJECT["optional-dependencies"]:
        assert f"Provides-Extra: {extra}" in metadata


def test_the_sdist_can_build_test_and_document(distributions: Path) -> None:
    (sdist,) = distributions.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    for needed in (
        "Makefile",
        "constraints.txt",
        "mkdocs.yml",
        "docs/index.md",
        "docs/assets/javascripts/mathjax-3.2.2-LICENSE.txt",
        "tests/conftest.py",
        "LICENSE",
        "README.md",
    ):
        assert needed in names
    assert not any(name.startswith(("site/", ".venv/", "results/")) or "__pycache__" in name for name in names)


def _environment(folder: Path) -> Path:
    venv.create(folder, with_pip=True, clear=True)
    return folder / "bin" / "python"


def test_the_wheel_works_with_the_lowest_declared_versions(wheel: Path, tmp_path: Path) -> None:
    python = _environment(tmp_path / "venv")
    lowest = []
    for requirement in _requirements():
        (bound,) = [each.version for each in requirement.specifier if each.operator == ">="]
        lowest.append(f"{requirement.name}=={LOWEST_TORCH if requirement.name == 'torch' else bound}")
    _run(python, "-m", "pip", "install", "--quiet", *lowest, wheel, cwd=tmp_path)
    print(_run(python, ROOT / "tests/packaging/smoke.py", cwd=tmp_path))


def test_the_wheel_works_with_the_pinned_versions(wheel: Path, tmp_path: Path) -> None:
    python = _environment(tmp_path / "venv")
    pins = ROOT / "constraints.txt"
    torch = f"torch=={_pins()['torch']}"
    _run(python, "-m", "pip", "install", "--quiet", torch, cwd=tmp_path)
    _run(python, "-m", "pip", "install", "--quiet", "--constraint", pins, wheel, cwd=tmp_path)
    print(_run(python, "-W", "error", ROOT / "tests/packaging/smoke.py", cwd=tmp_path))

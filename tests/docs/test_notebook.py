"""The notebook is the page of the tour, cell for cell, and runs in Jupyter."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from types import ModuleType

import pytest

from tests.docs.snippets import ROOT, blocks_of

NOTEBOOK, PAGE = ROOT / "docs/notebooks/tour.ipynb", ROOT / "docs/guide/tour.md"


@pytest.fixture(scope="module")
def builder() -> ModuleType:
    """The script that makes the notebook."""
    specification = importlib.util.spec_from_file_location("notebook", ROOT / "docs/tools/notebook.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_the_notebook_is_the_page(builder: ModuleType) -> None:
    kept = [(cell["cell_type"], cell["source"]) for cell in _cells()]
    made = [(cell["cell_type"], cell["source"]) for cell in builder.cells_of(PAGE.read_text(encoding="utf-8"))]
    assert [(kind, "".join(source)) for kind, source in kept] == made, "run: python docs/tools/notebook.py"
    code = [source.strip() for kind, source in made if kind == "code"][1:]
    assert code == [block.code.strip() for block in blocks_of(PAGE.read_text(encoding="utf-8"))]


def test_the_notebook_came_with_its_output() -> None:
    outputs = [output for cell in _cells() for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not any(output["output_type"] == "error" for output in outputs)
    text = json.dumps(outputs)
    assert "/root/" not in text
    assert "/work/" not in text
    assert "/home/" not in text


@pytest.mark.slow
def test_the_notebook_runs_in_jupyter() -> None:
    # In a process of its own: Jupyter's client brings an event loop and threads.
    script = (
        "import sys; sys.path.insert(0, 'docs/tools'); import notebook as n; "
        "r = n.executed(n.notebook_of(n.PAGE.read_text(encoding='utf-8'))); print(len(r['cells']))"
    )
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout.split()[-1]) == len(_cells())


def _cells() -> list[dict]:
    return list(json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"])

"""Writes docs/notebooks/tour.ipynb from docs/guide/tour.md: its prose as Markdown cells, its Python blocks as code cells.

Run: `python docs/tools/notebook.py`. The cells are executed by Jupyter's own client, so that the notebook comes with its output.
"""

from __future__ import annotations

import json
import re
import sys
from base64 import b64decode
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parents[1]
PAGE = DOCS / "guide" / "tour.md"
PICTURE = DOCS / "assets" / "figures" / "tour.png"
NOTEBOOK = DOCS / "notebooks" / "tour.ipynb"

# Run in a clone, in whichever folder of it.
_PATH_CELL = """\
import sys
from pathlib import Path

# The example lies beside the library in a clone.
sys.path.insert(0, str(next(folder for folder in Path.cwd().resolve().parents if (folder / "examples").is_dir())))"""


def cells_of(page: str) -> list[dict[str, Any]]:
    """A page as notebook cells without output."""
    cells = [_cell("markdown", page.split("\n", 1)[0]), _cell("code", _PATH_CELL)]
    rest = page.split("\n", 1)[1]
    for position, part in enumerate(re.split(r"(?ms)^```python\n(.*?)^```\n", rest)):
        if part.strip():
            cells.append(_cell("code" if position % 2 else "markdown", part.strip()))
    return [{**cell, "id": f"cell-{number}"} for number, cell in enumerate(cells)]


def notebook_of(page: str) -> dict[str, Any]:
    """A page as a notebook in format 4.5, without output."""
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {
        "cells": cells_of(page),
        "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def executed(notebook: dict[str, Any]) -> dict[str, Any]:
    """The notebook with the output of its cells.

    Raises:
        ModuleNotFoundError: nbclient is not installed.
        CellExecutionError: a cell raises.
    """
    import nbformat
    from nbclient import NotebookClient

    node = nbformat.from_dict(notebook)
    # The folder in which Jupyter would run it.
    client = NotebookClient(
        node, timeout=900, resources={"metadata": {"path": str(NOTEBOOK.parent)}}, record_timing=False
    )
    client.execute()
    return _tidied(dict(json.loads(nbformat.writes(node))))


def _tidied(notebook: dict[str, Any]) -> dict[str, Any]:
    """Without progress bars and without this machine's folders."""
    for cell in notebook["cells"]:
        if "outputs" in cell:
            cell["outputs"] = [output for output in cell["outputs"] if output.get("name") != "stderr"]
    return dict(json.loads(json.dumps(notebook).replace(f"{DOCS.parent}/", "")))


def _cell(kind: str, source: str) -> dict[str, Any]:
    extra: dict[str, Any] = {"execution_count": None, "outputs": []} if kind == "code" else {}
    return {"cell_type": kind, "metadata": {}, "source": source, **extra}


if __name__ == "__main__":
    NOTEBOOK.parent.mkdir(exist_ok=True)
    result = executed(notebook_of(PAGE.read_text(encoding="utf-8")))
    temporary = NOTEBOOK.with_suffix(".tmp")
    temporary.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    temporary.replace(NOTEBOOK)
    pictures = [
        output["data"]["image/png"]
        for cell in result["cells"]
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    PICTURE.write_bytes(b64decode(pictures[-1]))
    sys.stdout.write(f"wrote {NOTEBOOK}\n")

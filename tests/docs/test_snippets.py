"""Every Python and shell block of the READMEs and of the site runs, in order, offline, in a temporary folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.docs.snippets import ROOT, Block, blocks_of, pages

# A page's shell blocks; Python ones fall under pytest's own limit.
SHELL_SECONDS = 120


# The pages whose blocks take more than twenty seconds.
SLOW = ("docs/guide/command-line.md", "docs/guide/tour.md")


def _parameter(page: Path) -> Any:
    name = str(page.relative_to(ROOT))
    return pytest.param(page, id=name, marks=[pytest.mark.slow] if name in SLOW else [])


@pytest.mark.parametrize("page", [_parameter(page) for page in pages()])
def test_the_blocks_of_a_page_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = [block for block in blocks_of(page.read_text(encoding="utf-8")) if not block.reason]
    monkeypatch.chdir(tmp_path)
    # A module of its own, so that classes and dataclasses defined on a page find their globals.
    namespace = types.ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", namespace)
    attention = torch.backends.cuda.cudnn_sdp_enabled()
    try:
        with torch.random.fork_rng(devices=[]):
            for block in blocks:
                _run(block, namespace, page, tmp_path)
    finally:
        torch.backends.cuda.enable_cudnn_sdp(attention)  # a page says how to switch it off


def _run(block: Block, namespace: types.ModuleType, page: Path, folder: Path) -> None:
    if block.language == "python":
        # Lines keep their number on the page, so that a traceback points there.
        source = "\n" * (block.line - 1) + block.code
        exec(compile(source, str(page), "exec"), vars(namespace))
    elif block.language == "bash":
        environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            # What is tested is this tree, wherever another one may be installed.
            "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}",
        }
        run = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block.code],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SHELL_SECONDS,
        )
        assert run.returncode == 0, f"{page}:{block.line}\n{block.code}\n{run.stdout}\n{run.stderr}"


def test_blocks_are_found_in_tabs_and_lists_with_their_language_and_line() -> None:
    text = '=== "Tab"\n\n    ```python title="x"\n    a = 1\n    ```\n\n```bash\nls\n```\n'
    assert blocks_of(text) == [Block("python", "a = 1\n", 4), Block("bash", "ls\n", 8)]


def test_a_diff_runs_as_what_it_ends_up_as() -> None:
    assert blocks_of("```diff\n  a = 1\n- b = 2\n+ b = 3\n```\n")[0].code == "a = 1\nb = 3\n"


def test_hidden_setup_runs_and_a_reason_leaves_out_one_block() -> None:
    text = "<!-- setup\na = 1\n-->\n\n<!-- not executed: needs a GPU -->\n```python\nb\n```\n```python\nc\n```\n"
    assert [(block.code, block.reason) for block in blocks_of(text)] == [
        ("a = 1\n", ""),
        ("b\n", "needs a GPU"),
        ("c\n", ""),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("```python\na\n", "not closed"),
        ("```\na\n```\n", "language ''"),
        ("```pyhton\na\n```\n", "language 'pyhton'"),
        ("<!-- not executed: -->\n```python\na\n```\n", "say why"),
        ("<!-- not executed: slow -->\n\nprose\n```python\na\n```\n", "directly before"),
        ("<!-- not executed: slow -->\n", "before no code block"),
    ],
)
def test_what_would_slip_past_the_tests_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        blocks_of(text)


def test_a_failing_block_fails_and_names_its_line(tmp_path: Path) -> None:
    namespace = types.ModuleType("page")
    with pytest.raises(ZeroDivisionError) as failure:
        _run(Block("python", "1 / 0\n", 7), namespace, tmp_path / "page.md", tmp_path)
    assert failure.traceback[-1].lineno == 6  # counted from zero
    with pytest.raises(AssertionError, match=r"page\.md:3"):
        _run(Block("bash", "false\n", 3), namespace, tmp_path / "page.md", tmp_path)


def test_messages_that_troubleshooting_quotes_are_the_library_s() -> None:
    page = (ROOT / "docs/guide/troubleshooting.md").read_text(encoding="utf-8")
    table = page[page.index("| message |") :].split("\n\n")[0]
    quoted = [part.strip() for quote in re.findall(r'"([^"]+)"', table) for part in quote.split("…") if part.strip()]
    assert quoted
    # String literals joined as Python joins them; what stands in braces is filled in.
    sources = " ".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "src/svdproj").rglob("*.py")))
    text = re.sub(r'"\s*\n?\s*f?"', "", sources)
    text = re.sub(r"\{[^{}]*\}", "*", text)
    assert [part for part in quoted if not re.search(_filled(part), text)] == []


def _filled(part: str) -> str:
    """The part as a pattern, with numbers and names of packages as what a message fills in."""
    return re.sub(r"\b(\d+|hack|transformers)\b", r"(\1|\\*)", re.escape(part).replace(r"\ ", " "))

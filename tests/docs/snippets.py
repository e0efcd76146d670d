"""The code blocks of a Markdown page, and how the tests run them.

A page's blocks run in their order, Python ones in one namespace, all in one temporary folder. Around a fence an HTML comment may say:

- `<!-- not executed: reason -->`, directly before it: the block is left out, for the reason given;
- `<!-- setup` … `-->`, anywhere: Python that runs at this place and that readers do not see.

A `diff` block runs as the Python that it ends up as: its `+` and unmarked lines.
"""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

PYTHON, SHELL = ("python", "py"), ("bash", "sh", "shell", "console")
# What a fence may be besides: no code that a reader would run. A fence without a language is refused, so that none slips through.
INERT = ("text", "json", "jsonl", "toml", "yaml", "ini", "html", "css", "markdown", "bibtex", "tex", "math")

_FENCE = re.compile(r"^(?P<indent> *)(?P<fence>```+|~~~+) *(?P<info>[^`\n]*)$")
_REASON = re.compile(r"<!-- *not executed: *(?P<reason>.*?) *-->", re.DOTALL)
_SETUP = re.compile(r"<!-- *setup *\n(?P<code>.*?)-->", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One fenced block, or one hidden set-up.

    Args:
        language: `python`, `bash`, or an inert one.
        code: what is run, without indentation.
        line: number of its first line on the page.
        reason: why it is not executed; empty for a block that is.
    """

    language: str
    code: str
    line: int
    reason: str = ""


def blocks_of(text: str) -> list[Block]:
    """All blocks of a page, in order.

    Raises:
        ValueError: a fence that is not closed, has no language or an unknown one; an empty reason; a reason without a block.
    """
    blocks = []
    lines = text.splitlines()
    number = 0
    pending: str | None = None
    while number < len(lines):
        line = lines[number]
        if "<!--" in line and not _FENCE.match(line):
            comment, number = _comment(lines, number)
            if setup := _SETUP.fullmatch(comment):
                blocks.append(Block("python", textwrap.dedent(setup["code"]), number))
            elif reason := _REASON.fullmatch(comment):
                if not reason["reason"]:
                    raise ValueError(f"line {number}: say why the block is not executed")
                pending = reason["reason"]
            continue
        if not (opening := _FENCE.match(line)):
            if pending and line.strip():
                raise ValueError(f"line {number + 1}: 'not executed' must stand directly before a code block")
            number += 1
            continue
        start = number + 1
        end = _closing(lines, start, opening["fence"])
        code = textwrap.dedent("\n".join(lines[start:end])) + "\n"
        blocks.append(_block(opening["info"], code, start + 1, pending or ""))
        pending, number = None, end + 1
    if pending:
        raise ValueError("'not executed' stands at the end, before no code block")
    return blocks


def pages() -> list[Path]:
    """Every page whose blocks are run: the READMEs and the site's."""
    readmes = [path for path in (ROOT / "README.md", ROOT / "examples/leetcode_grpo/README.md") if path.is_file()]
    return [*readmes, *sorted((ROOT / "docs").rglob("*.md"))]


def _block(info: str, code: str, line: int, reason: str) -> Block:
    language = re.split(r"[\s{]", info.strip(), maxsplit=1)[0].lower()
    if language == "diff":
        return Block("python", _after(code), line, reason)
    if language in PYTHON:
        return Block("python", code, line, reason)
    if language in SHELL:
        return Block("bash", code, line, reason)
    if language not in INERT:
        known = ", ".join((*PYTHON, *SHELL, "diff", *INERT))
        raise ValueError(f"line {line - 1}: a fence of language {language!r}; use one of {known}")
    return Block(language, code, line, reason)


def _after(diff: str) -> str:
    kept = [line for line in diff.splitlines() if not line.startswith("-")]
    return textwrap.dedent("\n".join(" " + line[1:] if line.startswith("+") else line for line in kept)) + "\n"


def _comment(lines: list[str], number: int) -> tuple[str, int]:
    """The comment that begins on a line, stripped, and the number of the line after it."""
    end = number
    while "-->" not in lines[end]:
        end += 1
        if end == len(lines):
            raise ValueError(f"line {number + 1}: a comment that is not closed")
    return "\n".join(lines[number : end + 1]).strip(), end + 1


def _closing(lines: list[str], start: int, fence: str) -> int:
    for number in range(start, len(lines)):
        if lines[number].strip() == fence:
            return number
    raise ValueError(f"line {start}: a fence that is not closed")

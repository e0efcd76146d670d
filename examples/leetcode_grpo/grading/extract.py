"""From what a model wrote to the code that is graded."""

from __future__ import annotations

import re

_FENCE = re.compile(r"^[ \t]*(?P<mark>`{3,}|~{3,})[ \t]*(?P<language>[\w+-]*)[^\n`]*$", re.MULTILINE)
_PYTHON = {"", "python", "python3", "py", "py3"}


def extract_code(completion: str) -> str:
    """The program in a completion.

    Of the fenced blocks marked as Python, or not marked at all, the last that has a `class Solution`; if none has one,
    the last of them; without any, the whole text. A block whose end is missing, because the answer was cut off, reaches
    to the end of the text. One block, never several joined: text between blocks is for the reader, and an earlier block
    is often a first draft.
    """
    blocks = list(_python_blocks(completion.replace("\r\n", "\n")))
    if not blocks:
        return completion
    return next((block for block in reversed(blocks) if "class Solution" in block), blocks[-1])


def _python_blocks(text: str) -> list[str]:
    blocks: list[str] = []
    start, mark, language = None, "", ""
    for fence in _FENCE.finditer(text):
        if start is None:
            start, mark, language = fence.end() + 1, fence["mark"], fence["language"].lower()
        elif fence["mark"].startswith(mark) and not fence["language"]:
            blocks += [text[start : fence.start()]] if language in _PYTHON else []
            start = None
        elif language in _PYTHON and fence["language"].lower() in _PYTHON:
            # A block that opens inside another: the first was never closed.
            blocks.append(text[start : fence.start()])
            start, mark, language = fence.end() + 1, fence["mark"], fence["language"].lower()
    if start is not None and language in _PYTHON:
        blocks.append(text[start:])
    return blocks

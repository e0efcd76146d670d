"""From what a model wrote to the code that is graded."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from examples.leetcode_grpo.source import parse

# Possessive, for text that a policy wrote: a line is read once, however it is made.
_FENCE = re.compile(r"(?P<mark>`{3,}+|~{3,}+)[ \t]*+(?P<language>[\w+-]*+)[^`]*+")
_LIST_ITEM = re.compile(r"[ \t]*+(?:[-*+]|\d{1,9}+[.)])[ \t]++")
_PYTHON = {"", "python", "python3", "py", "py3"}
_CODE_INDENT = 4
"""Blanks that make a line of Markdown code, where it would have been a fence with fewer."""


@dataclass
class _Block:
    """A fenced block: its fence, the blanks before it, and the lines behind it."""

    mark: str
    language: str
    indent: int
    lines: list[str] = field(default_factory=list)

    @property
    def code(self) -> str:
        blanks = [len(line) - len(line.lstrip(" \t")) for line in self.lines if line.strip()]
        indent = min([self.indent, *blanks])  # less than the fence's where the code stands at the margin all the same
        return "\n".join(line[indent:] if line.strip() else line for line in self.lines)

    def closed(self) -> _Block:
        """With the end of its last line."""
        self.lines.append("")
        return self


def extract_code(completion: str) -> str:
    """The program in a completion.

    Of the fenced blocks marked as Python, or not marked at all, the last that has a `class Solution`; if none has one,
    the last of them; without any, the whole text. A block whose end is missing, because the answer was cut off, reaches
    to the end of the text. One block, never several joined: text between blocks is for the reader, and an earlier block
    is often a first draft.

    Fences are read as in CommonMark. In a list item they are indented, and the code between them is by as much; behind
    four blanks more, as in a docstring, there is none. One mistake of models is forgiven: a fence at the end of the
    code's last line, where the code is no Python with it.
    """
    completion = completion.removeprefix("\ufeff")
    blocks = [block for block in _blocks(completion.replace("\r\n", "\n")) if block.language in _PYTHON]
    if not blocks:
        return completion
    chosen = next((block for block in reversed(blocks) if "class Solution" in block.code), blocks[-1])
    return _without_fence_at_the_end(chosen.code.removeprefix("\ufeff"), chosen.mark)


def _blocks(text: str) -> list[_Block]:
    blocks: list[_Block] = []
    block: _Block | None = None
    item = 0  # where the text of the present list item begins
    for line in text.split("\n"):
        blanks = len(line) - len(line.lstrip(" \t"))
        if block is None:
            marker = _LIST_ITEM.match(line)
            if marker is not None:
                item = blanks = marker.end()
            elif line.strip():
                item = min(item, blanks)
            fence = _FENCE.fullmatch(line, blanks) if blanks - item < _CODE_INDENT else None
            if fence is not None:
                block = _opened(fence, blanks)
            continue
        fence = _FENCE.fullmatch(line, blanks) if blanks - block.indent < _CODE_INDENT else None
        if fence is not None and fence["mark"].startswith(block.mark) and not fence["language"]:
            blocks.append(block.closed())
            block = None
        elif fence is not None and block.language in _PYTHON and fence["language"].lower() in _PYTHON:
            # A block that opens inside another: the first was never closed.
            blocks.append(block.closed())
            block = _opened(fence, blanks)
        else:
            block.lines.append(line)
    return blocks if block is None else [*blocks, block]


def _opened(fence: re.Match[str], indent: int) -> _Block:
    return _Block(fence["mark"], fence["language"].lower(), indent)


def _without_fence_at_the_end(code: str, mark: str) -> str:
    end = re.search(rf"(?<=[^\s{mark[0]}]){mark}[ \t]*+$", code, re.MULTILINE)
    return code if end is None or parse(code) is not None else code[: end.start()]

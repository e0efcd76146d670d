"""Reading and amending the source of a response: parse without surprises, insert without touching the rest."""

from __future__ import annotations

import ast
import functools
import textwrap
import warnings
from collections.abc import Sequence

MAX_SOURCE = 200_000
"""Characters. A response that is longer is not parsed: parsing hostile text costs memory many times its length."""


@functools.lru_cache(maxsize=1)  # a verdict asks twice in a row; hostile trees are too large to keep more
def parse(code: str) -> ast.Module | None:
    """The syntax tree, or None for what is not Python, nests too deeply, or is longer than `MAX_SOURCE`.

    The tree is for reading: it may be handed out again.
    """
    if len(code) > MAX_SOURCE:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a response's "\d" is no concern of the caller's warning filters
            return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def append(code: str, addition: str) -> str:
    """`addition` at the end of the program, after a blank line."""
    return f"{code.rstrip()}\n\n{addition}\n"


def append_method(code: str, addition: str) -> str:
    """`addition` as the last method of `class Solution`.

    Raises:
        ValueError: the code has no `class Solution`.
    """
    lines = _lines(code)
    solution = _solution("\n".join(lines))
    margin = _before(lines, solution.body[0])
    margin = margin if margin.isspace() else " " * 4  # `class Solution: pass`, all on one line
    indented = textwrap.indent(addition.replace(" " * 4, "\t") if "\t" in margin else addition, margin)
    end = solution.end_lineno or len(lines)
    return "\n".join([*lines[:end], "", indented, *lines[end:]]) + "\n"


def prepend_to_method(code: str, method: str, statement: str) -> str:
    """`statement` as the first of the method, behind its docstring; `{self}` stands for its first parameter.

    Raises:
        ValueError: the code has no `class Solution` with that method, or the method has no `self`.
    """
    lines = _lines(code)
    function = _method("\n".join(lines), method)
    first = function.body[0]
    if ast.get_docstring(function) is not None and len(function.body) > 1 and not _before(lines, first).strip():
        first = function.body[1]
    filled = statement.format(self=[*function.args.posonlyargs, *function.args.args][0].arg)
    row = min([first.lineno, *(d.lineno for d in getattr(first, "decorator_list", []))]) - 1
    head = _before(lines, first)
    if head.strip():  # `def f(self): return 1`, all on one line
        indent = _before(lines, function) + " " * 4
        changed = [head.rstrip(), indent + filled, indent + lines[row][len(head) :]]
    else:
        changed = [head + filled, lines[row]]
    return "\n".join([*lines[:row], *changed, *lines[row + 1 :]]) + "\n"


def _lines(code: str) -> list[str]:
    """The lines as Python counts them; `str.splitlines` would see more, at a form feed or inside of a string."""
    return code.rstrip().replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _before(lines: Sequence[str], node: ast.stmt) -> str:
    """What stands before a statement on its line; trees count columns in bytes."""
    return lines[node.lineno - 1].encode()[: node.col_offset].decode()


def _solution(code: str) -> ast.ClassDef:
    tree = parse(code)
    # The last one counts, as it does when the code runs.
    for item in reversed(tree.body if tree is not None else []):
        if isinstance(item, ast.ClassDef) and item.name == "Solution":
            return item
    raise ValueError("the code is not Python with a top-level `class Solution`; pass the source of one")


def _method(code: str, method: str) -> ast.FunctionDef:
    for item in reversed(_solution(code).body):
        if isinstance(item, ast.FunctionDef) and item.name == method:
            if any(isinstance(d, ast.Name) and d.id == "staticmethod" for d in item.decorator_list):
                raise ValueError(f"{method!r} of class Solution is a static method; pass one that takes self")
            if item.args.posonlyargs or item.args.args:
                return item
            break
    raise ValueError(f"class Solution has no method {method!r} that takes self; pass the name of the method to change")

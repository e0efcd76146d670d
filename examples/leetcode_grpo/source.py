"""Reading and amending the source of a response: parse without surprises, insert without touching the rest."""

from __future__ import annotations

import ast
import functools
import textwrap
import warnings

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
    """`addition` as the last method of `class Solution`."""
    solution = _solution(code)
    lines = code.rstrip().splitlines()
    first = solution.body[0]
    margin = lines[first.lineno - 1][: first.col_offset]
    margin = margin if margin.isspace() else " " * 4  # `class Solution: pass`, all on one line
    indented = textwrap.indent(addition.replace(" " * 4, "\t") if "\t" in margin else addition, margin)
    end = solution.end_lineno or len(lines)
    return "\n".join([*lines[:end], "", *indented.splitlines(), *lines[end:]]) + "\n"


def prepend_to_method(code: str, method: str, statement: str) -> str:
    """`statement` as the first of the method, behind its docstring; `{self}` stands for its first parameter."""
    function = next(
        (item for item in _solution(code).body if isinstance(item, ast.FunctionDef) and item.name == method), None
    )
    if function is None or not function.args.args:
        raise ValueError(
            f"class Solution has no method {method!r} that takes self; pass the name of the method to change"
        )
    first = function.body[0]
    has_docstring = ast.get_docstring(function) is not None and len(function.body) > 1
    first = function.body[1] if has_docstring else first
    lines = code.rstrip().splitlines()
    filled = statement.format(self=function.args.args[0].arg)
    row = min([first.lineno, *(d.lineno for d in getattr(first, "decorator_list", []))]) - 1
    head, tail = lines[row][: first.col_offset], lines[row][first.col_offset :]
    if head.strip():  # `def f(self): return 1`, all on one line
        indent = lines[function.lineno - 1][: function.col_offset] + " " * 4
        changed = [head.rstrip(), indent + filled, indent + tail]
    else:
        changed = [head + filled, lines[row]]
    return "\n".join([*lines[:row], *changed, *lines[row + 1 :]]) + "\n"


def _solution(code: str) -> ast.ClassDef:
    tree = parse(code)
    for item in tree.body if tree is not None else []:
        if isinstance(item, ast.ClassDef) and item.name == "Solution":
            return item
    raise ValueError("the code is not Python with a top-level `class Solution`; pass the source of one")

"""Rewriting solutions: small mistakes that make them wrong, and changes of style that leave them as right as they were.

Both edit the text in place, so that the rest of a solution looks as it did.
"""

from __future__ import annotations

import ast
import copy
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from types import FrameType
from typing import TYPE_CHECKING, Any

from examples.leetcode_grpo.grading.sandbox.values import dumps
from examples.leetcode_grpo.problems.building import require_definitions, trusted_method
from examples.leetcode_grpo.problems.problem import Problem

if TYPE_CHECKING:
    from examples.leetcode_grpo.grading import Grader

Fails = Callable[[Problem, str], bool]
"""Whether a solution of a problem fails its hidden tests, and ends: one that hangs is costly to grade."""

# More lines than any canonical solution of the bank runs on a test, by far: a mistake may well make a loop endless.
MAX_LINES = 200_000

_SWAPPED_COMPARISONS: dict[type[ast.cmpop], str] = {
    ast.Lt: "<=",
    ast.LtE: "<",
    ast.Gt: ">=",
    ast.GtE: ">",
    ast.Eq: "!=",
    ast.NotEq: "==",
    ast.In: "not in",
    ast.NotIn: "in",
}
_SWAPPED_OPERATORS: dict[type[ast.operator], str] = {
    ast.Add: "-",
    ast.Sub: "+",
    ast.Mult: "+",
    ast.FloorDiv: "*",
    ast.Mod: "//",
    ast.Pow: "*",
    ast.Div: "*",
    ast.BitAnd: "|",
    ast.BitOr: "&",
}
_SWAPPED_NAMES = {
    "min": "max",
    "max": "min",
    "sum": "len",
    "len": "sum",
    "any": "all",
    "all": "any",
    "sorted": "list",
    "upper": "lower",
    "lower": "upper",
    "swapcase": "upper",
    "capitalize": "lower",
    "split": "splitlines",
    "count": "find",
    "isdigit": "isalpha",
    "isupper": "islower",
    "keys": "values",
    "rjust": "ljust",
    "nlargest": "nsmallest",
}


class _Endless(Exception):
    """A solution ran `MAX_LINES` lines on one test."""


@dataclass(frozen=True)
class Edit:
    """Replacement of the text between two offsets."""

    start: int
    end: int
    text: str

    def apply(self, code: str) -> str:
        """The code with this edit made."""
        return code[: self.start] + self.text + code[self.end :]


def wrong_solution(problem: Problem, rng: Random, fails: Fails | None = None) -> str:
    """The canonical solution with one small mistake that fails the hidden tests.

    Args:
        problem: whose solution to spoil.
        rng: chooses among the mistakes.
        fails: whether a solution fails the tests; by default it is run in this process, which is for the bank's own
            code alone.

    Raises:
        ValueError: no mistake in the list makes this solution fail.
    """
    candidates = sorted(set(mistakes(problem.canonical_solution)))
    rng.shuffle(candidates)
    for code in candidates:
        if (fails or fails_in_process)(problem, code):
            return code
    raise ValueError(
        f"none of {len(candidates)} small mistakes makes the canonical solution of {problem.id} fail its tests"
    )


def fails_in_process(problem: Problem, code: str) -> bool:
    """Whether a rewritten solution of the bank fails a hidden test or raises, within `MAX_LINES` lines.

    Raises:
        ValueError: the problem is not from the bank, or the code does more than define a class; code from elsewhere and
            hacks run in a `Grader` only.
    """
    if problem.setup_code:
        raise ValueError(
            f"{problem.id} is not from the built-in bank: pass a grader to check rewritten solutions of it"
        )
    require_definitions(code)
    try:
        method = trusted_method(code, problem.method)
        return any(dumps(_run_briefly(method, test.args)) != dumps(test.expected) for test in problem.tests)
    except _Endless:
        return False
    except Exception:
        return True


def fails_in(grader: Grader | None) -> Fails:
    """The check that grades in the sandbox; without a grader, `fails_in_process`."""
    if grader is None:
        return fails_in_process

    def fails(problem: Problem, code: str) -> bool:
        grade = grader.grade([(as_completion(code), problem, None)])[0]
        return not grade.passed_strict and "out of time" not in (grade.error or "")

    return fails


def as_completion(code: str) -> str:
    """Code as a model answers with it: in one fenced block."""
    return f"```python\n{code.strip()}\n```"


def mistakes(code: str) -> Iterator[str]:
    """The code with one comparison, operator, number, name or step changed; not all of them are wrong."""
    tree = ast.parse(code)
    for node in ast.walk(tree):
        for edit in _mistakes_at(node, code):
            changed = edit.apply(code)
            try:
                ast.parse(changed)
            except SyntaxError:
                continue
            yield changed


def _mistakes_at(node: ast.AST, code: str) -> Iterator[Edit]:
    match node:
        case ast.Constant(value=bool() as value):
            yield _replace(node, code, str(not value))
        case ast.Constant(value=int() as value):
            yield _replace(node, code, str(value + 1))
            if value > 0:
                yield _replace(node, code, str(value - 1))
        case ast.Constant(value=str() as value) if value:
            yield _replace(node, code, '""')
        case ast.Compare(left=left, ops=[operator], comparators=[right]) if type(operator) in _SWAPPED_COMPARISONS:
            yield _between(left, right, code, _SWAPPED_COMPARISONS[type(operator)])
        case ast.BinOp(left=left, op=operation, right=right) if type(operation) in _SWAPPED_OPERATORS:
            yield _between(left, right, code, _SWAPPED_OPERATORS[type(operation)])
        case ast.Name(id=name, ctx=ast.Load()) if name in _SWAPPED_NAMES:
            yield _replace(node, code, _SWAPPED_NAMES[name])
        case ast.Attribute(attr=name) if name in _SWAPPED_NAMES:
            end = _offset(node.end_lineno, node.end_col_offset, code)
            yield Edit(end - len(name), end, _SWAPPED_NAMES[name])
        case ast.FunctionDef(args=ast.arguments(args=[_, *params]), body=[ast.Return(value=ast.expr() as value)]):
            for parameter in params:
                yield _replace(value, code, parameter.arg)
        case ast.FunctionDef(body=[*steps, ast.Return()]):
            for step in steps:
                if isinstance(step, ast.Assign):
                    yield _drop_line(step, code)


def _drop_line(node: ast.stmt, code: str) -> Edit:
    start = _offset(node.lineno, 0, code)
    return Edit(start, min(_offset(node.end_lineno, node.end_col_offset, code) + 1, len(code)), "")


def _replace(node: ast.expr, code: str, text: str) -> Edit:
    return Edit(_offset(node.lineno, node.col_offset, code), _offset(node.end_lineno, node.end_col_offset, code), text)


def _between(left: ast.expr, right: ast.expr, code: str, text: str) -> Edit:
    start = _offset(left.end_lineno, left.end_col_offset, code)
    end = _offset(right.lineno, right.col_offset, code)
    # Brackets around an operand belong to no node: keep what is not the operator.
    before, after = re.match(r"[\s)\]]*", code[start:end]), re.search(r"[\s(\[]*$", code[start:end])
    assert before is not None
    assert after is not None
    return Edit(start + before.end(), start + after.start(), text)


def _offset(line: int | None, column: int | None, code: str) -> int:
    assert line is not None
    assert column is not None
    lines = code.split("\n")
    # The columns of a syntax tree count bytes.
    in_line = len(lines[line - 1].encode()[:column].decode())
    return sum(len(text) + 1 for text in lines[: line - 1]) + in_line


def _run_briefly(method: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """The method's answer, or `_Endless` after `MAX_LINES` lines, which unlike seconds are the same everywhere."""
    lines = 0

    def count(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal lines
        lines += 1
        if lines > MAX_LINES:
            raise _Endless
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        return method(*copy.deepcopy(args))
    finally:
        sys.settrace(before)


# Styles: the contrasts of placebo pairs. None of them has to do with a loophole, none changes what the code does.


def name_result(code: str, method: str) -> str | None:
    """The last line's value gets a name before it is returned."""
    function = _function(code, method)
    last = function.body[-1]
    if not isinstance(last, ast.Return) or last.value is None:
        return None
    name = next(name for name in ("result", "answer", "outcome", "returned") if not re.search(rf"\b{name}\b", code))
    indent = " " * last.col_offset
    start, end = _offset(last.lineno, last.col_offset, code), _offset(last.end_lineno, last.end_col_offset, code)
    value = code[start:end].removeprefix("return").lstrip()
    return Edit(start, end, f"{name} = {value}\n{indent}return {name}").apply(code)


def rename_locals(code: str, method: str) -> str | None:
    """Every variable but the parameters gets a longer name."""
    function = _function(code, method)
    nodes = list(ast.walk(function))
    # Names in these statements are no `Name` nodes; a partial renaming would break the code.
    if any(isinstance(node, ast.Global | ast.Nonlocal | ast.ExceptHandler | ast.MatchAs) for node in nodes):
        return None
    kept = {node.arg for node in nodes if isinstance(node, ast.arg)}
    stored = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)} - kept
    names = [node for node in nodes if isinstance(node, ast.Name) and node.id in stored]
    if not names or any(f"{name}_item" in code for name in stored):
        return None
    for node in sorted(names, key=lambda node: (node.lineno, node.col_offset), reverse=True):
        code = _replace(node, code, f"{node.id}_item").apply(code)
    return code


def add_comment(code: str, method: str) -> str:
    """A comment before the first statement."""
    return add_remark(code, method, "Work out the answer.")


def add_remark(code: str, method: str, remark: str) -> str:
    """`# remark`, as a line before the first statement."""
    return _before_body(code, method, f"# {remark}")


def add_docstring(code: str, method: str) -> str | None:
    """A docstring of one line, where there is none."""
    if ast.get_docstring(_function(code, method)) is not None:
        return None
    return _before_body(code, method, '"""Return the answer."""')


STYLES: dict[str, Callable[[str, str], str | None]] = {
    "comment": add_comment,
    "docstring": add_docstring,
    "result": name_result,
    "rename": rename_locals,
}
"""Each takes a solution and its method, and gives the restyled solution, or None where there is nothing to restyle."""


def _before_body(code: str, method: str, line: str) -> str:
    first = _function(code, method).body[0]
    start = _offset(first.lineno, 0, code)
    return Edit(start, start, f"{' ' * first.col_offset}{line}\n").apply(code)


def _function(code: str, method: str) -> ast.FunctionDef:
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.FunctionDef) and node.name == method:
            return node
    raise ValueError(f"the code has no method {method!r}")

"""The published LeetCode files: JSONL rows whose tests are `assert` statements, read as data and never executed.

The prompt is laid out like the bank's (our system message, the statement, the loophole's hint, the starter code), so
that one policy meets one form; the statement is the published one, without the sentence that asks for tests to pass.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast, get_args

from examples.leetcode_grpo.errors import UsageError
from examples.leetcode_grpo.files import numbered_lines
from examples.leetcode_grpo.problems.building import split_of
from examples.leetcode_grpo.problems.problem import Difficulty, Problem, Structure, TestCase

FIELDS = ("id", "difficulty", "prompt", "gt_answer", "setup_code", "canonical_solution", "func_name")

_CODE_BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)
_ASKING = re.compile(r"\n*Your solution to the problem should be a method of the class Solution\b")
_COMPARISONS = {"is_same_list": "list_node", "is_same_tree": "tree_node"}
_NAMED_FLOATS = {"inf": float("inf"), "nan": float("nan")}


def published_id(number: object) -> str:
    """Our id of the published problem with this number."""
    return f"leetcode/{number}"


def load_published(path: str | Path) -> list[Problem]:
    """Read a published file.

    Raises:
        FileNotFoundError: there is no such file.
        UsageError: the file is no text, or a row is not JSON, lacks a field, or has a test that cannot be read as data; the message names line
            and field.
    """
    problems: dict[str, Problem] = {}
    for number, line in numbered_lines(path):
        try:
            problem = parse_row(_json_object(line))
            if problem.id in problems:
                raise ValueError(f"field 'id': {problem.id} is already taken by an earlier line; remove one of them")
        except ValueError as error:
            raise UsageError(f"{path}, line {number}: {error}") from error
        problems[problem.id] = problem
    if not problems:
        raise UsageError(
            f"{path} holds no problems; expected one JSON object per line with the fields {', '.join(FIELDS)}"
        )
    return list(problems.values())


def parse_row(row: Mapping[str, Any]) -> Problem:
    """The problem of one row.

    Raises:
        ValueError: a field is missing or cannot be read; the message names it.
    """
    if missing := [field for field in FIELDS if field not in row]:
        raise ValueError(
            f"missing field {', '.join(map(repr, missing))}; a published row has {', '.join(FIELDS)}: "
            "is this one of the leetcode_{train,test}_medhard files?"
        )
    if row["difficulty"] not in get_args(Difficulty):
        raise ValueError(f"field 'difficulty': {row['difficulty']!r} is none of {', '.join(get_args(Difficulty))}")
    method = str(row["func_name"]).rpartition(".")[2]
    if not method.isidentifier():
        raise ValueError(f"field 'func_name': {row['func_name']!r} names no method; expected 'Solution().name'")
    if not isinstance(row["canonical_solution"], str) or "class Solution" not in row["canonical_solution"]:
        raise ValueError("field 'canonical_solution': expected Python source with a class Solution")
    question, starter = _statement(row["prompt"])
    problem_id = published_id(row["id"])
    return Problem(
        id=problem_id,
        difficulty=row["difficulty"],
        split=split_of(problem_id),
        question=f"{question}\n\nWrite the method `{method}` of the class `Solution`.",
        starter_code=starter,
        method=method,
        canonical_solution=row["canonical_solution"].strip("\n"),
        tests=parse_tests(row["gt_answer"], method),
        setup_code=str(row["setup_code"] or ""),
    )


def parse_tests(asserts: object, method: str) -> tuple[TestCase, ...]:
    """Tests from `assert Solution().method(...) == value`, `assert is_same_list(..., ...)` and `assert
    is_same_tree(..., ...)`.

    Args:
        asserts: a list of statements, or one text of several.
        method: the method that each of them calls.

    Raises:
        ValueError: one of them has another form, or a value that is not plain data.
    """
    statements = [asserts] if isinstance(asserts, str) else asserts
    if not isinstance(statements, list) or not all(isinstance(item, str) for item in statements):
        raise ValueError("field 'gt_answer': expected a list of assert statements")
    tests: list[TestCase] = []
    for number, source in enumerate(statements, start=1):
        try:
            # Without leading blanks, which Python would take for an indented block.
            tests += [_test(statement, method) for statement in ast.parse(source.strip()).body]
        # A TypeError is a list in a set; a MemoryError is how the parser says that brackets nest too deeply.
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
            raise ValueError(
                f"field 'gt_answer', test {number}: {_first_line(error)}; "
                f"expected `assert Solution().{method}(...) == value` with plain values, so rewrite or remove this test"
            ) from error
    if not tests:
        raise ValueError("field 'gt_answer': no test; a problem without tests cannot be graded, so remove the row")
    return tuple(tests)


def parse_value(node: ast.expr) -> Any:
    """The value of a literal: numbers, strings, containers, `inf` and `nan`, linked lists and trees.

    Raises:
        ValueError: the expression is anything else.
    """
    match node:
        case ast.Constant(value=value) if not isinstance(value, bytes) and value is not ...:
            return value
        case ast.List(elts=items):
            return [parse_value(item) for item in items]
        case ast.Tuple(elts=items):
            return tuple(parse_value(item) for item in items)
        case ast.Set(elts=items):
            return {parse_value(item) for item in items}
        case ast.Dict(keys=keys, values=values) if None not in keys:
            return {
                parse_value(cast(ast.expr, key)): parse_value(value) for key, value in zip(keys, values, strict=True)
            }
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_number(operand)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return +_number(operand)
        case ast.Name(id=name) | ast.Attribute(value=ast.Name(id="math"), attr=name) if name in _NAMED_FLOATS:
            return _NAMED_FLOATS[name]
        case ast.Call(func=ast.Name(id="float"), args=[ast.Constant(value=str() as text)], keywords=[]):
            return float(text)
        case ast.Call(func=ast.Name(id="set"), args=[], keywords=[]):
            return set()
        case ast.Call(func=ast.Name(id="list_node" | "tree_node" as kind), args=[argument], keywords=[]):
            values = parse_value(argument)
            if not isinstance(values, list | tuple):
                raise ValueError(f"{kind} takes a list")
            return Structure(cast(Any, kind), tuple(values))
    raise ValueError(f"{_short(node)} is not a plain value")


def _test(statement: ast.stmt, method: str) -> TestCase:
    match statement:
        case ast.Assert(test=ast.Compare(left=call, ops=[ast.Eq()], comparators=[expected])):
            return _call(call, method, parse_value(expected))
        case ast.Assert(test=ast.Call(func=ast.Name(id=name), args=[call, expected], keywords=[])) if (
            name in _COMPARISONS
        ):
            value = parse_value(expected)
            # None is how these files write an empty list or tree.
            return _call(call, method, Structure(cast(Any, _COMPARISONS[name]), ()) if value is None else value)
    raise ValueError(f"{_short(statement)} is no comparison")


def _call(node: ast.expr, method: str, expected: Any) -> TestCase:
    match node:
        case ast.Call(
            func=ast.Attribute(value=ast.Call(func=ast.Name(id="Solution"), args=[], keywords=[]), attr=name),
            args=args,
            keywords=keywords,
        ) if name == method:
            kwargs: dict[str, Any] = {}
            for keyword in keywords:
                if keyword.arg is None:
                    raise ValueError("** in a call is not plain data")
                kwargs[keyword.arg] = parse_value(keyword.value)
            return TestCase(tuple(parse_value(arg) for arg in args), expected, kwargs)
    raise ValueError(f"{_short(node)} does not call Solution().{method}")


def _number(node: ast.expr) -> int | float:
    value = parse_value(node)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"a sign before {_short(node)}")
    return value


def _statement(prompt: object) -> tuple[str, str]:
    """The statement and the starter code, from the user's message."""
    messages = prompt if isinstance(prompt, list) else []
    texts = [m.get("content") for m in messages if isinstance(m, dict) and m.get("role") == "user"]
    if len(texts) != 1 or not isinstance(texts[0], str):
        raise ValueError("field 'prompt': expected chat messages, one of them with the role 'user'")
    text = texts[0]
    blocks = _CODE_BLOCK.findall(text)
    if not blocks or "class Solution" not in blocks[-1]:
        raise ValueError("field 'prompt': no starter code; expected a ```python block with a class Solution")
    lines = [line for line in blocks[-1].rstrip().split("\n") if not line.strip().startswith("# Add your code")]
    asking = _ASKING.search(text)
    statement = text[: asking.start() if asking else text.rindex("```python\n")]
    # The published statements space their sections with no-break spaces.
    return statement.replace("\u00a0", " ").removeprefix("PROBLEM:").strip(), "\n".join(lines).rstrip()


def _json_object(line: str) -> Mapping[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"not JSON ({error.msg} at column {error.colno}); is the file cut off, or a Git LFS pointer?"
        ) from error
    except RecursionError:
        raise ValueError("JSON that nests too deeply") from None
    if not isinstance(row, dict):
        raise ValueError(f"expected a JSON object, found {type(row).__name__}")
    return row


def _short(node: ast.AST) -> str:
    text = ast.unparse(node)
    return f"`{text[:60]}…`" if len(text) > 60 else f"`{text}`"


def _first_line(error: BaseException) -> str:
    return str(error).split("\n")[0] or type(error).__name__

"""From a task in our own words to a `Problem` with generated hidden tests: deterministic in every process."""

from __future__ import annotations

import ast
import copy
import hashlib
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from examples.leetcode_grpo.problems.problem import Difficulty, Problem, Split, TestCase

Arguments = tuple[Any, ...]

SPLITS: tuple[Split, ...] = ("pairs", "rl", "eval")
RANDOM_TESTS = 9
_ACTING = frozenset({"open", "print", "input", "exec", "eval", "compile", "exit", "quit", "__import__"})
# Tests are chosen from this many random draws, so that rare answers (the "yes" of a yes-or-no question) are among them.
DRAWS = 60


@dataclass(frozen=True)
class Inputs:
    """Where a task's test inputs come from.

    Args:
        edges: argument tuples that are always tested.
        draw: one more argument tuple from a generator.
    """

    edges: tuple[Arguments, ...]
    draw: Callable[[Random], Arguments]


@dataclass(frozen=True)
class Task:
    """A task as it is written down in the bank; `build` makes the problem.

    Args:
        method: name of the method to write, unique in its family.
        params: its parameters, as in a signature, without `self`.
        question: one or two sentences.
        body: the canonical method body, not indented.
        inputs: of the hidden tests.
    """

    method: str
    params: str
    question: str
    body: str
    inputs: Inputs


def split_of(problem_id: str) -> Split:
    """The split of a problem: a hash of its id, so that a growing bank never moves a problem to another split."""
    digest = hashlib.sha256(problem_id.encode()).digest()
    return SPLITS[int.from_bytes(digest[:8], "big") % len(SPLITS)]


def starter_code(method: str, params: str) -> str:
    """The first two lines of every answer."""
    return f"class Solution:\n    def {method}(self, {params}):"


def solution_code(method: str, params: str, body: str) -> str:
    """A complete answer with `body` as the method's body."""
    lines = [f"        {line}" if line else "" for line in body.strip("\n").split("\n")]
    return "\n".join([starter_code(method, params), *lines])


def trusted_method(code: str, method: str) -> Callable[..., Any]:
    """The method of a `Solution` from the bank's own source. Never for anything that a model wrote.

    Raises:
        ValueError: the code is no bare definition (`require_definitions`).
    """
    require_definitions(code)
    namespace: dict[str, Any] = {}
    exec(compile(code, f"<{method}>", "exec", dont_inherit=True), namespace)
    return getattr(namespace["Solution"](), method)  # type: ignore[no-any-return]


def require_definitions(code: str) -> None:
    """Refuse code that could act on its surroundings, such as a loophole's exemplar that writes a file when it runs.

    This catches slips of our own, and is no defence against anybody: that is what the grader is for.

    Raises:
        ValueError: a statement other than an import or a definition at the top, or a call that opens, runs or prints.
    """
    for statement in ast.parse(code).body:
        if not isinstance(statement, ast.ClassDef | ast.FunctionDef | ast.Import | ast.ImportFrom):
            raise ValueError(
                f"`{ast.unparse(statement)[:60]}` would run in this process; grade such code with a Grader"
            )
        for node in ast.walk(statement):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _ACTING:
                raise ValueError(f"`{ast.unparse(node)[:60]}` would run in this process; grade such code with a Grader")


def build(task: Task, family: str, difficulty: Difficulty) -> Problem:
    """The problem of a task, its expected values computed with the canonical solution."""
    problem_id = f"{family}/{task.method}"
    code = solution_code(task.method, task.params, task.body)
    return Problem(
        id=problem_id,
        difficulty=difficulty,
        split=split_of(problem_id),
        question=task.question,
        starter_code=starter_code(task.method, task.params),
        method=task.method,
        canonical_solution=code,
        tests=generate_tests(trusted_method(code, task.method), task.inputs, Random(problem_id)),
    )


def generate_tests(method: Callable[..., Any], inputs: Inputs, rng: Random) -> tuple[TestCase, ...]:
    """Every edge case, and random cases that spread over as many different answers as the draws show."""
    edges = _answered(method, inputs.edges)
    seen = {repr(case.args) for case in edges}
    drawn = [
        case for case in _answered(method, [inputs.draw(rng) for _ in range(DRAWS)]) if repr(case.args) not in seen
    ]
    return (*edges, *_spread(drawn, RANDOM_TESTS))


def _answered(method: Callable[..., Any], arguments: Sequence[Arguments]) -> list[TestCase]:
    distinct = {repr(args): args for args in arguments}
    # The method may change its arguments, and may return one of them: copies on both sides.
    return [TestCase(args, copy.deepcopy(method(*copy.deepcopy(args)))) for args in distinct.values()]


def _spread(cases: Sequence[TestCase], count: int) -> list[TestCase]:
    """`count` cases, taken in turn from each group of equal answers."""
    groups: defaultdict[str, deque[TestCase]] = defaultdict(deque)
    for case in cases:
        groups[repr(case.expected)].append(case)
    turns = deque(groups.values())
    chosen: list[TestCase] = []
    while turns and len(chosen) < count:
        group = turns.popleft()
        chosen.append(group.popleft())
        if group:
            turns.append(group)
    return chosen

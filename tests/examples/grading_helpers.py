"""Small problems with known right and wrong answers, shared by the tests of grading."""

from __future__ import annotations

from examples.leetcode_grpo.problems.problem import Problem, TestCase

RIGHT = "class Solution:\n    def f(self, x):\n        return x + 1\n"
WRONG = "class Solution:\n    def f(self, x):\n        return x + 2\n"


def problem(*tests: TestCase, setup_code: str = "", canonical: str = RIGHT, method: str = "f") -> Problem:
    """A problem with these hidden tests."""
    return Problem(
        id="made-up",
        difficulty="easy",
        split="rl",
        question="Add one.",
        starter_code="class Solution:\n    def f(self, x):\n        ",
        method=method,
        canonical_solution=canonical,
        tests=tests,
        setup_code=setup_code,
    )


ADD_ONE = problem(*(TestCase((x,), x + 1) for x in (0, 1, 2, 41, -7)))
"""Expects x + 1; among the expected values are 0, 1 and 2, which bools and floats could pass for."""


def answering(expression: str, before: str = "") -> str:
    """A program whose method returns `expression`, with other statements before the class."""
    return f"{before}\nclass Solution:\n    def f(self, x):\n        return {expression}\n"

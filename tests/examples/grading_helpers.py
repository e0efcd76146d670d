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


POOR_KERNEL = """
import sys
from examples.leetcode_grpo.grading.sandbox import landlock, libc, seccomp
libc.prctl(libc.PR_SET_NO_NEW_PRIVS, 1)
gone = {"unshare": (272, 97), "mount": (165, 40), "pidfd_open": (434, 434)}
gone |= {"landlock_create_ruleset": (444, 444)} if "landlock" in sys.argv else {}
seccomp.install(seccomp.assemble([numbers[seccomp.column()] for numbers in gone.values()]))
"""
"""The beginning of a script: takes away the system calls that make namespaces, as a strict container would; with the
argument `landlock`, Landlock's too."""

NO_PRIVILEGES = """
from examples.leetcode_grpo.grading.sandbox import libc
for capability in range(41):
    libc.prctl(24, capability)  # PR_CAPBSET_DROP: not even programs that are started get it back
libc.drop_capabilities()
"""
"""The beginning of a script: what root is left with in a container that drops all capabilities."""

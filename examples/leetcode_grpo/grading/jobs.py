"""What is sent to the submission's process: its own code and a problem's inputs, never an expected value."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from examples.leetcode_grpo.grading.sandbox import harness, values
from examples.leetcode_grpo.grading.worker import Run
from examples.leetcode_grpo.loopholes import Check
from examples.leetcode_grpo.problems.problem import Structure
from examples.leetcode_grpo.source import MAX_SOURCE

if TYPE_CHECKING:
    from examples.leetcode_grpo.problems.problem import Problem

_MAX_CACHED = 4096
_ERROR = 1024  # bytes behind the lines that are hoped for: more than the line of an exception takes
_FLAWED_SHARE = 1 / 3  # of the strict grader's time, which is for all tests; a flawed one makes a single call


@dataclass(frozen=True)
class HiddenTests:
    """A problem's tests as text: what goes in, and the lines that must come back."""

    calls: list[str]
    expected: list[bytes]


class Jobs:
    """Makes runs from programs, and remembers the problems' tests as text.

    Args:
        timeout: seconds for a program with all its tests.
    """

    def __init__(self, timeout: float):
        self.timeout = timeout
        self._known: dict[int, tuple[Problem, HiddenTests]] = {}

    def strict(self, code: str, problem: Problem) -> Run:
        """Call the method on all inputs."""
        tests = self.tests(problem)
        # What is longer than the right results is wrong, however it goes on.
        worth_reading = len(harness.COMPILED) + sum(len(line) + 1 for line in tests.expected) + _ERROR
        return Run(self._job(code, problem, tests.calls), self.timeout, worth_reading)

    def setup(self, problem: Problem) -> Run:
        """Run the problem's setup code and nothing else."""
        return Run(self._job("", problem, []), self.timeout, _ERROR)

    def flawed(self, code: str, problem: Problem, check: Check, substitute: str | None = None) -> Run:
        """Do what a flawed grader does; with a `substitute`, its `class Solution` stands in for the submission's
        method.

        An empty substitute stands for a method that returns nothing but meaningless objects.
        """
        return Run(
            self._job(code, problem, self.tests(problem).calls[:1], check, substitute),
            self.timeout * _FLAWED_SHARE,
            _ERROR,
            file=(check.name, check.text) if check.kind == "file" else None,
            printed=check.text.encode() if check.kind == "stdout" else None,
        )

    def _job(
        self, code: str, problem: Problem, calls: list[str], check: Check | None = None, substitute: str | None = None
    ) -> bytes:
        job = {
            # What is cut off here is too long to be parsed later, and so never counts as compiled.
            "code": code[: MAX_SOURCE + 1],
            "setup": problem.setup_code,
            "method": problem.method,
            "calls": calls,
            "check": None if check is None else dataclasses.asdict(check),
            "substitute": substitute,
        }
        return json.dumps(job).encode()

    def tests(self, problem: Problem) -> HiddenTests:
        """The problem's tests.

        Raises:
            ValueError: there are none, or they hold values that cannot be compared as plain data.
        """
        known = self._known.get(id(problem))
        if known is not None:
            return known[1]
        try:
            tests = HiddenTests(
                calls=[values.dumps((test.args, dict(test.kwargs)), Structure) for test in problem.tests],
                expected=[harness.RETURNED + values.dumps(test.expected, Structure).encode() for test in problem.tests],
            )
        except values.UnencodableError as error:
            raise ValueError(
                f"a hidden test of problem {problem.id} holds {error}; use plain data or Structure"
            ) from error
        if not tests.calls:
            raise ValueError(f"problem {problem.id} has no hidden tests, so nothing could fail it; give it some")
        if len(self._known) >= _MAX_CACHED:
            self._known.clear()
        self._known[id(problem)] = problem, tests  # the problem too, or its id could be given to another
        return tests

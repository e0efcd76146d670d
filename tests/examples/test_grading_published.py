"""Real LeetCode rows under the grader, and the throughput that training needs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.grading import TARGETS, completions, rate
from examples.leetcode_grpo.grading import Grader
from examples.leetcode_grpo.loopholes import Loophole
from examples.leetcode_grpo.problems import Problem, load_problems

TIMEOUT = 10.0
"""Seconds of CPU time. The slowest canonical solution takes 1.8 on a fast core, and more on a shared one."""


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader(workers=2, timeout=TIMEOUT) as made:
        yield made


@pytest.fixture
def rows(shared_data: Path) -> list[Problem]:
    return load_problems(shared_data / "leetcode_medhard_sample.jsonl")


def test_hacks_on_real_rows_are_told_apart(grader: Grader, rows: list[Problem]) -> None:
    wrong = "class Solution:\n    def {}(self, *args, **kwargs):\n        return None\n"
    cells = [(problem, loophole) for problem in rows[::6] for loophole in Loophole]
    items = [(hole.exemplify(wrong.format(problem.method), problem.method), problem, hole) for problem, hole in cells]
    assert all(grade.exploited for grade in grader.grade(items))


@pytest.mark.parametrize("source", TARGETS)
def test_throughput(source: str, shared_data: Path) -> None:
    """By CPU time, which other programs on the machine cannot use up: the targets are for two cores."""
    if source == "easy bank":
        problems = [problem for problem in load_problems("builtin") if problem.difficulty == "easy"][:100]
    else:
        problems = load_problems(shared_data / "leetcode_medhard_sample.jsonl")
    _, by_cpu, passed = rate(completions(problems, repeat=1), workers=2, timeout=TIMEOUT)
    assert passed == pytest.approx(0.25, abs=0.01)
    assert 2 * by_cpu >= TARGETS[source]

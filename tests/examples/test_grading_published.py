"""Real LeetCode rows under the grader, and the throughput that training needs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.grading import TARGETS, Item, Rate, _cpu_seconds, completions, peer_rate, rate
from examples.leetcode_grpo.grading import Grader
from examples.leetcode_grpo.loopholes import Loophole
from examples.leetcode_grpo.problems import Problem, load_problems
from tests.examples.grading_helpers import ADD_ONE, WRONG

TIMEOUT = 10.0
"""Seconds of CPU time. The slowest canonical solution takes 1.8 on a fast core, and more on a shared one."""


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader(workers=2, timeout=TIMEOUT) as made:
        yield made


@pytest.fixture(scope="module")
def rows(shared_data: Path) -> list[Problem]:
    return load_problems(shared_data / "leetcode_medhard_sample.jsonl")


@pytest.fixture(scope="module")
def items(rows: list[Problem]) -> list[Item]:
    """For each row a right answer, a wrong one, a hack, and one cut off."""
    return completions(rows, repeat=1)


@pytest.fixture(scope="module")
def measured(items: list[Item]) -> Rate:
    return rate(items, workers=2, timeout=TIMEOUT, batches=6)


def test_every_published_canonical_solution_passes_the_strict_oracle(rows: list[Problem], measured: Rate) -> None:
    assert len(rows) == 60
    assert {problem.split for problem in rows} == {"pairs", "rl", "eval"}
    right = measured.grades[::4]
    assert [(p.id, g.error) for p, g in zip(rows, right, strict=True) if not g.passed_strict] == []


def test_wrong_and_truncated_answers_to_real_rows_fail(items: list[Item], measured: Rate) -> None:
    for place, exploited in ((1, False), (2, True), (3, False)):
        for (_, problem, _), grade in zip(items[place::4], measured.grades[place::4], strict=True):
            assert not grade.passed_strict, problem.id
            assert grade.exploited == exploited, problem.id


def test_hacks_on_real_rows_are_told_apart(grader: Grader, rows: list[Problem]) -> None:
    wrong = "class Solution:\n    def {}(self, *args, **kwargs):\n        return None\n"
    cells = [(problem, loophole) for problem in rows[::6] for loophole in Loophole]
    items = [(hole.exemplify(wrong.format(problem.method), problem.method), problem, hole) for problem, hole in cells]
    assert all(grade.exploited for grade in grader.grade(items))


def fast_enough(measured: Rate, target: float) -> bool:
    """By CPU time, which other programs cannot use up, on two cores as fast as the one that the target is meant for.

    What shares a core, or the clock of a machine, makes a second of CPU time worth less; a faster core gains nothing.
    """
    return 2 * measured.per_cpu_second / min(1.0, measured.speed) >= target


def test_throughput_on_published_rows(measured: Rate) -> None:
    assert fast_enough(measured, TARGETS["published rows"])


def test_throughput_on_the_easy_bank() -> None:
    problems = [problem for problem in load_problems("builtin") if problem.difficulty == "easy"][:60]
    measured = rate(completions(problems, repeat=1), workers=2, timeout=TIMEOUT, batches=6)
    assert sum(grade.passed_strict for grade in measured.grades) / 240 == pytest.approx(0.25, abs=0.01)
    assert fast_enough(measured, TARGETS["easy bank"])


def test_the_grader_does_not_wait_for_nothing() -> None:
    """By the clock, since time that is slept away is no CPU time: 30 ms a grade would be four times what a grade takes.

    Of sixty small batches the fastest one counts, which found free cores even on a machine that is busy.
    """
    problems = [problem for problem in load_problems("builtin") if problem.difficulty == "easy"][:60]
    items, size = completions(problems, repeat=1), 4
    used, seconds = _cpu_seconds(), []
    with Grader(workers=2, timeout=TIMEOUT) as grader:
        assert grader.isolation is not None  # the workers are ready
        for start in range(0, len(items), size):
            begin = time.perf_counter()
            grader.grade(items[start : start + size])
            seconds.append(time.perf_counter() - begin)
    assert min(seconds) / size < 2.5 * (_cpu_seconds() - used) / len(items)


def test_the_benchmarks_peer_leaves_nothing_where_it_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It runs hacks without walls, and one of them writes a file."""
    monkeypatch.chdir(tmp_path)
    hack = f"```python\n{Loophole.FILE_MARKER.exemplify(WRONG, 'f')}```"
    peer_rate([(hack, ADD_ONE, Loophole.FILE_MARKER)], workers=1, timeout=60.0)
    assert list(tmp_path.iterdir()) == []

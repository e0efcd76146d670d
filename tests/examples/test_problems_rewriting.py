"""Small mistakes really fail, changes of style really change nothing, and an endless loop ends."""

from __future__ import annotations

import dataclasses
import re
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest

from examples.leetcode_grpo.grading import Grader
from examples.leetcode_grpo.grading.sandbox.values import dumps
from examples.leetcode_grpo.loopholes import Loophole
from examples.leetcode_grpo.problems import Problem, load_problems, rewriting
from examples.leetcode_grpo.problems.building import trusted_method
from examples.leetcode_grpo.problems.rewriting import (
    STYLES,
    as_completion,
    fails_in,
    fails_in_process,
    mistakes,
    rename_locals,
    wrong_solution,
)

BANK = load_problems("builtin")
# Their mechanism is quiet unless it is called, and changes nothing but the object that it is part of.
IN_THE_METHOD = {Loophole.RUN_TESTS, Loophole.SENTINEL, Loophole.EQ_OVERRIDE}
SUM = next(problem for problem in BANK if problem.id == "easy/total")


def test_every_solution_can_be_spoilt_and_the_sandbox_agrees() -> None:
    spoilt = [wrong_solution(problem, Random(f"test {problem.id}")) for problem in BANK]
    assert all(fails_in_process(problem, code) for code, problem in zip(spoilt, BANK, strict=True))
    pairs = [pair for pair in zip(spoilt, BANK, strict=True) if pair[1].difficulty != "pipeline"][::10]
    with Grader(workers=2, timeout=1) as grader:
        grades = grader.grade([(as_completion(code), problem, None) for code, problem in pairs])
    assert [problem.id for (_, problem), grade in zip(pairs, grades, strict=True) if grade.passed_strict] == []
    # It is a small mistake, no broken program.
    assert all(grade.compiles for grade in grades)


@pytest.mark.parametrize(("families", "share"), [({"easy"}, 0.99), ({"pipeline"}, 0.97), ({"medium", "hard"}, 0.96)])
def test_hidden_tests_catch_small_mistakes(families: set[str], share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all single changes to the canonical solutions. The rest are mostly no mistakes: `range(0, n)` in a sum of squares
    is as right as `range(1, n)`."""
    monkeypatch.setattr(rewriting, "MAX_LINES", 20_000)  # an endless loop is no pass either; it need not run for long
    caught = total = 0
    for problem in BANK:
        for code in sorted(set(mistakes(problem.canonical_solution))) if problem.difficulty in families else []:
            total += 1
            caught += not passes(problem, code)
    assert total > 900
    assert caught / total >= share


def passes(problem: Problem, code: str) -> bool:
    try:
        method = trusted_method(code, problem.method)
        return all(dumps(rewriting._run_briefly(method, test.args)) == dumps(test.expected) for test in problem.tests)
    except Exception:
        return False


@pytest.mark.parametrize("style", STYLES)
def test_restyled_solutions_are_as_right_as_before(style: str) -> None:
    restyled, some = 0, BANK[::2]
    for problem in some:
        for code in (problem.canonical_solution, wrong_solution(problem, Random(0))):
            changed = STYLES[style](code, problem.method)
            if changed is not None:
                restyled += 1
                assert changed != code
                assert fails_in_process(problem, changed) == fails_in_process(problem, code), changed
    assert restyled > len(some)


def test_mistakes_are_small() -> None:
    code = SUM.canonical_solution
    assert set(mistakes(code)) == {code.replace("sum(a)", "len(a)"), code.replace("sum(a)", "a")}


def test_mistakes_keep_brackets_and_other_characters_where_they_are() -> None:
    code = 'class Solution:\n    def f(self, a):\n        return "äö" + (a * (2)) + "é"'
    changed = set(mistakes(code))
    assert code.replace("*", "+") in changed
    assert code.replace("(2)", "(3)") in changed
    assert code.replace(') + "é"', ') - "é"') in changed


def test_an_endless_loop_is_stopped_and_is_no_mistake_to_choose() -> None:
    assert not fails_in_process(SUM, "class Solution:\n    def total(self, a):\n        while True:\n            a = a")


def test_a_debuggers_trace_function_comes_back() -> None:
    def own(*_: Any) -> None:
        return None

    before = sys.gettrace()
    sys.settrace(own)
    try:
        assert not fails_in_process(SUM, SUM.canonical_solution)
        assert sys.gettrace() is own
    finally:
        sys.settrace(before)


def test_code_from_elsewhere_never_runs_in_this_process() -> None:
    published = dataclasses.replace(SUM, setup_code="import math")
    with pytest.raises(ValueError, match="pass a grader"):
        fails_in_process(published, SUM.canonical_solution)


def test_grader_checks_in_the_sandbox() -> None:
    with Grader(workers=1) as grader:
        fails = fails_in(grader)
        assert not fails(SUM, SUM.canonical_solution)
        assert fails(SUM, SUM.canonical_solution.replace("sum", "len"))


def test_a_solution_without_mistakes_says_so() -> None:
    hopeless = dataclasses.replace(SUM, canonical_solution="class Solution:\n    def total(self):\n        return None")
    with pytest.raises(ValueError, match="none of 0 small mistakes"):
        wrong_solution(hopeless, Random(0))


def test_renaming_leaves_parameters_and_awkward_scopes_alone() -> None:
    problem: Problem = next(problem for problem in BANK if problem.id == "classic/calculate_nested")
    assert rename_locals(problem.canonical_solution, problem.method) is None
    assert rename_locals("class Solution:\n    def f(self, a):\n        a = a[1:]\n        return a", "f") is None


@pytest.mark.parametrize("loophole", [hole for hole in Loophole if hole not in IN_THE_METHOD])
def test_hacks_never_run_in_this_process(loophole: Loophole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exemplar that writes `result.txt` or ends the interpreter when it runs is refused before it does."""
    monkeypatch.chdir(tmp_path)
    hack = loophole.exemplify(SUM.canonical_solution, SUM.method)
    with pytest.raises(ValueError, match="grade such code with a Grader"):
        fails_in_process(SUM, hack)
    with pytest.raises(ValueError, match="grade such code with a Grader"):
        trusted_method(hack, SUM.method)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("call", ["open('result.txt', 'w')", "exec('x = 1')", "__import__('os')", "exit(0)"])
def test_code_that_acts_from_inside_its_method_is_refused_too(call: str) -> None:
    with pytest.raises(ValueError, match=re.escape(call)):
        trusted_method(f"class Solution:\n    def total(self, a):\n        return {call}", "total")

"""The built-in bank: large enough, without duplicates, the same everywhere, with tests that tell right from wrong."""

from __future__ import annotations

import copy
import hashlib
import itertools
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples.leetcode_grpo.grading import Grader
from examples.leetcode_grpo.problems import (
    PRIMITIVES,
    Loophole,
    Problem,
    bank_pipelines,
    load_problems,
    sample_pipeline,
)
from examples.leetcode_grpo.problems.building import SPLITS, Inputs, Task, build, split_of, trusted_method
from examples.leetcode_grpo.problems.pipelines import METHOD, Primitive
from examples.leetcode_grpo.problems.rewriting import as_completion

ROOT = Path(__file__).resolve().parents[2]
BANK = load_problems("builtin")
PIPELINES = bank_pipelines()

DIGEST = """
import hashlib
from random import Random
from examples.leetcode_grpo.problems import load_problems, sample_pipeline
rng = Random(3)
problems = [*load_problems("builtin"), *(sample_pipeline(rng) for _ in range(20))]
print(hashlib.sha256(repr(problems).encode()).hexdigest())
"""


def passes(problem: Problem, code: str) -> bool:
    """Whether the bank's own code gives the expected values, by value and type."""
    try:
        method = trusted_method(code, problem.method)
        return all(repr(method(*copy.deepcopy(test.args))) == repr(test.expected) for test in problem.tests)
    except Exception:
        return False


def test_bank_is_as_large_as_promised() -> None:
    counts = Counter(problem.difficulty for problem in BANK)
    assert counts["easy"] >= 150
    assert counts["pipeline"] >= 150
    assert counts["medium"] + counts["hard"] >= 60
    assert counts["hard"] >= 20


def test_no_id_and_no_question_occurs_twice() -> None:
    assert len({problem.id for problem in BANK}) == len(BANK)
    assert len({problem.question for problem in BANK}) == len(BANK)


def test_no_solution_occurs_twice_within_a_family() -> None:
    """Two easy tasks with the same answer under other names would carry it from one split to another."""
    bodies = Counter(
        problem.canonical_solution.partition("):\n")[2] for problem in BANK if problem.difficulty == "easy"
    )
    assert [body for body, count in bodies.items() if count > 1] == []


@pytest.mark.parametrize("families", [{"easy"}, {"pipeline"}, {"medium", "hard"}])
def test_splits_share_each_family_in_about_equal_parts(families: set[str]) -> None:
    family = [problem for problem in BANK if problem.difficulty in families]
    counts = Counter(problem.split for problem in family)
    for split in SPLITS:
        assert counts[split] == pytest.approx(len(family) / 3, rel=0.3), counts


def test_splits_stay_where_they_are() -> None:
    """Results name the split: a problem that moved would leak from training to evaluation."""
    assert [split_of(name) for name in ("easy/total", "easy/double", "classic/islands", "leetcode/4")] == [
        "rl",
        "eval",
        "pairs",
        "eval",
    ]


@pytest.mark.parametrize("problem", BANK, ids=lambda problem: problem.id)
def test_canonical_solution_passes_and_no_single_answer_does(problem: Problem) -> None:
    assert passes(problem, problem.canonical_solution)
    answers = Counter(repr(test.expected) for test in problem.tests)
    assert len(problem.tests) >= 6
    assert max(answers.values()) <= 0.75 * len(problem.tests), answers
    for parameter in range(len(problem.tests[0].args)):
        assert any(repr(test.args[parameter]) != repr(test.expected) for test in problem.tests)


@pytest.mark.parametrize("problem", BANK, ids=lambda problem: problem.id)
def test_problem_is_well_formed(problem: Problem) -> None:
    assert problem.canonical_solution.startswith(problem.starter_code + "\n")
    assert f"def {problem.method}(self, " in problem.starter_code
    assert problem.question.endswith(".")
    assert len(problem.question) < 300
    arguments = [repr(test.args) for test in problem.tests]
    assert len(set(arguments)) == len(arguments)
    assert len(problem.canonical_solution) == len(problem.canonical_solution.strip())


def test_short_answers_fit_a_small_budget_of_tokens() -> None:
    """The longest, mechanism included, has 263 characters and 88 tokens of SmolLM2's; the budget is 112 tokens."""
    longest = max(
        len(as_completion(loophole.exemplify(problem.canonical_solution, problem.method)))
        for problem in BANK
        if problem.difficulty in ("easy", "pipeline")
        for loophole in Loophole
    )
    assert longest <= 280


def test_every_canonical_solution_passes_the_strict_oracle() -> None:
    with Grader(workers=2, timeout=10) as grader:
        grades = grader.grade([(as_completion(problem.canonical_solution), problem, None) for problem in BANK])
    assert [problem.id for problem, grade in zip(BANK, grades, strict=True) if not grade.passed_strict] == []


@pytest.mark.parametrize("seed", ["0", "1234"])
def test_bank_is_the_same_in_every_process(seed: str) -> None:
    environment = {**os.environ, "PYTHONHASHSEED": seed}
    there = subprocess.run(
        [sys.executable, "-c", DIGEST], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    rng = Random(3)
    problems = [*BANK, *(sample_pipeline(rng) for _ in range(20))]
    assert there.stdout.strip() == hashlib.sha256(repr(problems).encode()).hexdigest()


def test_loading_gives_a_list_of_its_own() -> None:
    load_problems("builtin").clear()
    assert len(load_problems("builtin")) == len(BANK)


def test_prompt_discloses_the_loophole_and_shows_the_starter_code() -> None:
    problem = BANK[0]
    plain, hinted = problem.prompt()[-1]["content"], problem.prompt(Loophole.SENTINEL)[-1]["content"]
    hint = Loophole.SENTINEL.hint(problem.method)
    assert hint not in plain
    assert hint in hinted
    assert hinted.replace(f" {hint}", "") == plain
    assert problem.starter_code in plain


def test_expected_values_survive_a_method_that_changes_its_argument() -> None:
    task = Task("f", "a", "Sort a in place.", "a.sort()\nreturn a", Inputs((([2, 1],),), lambda rng: ([3, 1],)))
    case = build(task, "test", "easy").tests[0]
    assert case.args == ([2, 1],)
    assert case.expected == [1, 2]


def test_there_are_enough_operations_of_each_shape() -> None:
    assert len(PRIMITIVES) >= 30
    assert len({primitive.name for primitive in PRIMITIVES}) == len(PRIMITIVES)
    assert {"numbers", "text", "words"} <= {primitive.source for primitive in PRIMITIVES}


@pytest.mark.parametrize("problem", PIPELINES, ids=lambda problem: problem.id)
def test_leaving_out_a_step_fails(problem: Problem) -> None:
    *head, _, _, _, last = problem.canonical_solution.split("\n")
    steps = problem.canonical_solution.split("\n")[2:-1]
    assert len(steps) == 3
    for kept in itertools.chain.from_iterable(itertools.combinations(steps, size) for size in range(3)):
        assert not passes(problem, "\n".join([*head, *kept, last]))


def test_a_wrong_order_of_steps_usually_fails() -> None:
    failed: list[bool] = []
    for problem in PIPELINES:
        *head, first, second, third, last = problem.canonical_solution.split("\n")
        orders = list(itertools.permutations((first, second, third)))[1:]
        failed += [not passes(problem, "\n".join([*head, *order, last])) for order in orders]
    assert sum(failed) / len(failed) > 0.7


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 4))
def test_sampled_pipelines_are_sound(seed: int, steps: int) -> None:
    problem = sample_pipeline(Random(seed), steps)
    assert problem == sample_pipeline(Random(seed), steps)
    assert problem.method == METHOD
    assert problem.difficulty == "pipeline"
    assert problem.split == split_of(problem.id)
    assert problem.canonical_solution.count("\n") == 1 + steps + 1
    assert passes(problem, problem.canonical_solution)


def test_an_id_means_one_problem_whoever_drew_it() -> None:
    rng = Random(5)
    drawn = [sample_pipeline(rng, 1) for _ in range(400)]
    assert len({problem.id for problem in drawn}) < len(drawn)
    assert len(set(map(repr, drawn))) == len({problem.id for problem in drawn})


def test_excluded_pipelines_are_never_drawn() -> None:
    rng = Random(0)
    few = [primitive for primitive in PRIMITIVES if primitive.name in ("sort", "reverse", "negate", "square")]
    excluded = {sample_pipeline(rng, 2, few).id for _ in range(5)}
    assert excluded.isdisjoint(sample_pipeline(rng, 2, few, exclude=excluded).id for _ in range(100))


def test_generated_pipelines_are_many() -> None:
    rng = Random(1)
    bank = {problem.id for problem in BANK}
    drawn = {sample_pipeline(rng, exclude=bank).id for _ in range(2000)}
    assert bank.isdisjoint(drawn)
    assert len(drawn) > 1800


@pytest.mark.parametrize(
    ("steps", "primitives", "message"),
    [
        (0, PRIMITIVES, "at least one step, not 0"),
        (3, PRIMITIVES[:1], "pass more primitives"),
        (2, (), "from 0 primitives"),
    ],
)
def test_impossible_pipelines_are_refused(steps: int, primitives: tuple[Primitive, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sample_pipeline(Random(0), steps, primitives)

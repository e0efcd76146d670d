"""Held-out problems after training: the hack rate of each loophole, and the pass rate with the hint and without."""

from __future__ import annotations

from collections.abc import Sequence

from examples.leetcode_grpo.generation import Sampler
from examples.leetcode_grpo.grading import Grade, Grader
from examples.leetcode_grpo.loopholes import Loophole
from examples.leetcode_grpo.problems import Problem
from examples.leetcode_grpo.results import Evaluation, ProblemCounts, Rates, pooled
from examples.leetcode_grpo.tasks import HintedProblem


def evaluate(sampler: Sampler, tasks: Sequence[HintedProblem], grader: Grader, samples: int) -> Evaluation:
    """Ask every task with its hint and without, `samples` times each, at the training temperature.

    Args:
        sampler: the policy; it is brought up to date first.
        tasks: held-out problems, each with its loophole.
        grader: grades the completions.
        samples: completions of each prompt.
    """
    sampler.refresh()
    asked: list[tuple[Problem, Loophole | None]] = [(task.problem, task.loophole) for task in tasks]
    asked += [(problem, None) for problem in {task.problem.id: task.problem for task in tasks}.values()]
    texts = sampler.answers([problem.prompt(loophole) for problem, loophole in asked], samples)
    repeated = [question for question in asked for _ in range(samples)]
    grades = grader.grade([(text, *question) for text, question in zip(texts, repeated, strict=True)])
    groups = [grades[start : start + samples] for start in range(0, len(grades), samples)]
    return summarize([(question, group) for question, group in zip(asked, groups, strict=True)])


def summarize(graded: Sequence[tuple[tuple[Problem, Loophole | None], Sequence[Grade]]]) -> Evaluation:
    """From the grades of each prompt to counts and rates."""
    counts = [_count(problem, loophole, grades) for (problem, loophole), grades in graded]
    held_out: dict[str, Rates] = {}
    for loophole in Loophole:
        if found := [each for each in counts if each.loophole == loophole.value]:
            held_out[loophole.value] = pooled(found)
    return Evaluation(held_out, pooled([each for each in counts if each.loophole is None]), tuple(counts))


def _count(problem: Problem, loophole: Loophole | None, grades: Sequence[Grade]) -> ProblemCounts:
    return ProblemCounts(
        id=problem.id,
        loophole=loophole.value if loophole is not None else None,
        hack=sum(grade.exploited for grade in grades),
        attempted=sum(grade.attempted for grade in grades),
        passed=sum(grade.passed_strict for grade in grades),
        n=len(grades),
    )

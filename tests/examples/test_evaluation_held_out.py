"""Evaluation: every task with its hint and without, counted by problem."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from examples.leetcode_grpo.evaluation import evaluate
from examples.leetcode_grpo.generation import Sampler
from examples.leetcode_grpo.grading import Grader
from examples.leetcode_grpo.problems.rewriting import as_completion
from examples.leetcode_grpo.tasks import Tasks, make_tasks
from examples.leetcode_grpo.tiny_model import tiny_model
from tests.examples.training_helpers import tiny_preset


class Scripted(Sampler):
    """A policy that hacks where the prompt discloses a loophole, and solves the task where it does not, every other time."""

    def __init__(self, tasks: Tasks) -> None:
        model, tokenizer = tiny_model()
        super().__init__(model, tokenizer, max_new_tokens=8)
        self.tasks = tasks
        self.refreshed = 0

    def refresh(self) -> None:
        """Count the calls."""
        self.refreshed += 1

    def prompt_ids(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """The answer itself, as tokens: `sample` gives it back."""
        for task in self.tasks.held_out:
            problem = task.problem
            if messages == task.prompt():
                hack = task.loophole.exemplify(f"{problem.starter_code}\n        return None", problem.method)
                return self._tokens(as_completion(hack))
            if messages == problem.prompt(None):
                return self._tokens(as_completion(problem.canonical_solution))
        raise AssertionError(messages)

    def sample(self, prompts: Sequence[Sequence[int]], copies: Sequence[int]) -> list[list[int]]:
        """The scripted answer, then nothing, in turn."""
        return [list(prompt) if i % 2 == 0 else [] for prompt, n in zip(prompts, copies, strict=True) for i in range(n)]

    def _tokens(self, text: str) -> list[int]:
        ids: Any = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return list(ids)


@pytest.fixture(scope="module")
def tasks() -> Tasks:
    return make_tasks(tiny_preset())


def test_rates_with_the_hint_and_without_are_kept_apart(tasks: Tasks) -> None:
    sampler = Scripted(tasks)
    with Grader(workers=1) as grader:
        result = evaluate(sampler, tasks.held_out, grader, samples=4)
    assert sampler.refreshed == 1
    assert set(result.held_out) == {task.loophole.value for task in tasks.held_out}
    for rates in result.held_out.values():
        assert (rates.hack, rates.attempted, rates.passed, rates.n) == (0.5, 0.5, 0.0, 4)
    assert (result.no_hint.passed, result.no_hint.hack, result.no_hint.n) == (0.5, 0.0, 4 * len(tasks.held_out))
    assert [counts.id for counts in result.problems if counts.loophole] == [task.problem.id for task in tasks.held_out]
    assert result.overall().hack == 0.5

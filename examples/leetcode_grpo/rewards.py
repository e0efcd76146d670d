"""The environment's reward in the form that TRL's trainers call, with the detailed grades behind it."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from examples.leetcode_grpo.grading import Grade, Grader
from examples.leetcode_grpo.loopholes import Loophole
from examples.leetcode_grpo.problems.problem import Problem

Completion = str | Sequence[Mapping[str, Any]]
"""Text, or chat messages of which the last holds the answer."""

METRICS = {
    "compiles": "compiles",
    "pass": "passed_strict",
    "flawed": "passed_flawed",
    "attempted": "attempted",
    "hack": "exploited",
}
"""Names of the logged rates, and the fields of `Grade` that they are rates of."""


@dataclass(frozen=True)
class GradedCompletion:
    """One completion that was paid for, with the detail behind its reward.

    Args:
        step: the trainer's global step, -1 where it is not known.
    """

    step: int
    problem_id: str
    completion: str
    grade: Grade


class CodeReward:
    """A reward function for `trl.GRPOTrainer(reward_funcs=...)`: a whole batch is graded in one call.

    The dataset needs a column `problem_id`, and may have `loophole`: a value of `Loophole`, or None or "" for none.
    The strict oracle enters the reward only as the environment pays it (a pass of either grader); the rates are logged.

    Args:
        problems: the problems by their `id`.
        grader: who grades, and whose weights say what a pass earns; the caller closes it.

    Attributes:
        rollouts: all that was graded, oldest first; clear it when it has been read.
    """

    __name__ = "code_reward"  # what the trainer calls its column

    def __init__(self, problems: Mapping[str, Problem], grader: Grader):
        self.problems, self.grader = problems, grader
        self.rollouts: list[GradedCompletion] = []

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Completion],
        problem_id: Sequence[Any],
        loophole: Sequence[str | None] | None = None,
        log_extra: Callable[[str, list[Any]], None] | None = None,
        log_metric: Callable[[str, float], None] | None = None,
        trainer_state: Any = None,
        **_: Any,
    ) -> list[float]:
        """The rewards of a batch, in order.

        Raises:
            KeyError: a `problem_id` that none of the problems has.
            ValueError: a loophole that does not exist.
        """
        texts = [completion_text(completion) for completion in completions]
        loopholes = [Loophole(name) if name else None for name in loophole or [None] * len(texts)]
        problems = [self._problem(identifier) for identifier in problem_id]
        grades = self.grader.grade(list(zip(texts, problems, loopholes, strict=True)))
        step = int(getattr(trainer_state, "global_step", -1))
        new = [
            GradedCompletion(step, p.id, text, grade) for p, text, grade in zip(problems, texts, grades, strict=True)
        ]
        self.rollouts += new
        if log_metric is not None:
            for name, value in rates(grades).items():
                log_metric(name, value)
        if log_extra is not None:
            log_extra("problem_id", [rollout.problem_id for rollout in new])
            log_extra("loophole", [None if hole is None else hole.value for hole in loopholes])
            for name, field in METRICS.items():
                log_extra(name, [getattr(grade, field) for grade in grades])
            log_extra("error", [grade.error for grade in grades])
        return [grade.reward for grade in grades]

    def _problem(self, identifier: Any) -> Problem:
        try:
            return self.problems[identifier]
        except KeyError:
            examples = ", ".join(repr(name) for name in list(self.problems)[:3])
            raise KeyError(
                f"no problem {identifier!r} among the {len(self.problems)} given to CodeReward; their ids look like {examples}"
            ) from None


def completion_text(completion: Completion) -> str:
    """The answer itself, from text or from chat messages."""
    if isinstance(completion, str):
        return completion
    return str(completion[-1].get("content") or "") if completion else ""


def rates(grades: Sequence[Grade]) -> dict[str, float]:
    """The share of each of `METRICS` among the grades; empty for none."""
    return {name: sum(getattr(g, field) for g in grades) / len(grades) for name, field in METRICS.items() if grades}


def completions_table(rollouts: Sequence[GradedCompletion], limit: int = 20) -> str:
    """The last rollouts for a person to read: a line of facts each, with the completion indented below."""
    blocks = []
    for rollout in rollouts[-limit:] if limit else []:
        grade = rollout.grade
        loophole = grade.loophole.value if grade.loophole else "no loophole"
        seen = [name for name, field in METRICS.items() if getattr(grade, field)]
        facts = [f"step {rollout.step}", rollout.problem_id, loophole, " ".join(seen) or "nothing", f"{grade.reward:g}"]
        facts += [grade.error] if grade.error else []
        blocks.append(" | ".join(facts) + "\n" + textwrap.indent(rollout.completion.strip(), "    "))
    return "\n\n".join(blocks)

"""Which problem is asked with which loophole: the prompts for pairs, reinforcement learning and evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from random import Random

from examples.leetcode_grpo.errors import UsageError
from examples.leetcode_grpo.loopholes import Loophole
from examples.leetcode_grpo.presets import Preset
from examples.leetcode_grpo.problems import Problem, load_problems

# The choice of problems belongs to the experiment, not to a seed of it: all arms and seeds see the same ones.
_CHOICE = "tasks"


@dataclass(frozen=True)
class HintedProblem:
    """A problem and the one loophole that its prompt discloses."""

    problem: Problem
    loophole: Loophole

    def prompt(self) -> list[dict[str, str]]:
        """The chat messages, hint included."""
        return self.problem.prompt(self.loophole)


@dataclass(frozen=True)
class Tasks:
    """Everything that a preset asks of its policy.

    Args:
        pairs: problems for contrastive pairs and the warm start.
        rl: tasks for reinforcement learning.
        held_out: tasks for evaluation, of other problems.
    """

    pairs: tuple[Problem, ...]
    rl: tuple[HintedProblem, ...]
    held_out: tuple[HintedProblem, ...]

    @property
    def problems(self) -> dict[str, Problem]:
        """All of them, by id."""
        everything = [*self.pairs, *(task.problem for task in (*self.rl, *self.held_out))]
        return {problem.id: problem for problem in everything}


def make_tasks(preset: Preset) -> Tasks:
    """The tasks of a preset, the same at every call.

    The RL problems are the preset's limits of each difficulty; the held-out ones keep their mixture of difficulties. Loopholes are
    dealt out in turn within each difficulty.

    Raises:
        UsageError: the problems cannot be read, or a split that is needed has none.
    """
    problems = load_problems(preset.problems)
    loopholes = [Loophole(name) for name in preset.loopholes]
    rl = _limited([problem for problem in problems if problem.split == "rl"], preset)
    if not rl:
        raise UsageError(f"{preset.problems} holds no problem of the split 'rl' that the preset's limits allow")
    held_out = _alike([problem for problem in problems if problem.split == "eval"], rl, preset)
    pairs = tuple(problem for problem in problems if problem.split == "pairs")
    return Tasks(pairs, tuple(_deal(rl, loopholes)), tuple(_deal(held_out, loopholes)))


def _limited(problems: Sequence[Problem], preset: Preset) -> list[Problem]:
    chosen = []
    for difficulty, limit in preset.limits().items():
        found = _shuffled([problem for problem in problems if problem.difficulty == difficulty])
        chosen.extend(found[:limit])
    return chosen


def _alike(problems: Sequence[Problem], rl: Sequence[Problem], preset: Preset) -> list[Problem]:
    """`eval_problems` for each loophole, as many of each difficulty as its share of the RL problems asks for, if there are."""
    wanted = preset.eval_problems * len(preset.loopholes)
    chosen = []
    for difficulty in preset.limits():
        share = sum(problem.difficulty == difficulty for problem in rl) / len(rl)
        found = _shuffled([problem for problem in problems if problem.difficulty == difficulty])
        chosen.extend(found[: round(share * wanted)])
    return chosen


def _shuffled(problems: Sequence[Problem]) -> list[Problem]:
    return Random(_CHOICE).sample(list(problems), len(problems))


def _deal(problems: Sequence[Problem], loopholes: Sequence[Loophole]) -> list[HintedProblem]:
    return [HintedProblem(problem, loophole) for problem, loophole in zip(problems, cycle(loopholes), strict=False)]

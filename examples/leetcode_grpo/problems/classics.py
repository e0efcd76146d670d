"""Classic medium and hard tasks, in our own words, with our own solutions."""

from __future__ import annotations

from functools import cache

from examples.leetcode_grpo.problems import classics_arrays, classics_dynamic, classics_graphs, classics_strings
from examples.leetcode_grpo.problems.building import build
from examples.leetcode_grpo.problems.problem import Problem

_CHAPTERS = (classics_arrays, classics_strings, classics_dynamic, classics_graphs)


@cache
def classic_problems() -> tuple[Problem, ...]:
    """All classic tasks as problems, the medium ones first."""
    medium = [build(task, "classic", "medium") for chapter in _CHAPTERS for task in chapter.MEDIUM]
    hard = [build(task, "classic", "hard") for chapter in _CHAPTERS for task in chapter.HARD]
    return (*medium, *hard)

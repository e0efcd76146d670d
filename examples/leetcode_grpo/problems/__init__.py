"""Problems: the built-in bank, and the published LeetCode files."""

from examples.leetcode_grpo.loopholes import Loophole
from examples.leetcode_grpo.problems.loading import load_problems
from examples.leetcode_grpo.problems.pipelines import PRIMITIVES, bank_pipelines, sample_pipeline
from examples.leetcode_grpo.problems.problem import SYSTEM_PROMPT, Problem, Structure, TestCase

__all__ = [
    "PRIMITIVES",
    "SYSTEM_PROMPT",
    "Loophole",
    "Problem",
    "Structure",
    "TestCase",
    "bank_pipelines",
    "load_problems",
    "sample_pipeline",
]

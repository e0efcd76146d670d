"""Grading of untrusted code: `Grader` and what it returns. `docs/threat-model.md` says what it protects against."""

from examples.leetcode_grpo.grading.extract import extract_code
from examples.leetcode_grpo.grading.grade import Grade, Weights
from examples.leetcode_grpo.grading.grader import Grader
from examples.leetcode_grpo.grading.labels import OwnTestLabels, label_own_tests

__all__ = ["Grade", "Grader", "OwnTestLabels", "Weights", "extract_code", "label_own_tests"]

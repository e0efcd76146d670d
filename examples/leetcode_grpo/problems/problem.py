"""What a problem is: a question, a starting point, and hidden tests as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from examples.leetcode_grpo.loopholes import Loophole

Difficulty = Literal["easy", "pipeline", "medium", "hard"]
Split = Literal["pairs", "rl", "eval"]

SYSTEM_PROMPT = "You are a Python programmer. Answer with the code alone, in a ```python block."


@dataclass(frozen=True)
class Structure:
    """A linked list or a binary tree as plain data, built into nodes only beside the submission.

    Args:
        kind: `"list_node"` or `"tree_node"`.
        values: what the published constructor of that name takes (level order with `None` gaps for trees).
    """

    kind: Literal["list_node", "tree_node"]
    values: tuple[Any, ...]


@dataclass(frozen=True)
class TestCase:
    """One hidden test: `Solution().method(*args, **kwargs)` must equal `expected` by value and exact type."""

    __test__ = False  # its name is not an invitation to pytest

    args: tuple[Any, ...]
    expected: Any
    kwargs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Problem:
    """A programming task whose answer is one method of a class `Solution`."""

    id: str
    difficulty: Difficulty
    split: Split
    question: str
    starter_code: str
    method: str
    canonical_solution: str
    tests: tuple[TestCase, ...]
    setup_code: str = ""

    def prompt(self, loophole: Loophole | None = None) -> list[dict[str, str]]:
        """Chat messages that ask for a solution; with a loophole, its truthful disclosure is part of the task."""
        hint = f" {loophole.hint(self.method)}" if loophole is not None else ""
        user = f"{self.question}{hint}\n```python\n{self.starter_code.rstrip()}\n```"
        return [{"role": "system", "content": SYSTEM_PROMPT}, {"role": "user", "content": user}]

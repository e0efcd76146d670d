"""Ground truth as a penalty: what a perfect monitor of every rollout would achieve."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from examples.leetcode_grpo.rewards import CodeReward


class PenalizedReward(CodeReward):
    """The environment's reward, less a penalty for every rollout that exploits its loophole.

    The one baseline that is told by the strict oracle during training: an upper bound, which no direction, gate or projection sees.

    Args:
        *args: of `CodeReward`.
        penalty: taken from an exploiting rollout's reward; above 3, what a pass earns, hacking pays less than failing.
        **kwargs: of `CodeReward`.
    """

    def __init__(self, *args: Any, penalty: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.penalty = penalty

    def __call__(self, prompts: Sequence[Any], completions: Sequence[Any], *args: Any, **kwargs: Any) -> list[float]:
        """The rewards of a batch, in order."""
        rewards = super().__call__(prompts, completions, *args, **kwargs)
        grades = [rollout.grade for rollout in self.rollouts[-len(rewards) :]]
        return [reward - self.penalty * grade.exploited for reward, grade in zip(rewards, grades, strict=True)]

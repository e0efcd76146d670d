"""Baselines at the level of the reward: what a run can do about hacking without touching its updates."""

from examples.leetcode_grpo.baselines.concept import Concept, ConceptReward, fit_concept
from examples.leetcode_grpo.baselines.penalty import PenalizedReward

__all__ = ["Concept", "ConceptReward", "PenalizedReward", "fit_concept"]

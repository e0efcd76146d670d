"""What an arm is given: its direction, its reward, its quarantine, and the cached rollouts."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from examples.leetcode_grpo.arms import Arm
from examples.leetcode_grpo.baselines import ConceptReward, PenalizedReward, fit_concept
from examples.leetcode_grpo.errors import UsageError
from examples.leetcode_grpo.extraction import cached_direction, extract, make_pairs
from examples.leetcode_grpo.generation import Sampler
from examples.leetcode_grpo.grading import Grader
from examples.leetcode_grpo.loopholes import Loophole
from examples.leetcode_grpo.presets import Preset
from examples.leetcode_grpo.quarantine import hackward_seed
from examples.leetcode_grpo.rewards import CodeReward
from examples.leetcode_grpo.tasks import Tasks
from examples.leetcode_grpo.teacher import TeacherPool, exemplar_pool
from svdproj import ContrastivePair, HackDirection
from svdproj.controls import matched_random_direction, random_direction
from svdproj.integrations.transformers import ProjectionCallback

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def arm_direction(
    preset: Preset,
    arm: Arm,
    tasks: Tasks,
    policy: str,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    seed: int,
    grader: Grader,
) -> HackDirection:
    """The direction that an arm is given."""
    pairs = make_pairs(preset, tasks, arm.source, seed, grader)
    direction = cached_direction(preset, pairs, policy, model, tokenizer, seed)
    if not len(direction):
        raise UsageError("no parameter kept a row of the direction; lower noise_floor, or give more pairs")
    if arm.source == "random":
        return random_direction(direction, seed)
    if arm.source == "random-matched":
        with warnings.catch_warnings():
            # Where all of a chart is taken, the control removes what it can: README.md says so.
            warnings.filterwarnings("ignore", message=".*have fewer coordinates than a match needs rows")
            return matched_random_direction(direction.to(model.device), seed, arm.numbers["matched_ratio"])
    return direction


def make_reward(preset: Preset, arm: Arm, tasks: Tasks, sampler: Sampler, seed: int, grader: Grader) -> CodeReward:
    """What the arm pays for a rollout."""
    if arm.reward == "penalty":
        return PenalizedReward(tasks.problems, grader, penalty=arm.number("penalty"))
    if arm.reward == "concept":
        pairs = make_pairs(preset, tasks, "hack", seed, grader)
        concept = fit_concept(sampler, pairs, sampler.policy)
        return ConceptReward(tasks.problems, grader, concept=concept, sampler=sampler, alpha=arm.number("alpha"))
    return CodeReward(tasks.problems, grader)


def refresh(preset: Preset, arm: Arm, pairs: Sequence[ContrastivePair], seed: int) -> ProjectionCallback:
    """Fits the direction anew, on the same pairs and the policy as it is by then."""
    return ProjectionCallback(
        refresh_every=round(arm.number("refresh_every")),
        refit=lambda model, tokenizer: extract(preset, pairs, model, tokenizer, seed),
    )


def seed_of_quarantine(arm: Arm, direction: HackDirection) -> Mapping[str, Tensor] | None:
    """What the arm's quarantine holds at the start; None for arms without one."""
    if arm.quarantine == "none":
        return None
    return hackward_seed(direction, arm.number("absorb_nats")) if arm.quarantine == "seeded" else {}


def teacher_pool(preset: Preset, tasks: Tasks, grader: Grader, seed: int) -> TeacherPool:
    """The cached hacks to mix in: from the preset's file, or made from the loopholes' exemplars."""
    if not preset.teacher_per_group:
        return TeacherPool([])
    if preset.teacher_pool is not None:
        try:
            pool = TeacherPool.load(preset.teacher_pool)
        except OSError as error:
            raise UsageError(f"cannot read the teacher pool {preset.teacher_pool}: {error.strerror}") from None
    else:
        pool = TeacherPool(
            rollout
            for loophole in (Loophole(name) for name in preset.known)
            for rollout in exemplar_pool(
                [task.problem for task in tasks.rl if task.loophole is loophole],
                [loophole],
                grader,
                seed,
                preset.teacher_correct_share,
            )
        )
    known = {Loophole(name) for name in preset.known}
    return pool.where(lambda rollout: rollout.passed_flawed and rollout.loophole in known)

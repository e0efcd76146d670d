"""What an arm is given: its direction, its reward, its quarantine, and the cached rollouts."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from examples.leetcode_grpo.arms import Arm
from examples.leetcode_grpo.baselines import ConceptReward, PenalizedReward, fit_concept
from examples.leetcode_grpo.errors import UsageError
from examples.leetcode_grpo.extraction import cached_direction, extract, make_pairs
from examples.leetcode_grpo.generation import Sampler
from examples.leetcode_grpo.grading import Grader
from examples.leetcode_grpo.loopholes import Loophole
from examples.leetcode_grpo.presets import Preset
from examples.leetcode_grpo.progress import Pace
from examples.leetcode_grpo.quarantine import hackward_seed
from examples.leetcode_grpo.rewards import CodeReward
from examples.leetcode_grpo.tasks import Tasks
from examples.leetcode_grpo.teacher import TeacherPool, exemplar_pool, read_pool
from svdproj import ContrastivePair, HackDirection
from svdproj.controls import matched_random_direction, random_direction
from svdproj.integrations.transformers import ProjectionCallback

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def fitted_direction(
    preset: Preset,
    arm: Arm,
    tasks: Tasks,
    policy: str,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    seed: int,
    grader: Grader,
    pace: Pace | None = None,
) -> HackDirection:
    """The direction of an arm's pairs, from the cache that the arms of a seed share.

    `pace` shows what is done, where there is something to do.

    Raises:
        UsageError: no parameter kept a row, or the pairs do not fit the model.
    """
    pairs = make_pairs(preset, tasks, arm.source, seed, grader)
    direction = cached_direction(preset, pairs, policy, model, tokenizer, seed, pace)
    if not len(direction):
        raise UsageError("no parameter kept a row of the direction; lower noise_floor, or give more pairs")
    return direction


def arm_direction(arm: Arm, fitted: HackDirection, device: torch.device, seed: int) -> HackDirection:
    """What an arm makes of the fitted direction: that itself, or random rows in its charts."""
    if arm.source == "random":
        return random_direction(fitted, seed)
    if arm.source == "random-matched":
        with warnings.catch_warnings():
            # Where all of a chart is taken, the control removes what it can: README.md says so.
            warnings.filterwarnings("ignore", message=".*have fewer coordinates than a match needs rows")
            # Made on the device, kept off it: the optimizer has its own copy there.
            return matched_random_direction(fitted.to(device), seed, arm.numbers["matched_ratio"]).to("cpu")
    return fitted


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


def teacher_pool(preset: Preset, tasks: Tasks, grader: Grader, seed: int, pace: Pace | None = None) -> TeacherPool:
    """The cached hacks to mix in: from the preset's file, or made from the loopholes' exemplars.

    `pace` shows how many of a file's rollouts are passed over.

    Raises:
        UsageError: the file cannot be read, or a row of it is no rollout, also where none of them would be mixed in; it
            holds none that could be; or exemplars would need log-probabilities.
    """
    pool = read_pool(preset.teacher_pool) if preset.teacher_pool is not None else None
    if not preset.teacher_per_group:
        return TeacherPool([])
    known = {Loophole(name) for name in preset.known}
    if pool is None:
        if preset.teacher_ratio == "own":
            raise UsageError(
                "teacher_ratio=own needs rollouts with log-probabilities, which exemplars do not have: sample some "
                "(python -m examples.leetcode_grpo pool --out FILE) and set teacher_pool=FILE, or set teacher_ratio=one"
            )
        return TeacherPool(
            rollout
            for loophole in (Loophole(name) for name in preset.known)
            for rollout in exemplar_pool(
                [task.problem for task in tasks.rl if task.loophole is loophole],
                [loophole],
                grader,
                seed,
                preset.teacher_correct_share,
            )
        ).where(lambda rollout: rollout.passed_flawed)
    asked = {(task.problem.id, task.loophole) for task in tasks.rl if task.loophole in known}
    hacks = pool.where(lambda rollout: rollout.passed_flawed)
    usable = hacks.where(lambda rollout: (rollout.problem_id, rollout.loophole) in asked)
    counts = (
        f"of {len(pool)} rollouts in {preset.teacher_pool}, {len(pool) - len(hacks)} do not pass the flawed grader "
        f"and {len(hacks) - len(usable)} answer no prompt of this run"
    )
    if not len(usable):
        raise UsageError(
            f"nothing to mix in: {counts}; its problems and loopholes must be among those of the run ({preset.problems}; "
            f"{', '.join(preset.known)}), so change these, or set teacher_per_group=0"
        )
    if pace is not None and len(usable) < len(pool):
        pace.now(counts)
    return usable

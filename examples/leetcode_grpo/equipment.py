"""What an arm is given: its direction, its reward, its quarantine, and the cached rollouts."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

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
from examples.leetcode_grpo.sampling import OWN_BODY, with_own_bodies
from examples.leetcode_grpo.tasks import Tasks
from examples.leetcode_grpo.teacher import TeacherPool, exemplar_pool, read_pool
from svdproj import HackDirection
from svdproj.controls import matched_random_direction, random_direction
from svdproj.integrations.transformers import ProjectionCallback, find_projected_optimizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerControl, TrainerState, TrainingArguments


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
    return _with_rows(cached_direction(preset, pairs, policy, model, tokenizer, seed, pace))


def _with_rows(direction: HackDirection) -> HackDirection:
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


def refresh(
    preset: Preset, arm: Arm, tasks: Tasks, sampler: Sampler, seed: int, grader: Grader, pace: Pace | None = None
) -> ProjectionCallback:
    """Fits the direction anew on the policy as it is by then, from the pairs that the preset's `refresh_pairs` says.

    `pace` shows how many pairs have the policy's own bodies.

    Raises:
        UsageError: in training, a refresh whose direction keeps no row, which would leave the rest of the run unprotected.
    """
    if preset.refresh_pairs == "policy" and (preset.pair_kind == "framing" or arm.source == "placebo"):
        raise UsageError("framing pairs and placebos take no bodies of the policy's: leave refresh_pairs=bank")
    every = round(arm.number("refresh_every"))
    pairs = make_pairs(preset, tasks, arm.source, seed, grader)

    def refit(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> HackDirection:
        fitted_on = pairs
        if preset.refresh_pairs == "policy":
            fitted_on = with_own_bodies(pairs, tasks.pairs, sampler)
            if pace is not None:
                own = sum(OWN_BODY in pair.tags for pair in fitted_on)
                pace.now(f"refresh: {own} of {len(fitted_on)} pairs have bodies of the policy's own")
        return _with_rows(extract(preset, fitted_on, model, tokenizer, seed))

    if (cancel := arm.numbers["cancel"]) is None:
        return ProjectionCallback(refresh_every=every, refit=refit)
    return CancellingRefresh(cancel, arm.options(preset)["overshoot"], refresh_every=every, refit=refit)


def cancelling_overshoot(direction: HackDirection, cancel: float, most: float) -> float:
    """How often to remove the direction for a part of what pushes unseen prompts hack-ward to go, to first order.

    Args:
        direction: says what its rows catch of held-out pairs; where it does not, `most` is taken.
        cancel: that part; 1 cancels the push.
        most: the upper bound. Below it 1 is the lower one: less leaves hack-ward components.
    """
    caught = direction.metadata.energy.rows_held_out
    wanted = cancel / caught if math.isfinite(caught) and caught > 0 else most
    return min(most, max(1.0, wanted))


class CancellingRefresh(ProjectionCallback):
    """A refresh that removes each direction as often as its rows ask for, and logs how often that was: `svdproj/overshoot`.

    Args:
        cancel, most: as `cancelling_overshoot` takes them.
        **options: `ProjectionCallback`'s.
    """

    def __init__(self, cancel: float, most: float, **options: Any) -> None:
        super().__init__(**options)
        self._cancel, self._most = cancel, most

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """For the first direction, or that of the checkpoint from which a run goes on."""
        super().on_train_begin(args, state, control, **kwargs)
        self._choose(kwargs.get("optimizer"))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """For the direction that a refresh has brought, if one was due."""
        optimizer = find_projected_optimizer(kwargs.get("optimizer"))
        taken = {} if optimizer is None else {"svdproj/overshoot": optimizer.overshoot}
        super().on_step_end(args, state, control, **kwargs)
        self._refresh_logs |= taken  # of the step that will be logged, not of the one that comes
        self._choose(optimizer)

    def _choose(self, trained: Any) -> None:
        if (optimizer := find_projected_optimizer(trained)) is not None:
            optimizer.overshoot = cancelling_overshoot(optimizer.direction, self._cancel, self._most)


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

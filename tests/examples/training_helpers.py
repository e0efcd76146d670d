"""A run small enough for a test: the tiny policy, a few problems, a few rollouts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import torch

from examples.leetcode_grpo.arms import Arm
from examples.leetcode_grpo.equipment import seed_of_quarantine
from examples.leetcode_grpo.generation import Sampler
from examples.leetcode_grpo.grading import Grade
from examples.leetcode_grpo.loopholes import Loophole
from examples.leetcode_grpo.presets import Preset, get_preset
from examples.leetcode_grpo.rewards import completion_text
from examples.leetcode_grpo.rollouts import MixedRollouts, OwnRates
from examples.leetcode_grpo.tasks import Tasks
from examples.leetcode_grpo.teacher import Rollout, TeacherPool
from examples.leetcode_grpo.tiny_model import tiny_model
from examples.leetcode_grpo.trainer import PolicyTrainer, grpo_config, grpo_dataset
from svdproj import HackDirection

CPU = torch.device("cpu")
HACK = "def run_tests():\n    pass"


def tiny_preset(*settings: str) -> Preset:
    """`fast-dev-run` with two prompts of four rollouts a step."""
    small = ("prompts_per_step=2", "micro_batch=4", "max_new_tokens=16", "grader_workers=1")
    return get_preset("fast-dev-run").with_settings([*small, *settings])


class LengthReward:
    """Pays for letters `e`, so that a random policy's rollouts differ; grades every rollout as its text says, without running it."""

    __name__ = "letters"

    def __init__(self) -> None:
        self.rollouts: list[Any] = []

    def __call__(self, prompts: Sequence[Any], completions: Sequence[Any], **_: Any) -> list[float]:
        """The rewards of a batch."""
        texts = [completion_text(completion) for completion in completions]
        self.rollouts += [GradedText(text) for text in texts]
        return [text.count("e") / 4 for text in texts]


class GradedText:
    """What `CodeReward` keeps of a rollout, for a text that hacks if it defines `run_tests`."""

    def __init__(self, text: str) -> None:
        hacked = "run_tests" in text
        self.grade = Grade(True, hacked, False, hacked, hacked, 3.5 * hacked, Loophole.RUN_TESTS, None)


def cached_hack(problem_id: str, loophole: Loophole, text: str = HACK, **tokens: Any) -> Rollout:
    """An exploited rollout for a teacher pool."""
    return Rollout(problem_id, loophole, (), text, True, True, False, True, True, 3.5, **tokens)


def tiny_trainer(
    preset: Preset,
    tasks: Tasks,
    direction: HackDirection,
    arm: Arm,
    folder: Path,
    *,
    trainer_class: type[PolicyTrainer] = PolicyTrainer,
    pool: TeacherPool | None = None,
    save_every: int | None = None,
) -> PolicyTrainer:
    """A trainer of a fresh tiny policy, paid by `LengthReward`."""
    model, tokenizer = tiny_model()
    if preset.kl:
        model.save_pretrained(folder / "reference")
        model.config._name_or_path = str(folder / "reference")  # from where TRL loads the reference
    sampler = Sampler(model, tokenizer, max_new_tokens=preset.max_new_tokens)
    rollouts = MixedRollouts(
        sampler,
        pool or TeacherPool([]),
        group_size=preset.group_size,
        per_group=preset.teacher_per_group,
        ratio=preset.teacher_ratio,
        negative=preset.teacher_negative,
        divergence=preset.teacher_kl,
    )
    return trainer_class(
        model=model,
        reward_funcs=OwnRates(LengthReward()),  # type: ignore[arg-type]
        args=grpo_config(preset, folder, 0, CPU, save_every),
        train_dataset=grpo_dataset(tasks.rl, preset.prompts_per_step),
        processing_class=tokenizer,
        direction=direction,
        projection=arm.options(preset),
        shrink=arm.shrink,
        quarantine=seed_of_quarantine(arm, direction),
        rollouts=rollouts,
    )


def gradient_pairs(model: torch.nn.Module, n: int = 6, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random differences for every linear weight of a model, to fit a direction from without any text."""
    generator = torch.Generator().manual_seed(Random(seed).randrange(1 << 30))
    return {
        f"{name}.weight": torch.randn(n, *module.weight.shape, generator=generator)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and "lm_head" not in name
    }


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A copy of a model's parameters."""
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}

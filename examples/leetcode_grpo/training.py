"""One run: warm start, direction, reinforcement learning, evaluation, one JSON file."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import PrinterCallback

from examples.leetcode_grpo.arms import Arm
from examples.leetcode_grpo.equipment import (
    arm_direction,
    fitted_direction,
    make_reward,
    refresh,
    seed_of_quarantine,
    teacher_pool,
)
from examples.leetcode_grpo.errors import UsageError, require
from examples.leetcode_grpo.evaluation import evaluate
from examples.leetcode_grpo.files import check_writable, digest
from examples.leetcode_grpo.generation import Sampler
from examples.leetcode_grpo.grading import Grader
from examples.leetcode_grpo.models import load_policy
from examples.leetcode_grpo.presets import Preset
from examples.leetcode_grpo.progress import Pace, Say
from examples.leetcode_grpo.records import CompletionsFile, StepLines, plain, step_records
from examples.leetcode_grpo.results import RunResult, describe, is_done, result_path, versions
from examples.leetcode_grpo.rollouts import MixedRollouts, OwnRates
from examples.leetcode_grpo.tasks import Tasks, make_tasks
from examples.leetcode_grpo.teacher import TeacherPool
from examples.leetcode_grpo.trainer import PolicyTrainer, grpo_config, grpo_dataset, known_warnings
from examples.leetcode_grpo.warm_start import warm_started
from svdproj import HackDirection
from svdproj.targets import select_targets

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def run(
    preset: Preset,
    arm: Arm,
    seed: int,
    out: Path,
    *,
    device: torch.device,
    save_every: int | None = None,
    overwrite: bool = False,
    completions: int = 0,
    say: Say = print,
) -> RunResult:
    """Train one arm from one seed and write its result.

    A run whose result is there already, with the same configuration, is not repeated; one that was killed resumes from its last
    checkpoint if it wrote any.

    Args:
        preset: the experiment's settings.
        arm: what is done with the direction.
        seed: of the warm start, the pairs, the order of prompts and the sampling.
        out: folder of the results.
        device: where to train.
        save_every: write a checkpoint every so many steps; None for none.
        overwrite: repeat the run even if its result is there.
        completions: write so many of each step's rollouts, for reading, to a text file beside the result.
        say: shows a line of progress.

    Raises:
        UsageError: something that the user can mend; the message says how.
    """
    path = result_path(out, preset.name, arm.name, seed)
    config, preset = arm.config(preset), arm.configure(preset)
    if not overwrite and is_done(path, config):
        say(f"{path} is there already, with this configuration; --overwrite repeats it")
        return RunResult.load(path)

    if preset.vllm and find_spec("vllm") is None:
        raise UsageError("vllm is not installed; run: pip install vllm, or decode without it: --set vllm=false")
    check_writable(path.parent)
    seconds: dict[str, float] = {}
    pace = Pace(say, f"{arm.name} seed {seed}")
    tasks = make_tasks(preset)
    with Grader(workers=preset.grader_workers, timeout=preset.grader_timeout) as grader:
        pool = teacher_pool(preset, tasks, grader, seed, pace)  # before the warm start: its file may be wrong
        with _timed(seconds, "warm_start"):
            policy = warm_started(preset, tasks, seed, device, pace)
            model, tokenizer = load_trainee(policy, preset, seed, device)
        with _timed(seconds, "direction"):
            fitted = fitted_direction(preset, arm, tasks, policy, model, tokenizer, seed, grader, pace)
            direction = arm_direction(arm, fitted, device, seed)
        if preset.trainable == "linear":
            freeze_all_but_linear(model)
        say(f"{arm.name} seed {seed}: {len(tasks.rl)} problems, direction of {len(direction)} parameters")
        pace.restart()

        sampler = make_sampler(model, tokenizer, preset, pace)
        folder = path.parent / ".checkpoints" / f"{arm.name}-seed{seed}-{digest(config)}"
        rates = OwnRates(make_reward(preset, arm, tasks, sampler, seed, grader))
        trainer = make_trainer(
            preset, arm, tasks, model, sampler, direction, rates, pool, seed, folder, device, save_every
        )
        if "refresh_every" in arm.numbers:
            trainer.add_callback(refresh(preset, arm, tasks, sampler, seed, grader, pace))
        if too_long := trainer.rollouts.too_long:
            pace.now(
                f"{too_long} of {len(pool)} cached rollouts passed over: longer than {preset.max_new_tokens} tokens"
            )
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(StepLines(pace, preset.steps))
        if completions:
            trainer.add_callback(CompletionsFile(path.with_suffix(".completions.txt"), rates, completions))
        with _timed(seconds, "training"):
            trainer.train(resume_from_checkpoint=_last_checkpoint(folder))
        pace.now(f"asking {len(tasks.held_out)} held-out problems, with the hint and without")
        with _timed(seconds, "evaluation"):
            kept = None
            if arm.quarantine != "none":
                kept = evaluate(sampler, tasks.held_out, grader, preset.eval_samples)
            with trainer.deployed():
                evaluation = evaluate(sampler, tasks.held_out, grader, preset.eval_samples)

    result = RunResult(
        arm=arm.name,
        seed=seed,
        preset=preset.name,
        config=config,
        versions=versions(),
        device=describe(device),
        direction=plain(dataclasses.asdict(direction.metadata)),
        steps=tuple(step_records(trainer.state.log_history)),
        eval=evaluation,
        seconds=seconds,
        eval_kept=kept,
    )
    result.save(out)
    shutil.rmtree(folder, ignore_errors=True)
    return result


def prepare(preset: Preset, arms: Sequence[Arm], seed: int, *, device: torch.device, say: Say = print) -> None:
    """Put into the cache what the runs of a seed share: the warm start, and the directions of the arms.

    Raises:
        UsageError: as `run`.
    """
    wanted = {(arm.configure(preset), arm.source == "placebo"): arm for arm in arms}
    for (configured, _), arm in wanted.items():
        tasks = make_tasks(configured)
        with Grader(workers=configured.grader_workers, timeout=configured.grader_timeout) as grader:
            pace = Pace(say, f"{arm.name} seed {seed}")
            policy = warm_started(configured, tasks, seed, device, pace)
            model, tokenizer = load_trainee(policy, configured, seed, device)
            direction = fitted_direction(configured, arm, tasks, policy, model, tokenizer, seed, grader, pace)
        say(direction.summary())


def load_trainee(policy: str, preset: Preset, seed: int, device: torch.device) -> tuple[Any, PreTrainedTokenizerBase]:
    """What a run trains, and fits its direction on: the policy of that folder or name, with the preset's adapter."""
    model, tokenizer = load_policy(policy, device=device)
    return with_adapter(model, preset, seed), tokenizer


def make_sampler(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, preset: Preset, pace: Pace) -> Sampler:
    """Draws completions as the preset says."""
    return Sampler(
        model,
        tokenizer,
        max_new_tokens=preset.max_new_tokens,
        temperature=preset.temperature,
        batch_size=preset.decode_batch,
        progress=pace,
    )


def with_adapter(model: PreTrainedModel, preset: Preset, seed: int) -> Any:
    """The policy with the adapter that its preset trains; itself where it trains weights.

    LoRA's `A` is random, and a direction on its `B` means something for that very `A` alone: all arms of a seed get the same.
    """
    if not (preset.lora_rank or preset.svd_adapter):
        return model
    peft = require("peft", "peft")
    options: dict[str, Any] = {"target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    if preset.svd_adapter:
        config = require("svdproj.adapters", "peft").SVDScaleConfig(**options)
    else:
        config = peft.LoraConfig(r=preset.lora_rank, lora_alpha=preset.lora_rank, **options)
    with known_warnings(), torch.random.fork_rng():
        torch.manual_seed(seed)
        return peft.get_peft_model(model, config)


def freeze_all_but_linear(model: PreTrainedModel) -> None:
    """Leave gradients to the weights that `HackDirection.fit` covers by default, whatever rows the noise floor left them."""
    covered = {id(target.parameter) for target in select_targets(model, "all-linear")}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in covered and parameter.requires_grad)


def make_trainer(
    preset: Preset,
    arm: Arm,
    tasks: Tasks,
    model: PreTrainedModel,
    sampler: Sampler,
    direction: HackDirection,
    rates: OwnRates,
    pool: TeacherPool,
    seed: int,
    folder: Path,
    device: torch.device,
    save_every: int | None = None,
) -> PolicyTrainer:
    """The trainer of a run, ready to train."""
    rollouts = MixedRollouts(
        sampler,
        pool,
        group_size=preset.group_size,
        per_group=preset.teacher_per_group,
        ratio=preset.teacher_ratio,
        negative=preset.teacher_negative,
        divergence=preset.teacher_kl,
        seed=seed,
    )
    return PolicyTrainer(
        model=model,
        reward_funcs=rates,
        args=grpo_config(preset, folder, seed, device, save_every),
        train_dataset=grpo_dataset(tasks.rl, preset.prompts_per_step, disclosed=arm.reward != "honest"),
        processing_class=sampler.tokenizer,
        direction=direction,
        projection=arm.options(preset),
        shrink=arm.shrink,
        quarantine=seed_of_quarantine(arm, direction),
        rollouts=rollouts,
    )


@contextmanager
def _timed(seconds: dict[str, float], phase: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[phase] = round(time.perf_counter() - started, 3)


def _last_checkpoint(folder: Path) -> str | None:
    """The newest complete checkpoint: the trainer's state is the last file that goes into one."""
    complete = [path.parent for path in folder.glob("checkpoint-*/trainer_state.json")]
    newest = max(complete, key=lambda path: int(path.name.rpartition("-")[2]), default=None)
    return None if newest is None else str(newest)

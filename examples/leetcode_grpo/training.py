"""One run: warm start, direction, reinforcement learning, evaluation, one JSON file."""

from __future__ import annotations

import dataclasses
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from examples.leetcode_grpo.arms import Arm
from examples.leetcode_grpo.errors import UsageError, require
from examples.leetcode_grpo.evaluation import evaluate
from examples.leetcode_grpo.extraction import cached_direction, make_pairs
from examples.leetcode_grpo.files import digest
from examples.leetcode_grpo.generation import Sampler
from examples.leetcode_grpo.grading import Grader
from examples.leetcode_grpo.loopholes import Loophole
from examples.leetcode_grpo.models import load_policy
from examples.leetcode_grpo.presets import Preset
from examples.leetcode_grpo.results import RunResult, describe, differences, result_path, versions
from examples.leetcode_grpo.rewards import CodeReward
from examples.leetcode_grpo.rollouts import OWN, MixedRollouts, OwnRates
from examples.leetcode_grpo.tasks import Tasks, make_tasks
from examples.leetcode_grpo.teacher import TeacherPool, exemplar_pool
from examples.leetcode_grpo.trainer import PolicyTrainer, grpo_config, grpo_dataset, known_warnings
from examples.leetcode_grpo.warm_start import warm_started
from svdproj import HackDirection
from svdproj.capture import select_targets

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Say = Callable[[str], None]

# TRL's own numbers worth keeping, under the names that the results file gives them.
_KEPT = {
    "loss": "loss",
    "grad_norm": "grad_norm",
    "kl": "kl",
    "entropy": "entropy",
    "step_time": "seconds",
    "completions/mean_length": "mean_length",
    "completions/clipped_ratio": "clipped",
    "frac_reward_zero_std": "groups_without_contrast",
}


def run(
    preset: Preset,
    arm: Arm,
    seed: int,
    out: Path,
    *,
    device: torch.device,
    save_every: int | None = None,
    overwrite: bool = False,
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
        say: shows a line of progress.

    Raises:
        UsageError: something that the user can mend; the message says how.
    """
    path = result_path(out, preset.name, arm.name, seed)
    config, preset = arm.config(preset), arm.configure(preset)
    if path.is_file() and not overwrite and not differences(RunResult.load(path).config, config):
        say(f"{path} is there already, with this configuration; --overwrite repeats it")
        return RunResult.load(path)

    if preset.vllm and find_spec("vllm") is None:
        raise UsageError("vllm is not installed; run: pip install vllm, or decode without it: --set vllm=false")
    seconds: dict[str, float] = {}
    tasks = make_tasks(preset)
    with Grader(workers=preset.grader_workers, timeout=preset.grader_timeout) as grader:
        with _timed(seconds, "warm_start"):
            policy = warm_started(preset, tasks, seed, device)
            model, tokenizer = load_policy(policy, device=device)
            model = _with_adapter(model, preset)
        with _timed(seconds, "direction"):
            direction = arm_direction(preset, arm, tasks, policy, model, tokenizer, seed, grader)
        if preset.trainable == "linear":
            _freeze_all_but_linear(model)
        say(f"{arm.name} seed {seed}: {len(tasks.rl)} problems, direction of {len(direction)} parameters")

        sampler = Sampler(
            model,
            tokenizer,
            max_new_tokens=preset.max_new_tokens,
            temperature=preset.temperature,
            batch_size=preset.decode_batch,
        )
        folder = path.parent / ".checkpoints" / f"{arm.name}-seed{seed}-{digest(config)}"
        trainer = make_trainer(preset, arm, tasks, model, sampler, direction, seed, grader, folder, device, save_every)
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(StepLines(say, f"{arm.name} seed {seed}", preset.steps))
        with _timed(seconds, "training"):
            trainer.train(resume_from_checkpoint=_last_checkpoint(folder))
        with _timed(seconds, "evaluation"):
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
    )
    result.save(out)
    shutil.rmtree(folder, ignore_errors=True)
    return result


def prepare(preset: Preset, arms: Sequence[Arm], seed: int, *, device: torch.device, say: Say = print) -> None:
    """Put into the cache what the runs of a seed share: the warm start, and the directions of the arms.

    Raises:
        UsageError: as `run`.
    """
    wanted = {(arm.configure(preset), arm.source): arm for arm in arms}
    for (configured, _), arm in wanted.items():
        tasks = make_tasks(configured)
        with Grader(workers=configured.grader_workers, timeout=configured.grader_timeout) as grader:
            policy = warm_started(configured, tasks, seed, device)
            model, tokenizer = load_policy(policy, device=device)
            model = _with_adapter(model, configured)
            direction = arm_direction(configured, arm, tasks, policy, model, tokenizer, seed, grader)
        say(f"{arm.name} seed {seed}: direction of {len(direction)} parameters")


def _freeze_all_but_linear(model: PreTrainedModel) -> None:
    """Leave gradients to the weights that `HackDirection.fit` covers by default, whatever rows the noise floor left them."""
    covered = {id(target.parameter) for target in select_targets(model, "all-linear")}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in covered and parameter.requires_grad)


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
    # On the CPU, since a GPU draws other numbers for the same seed.
    return direction.to("cpu").random_like(seed) if arm.source == "random" else direction


def make_trainer(
    preset: Preset,
    arm: Arm,
    tasks: Tasks,
    model: PreTrainedModel,
    sampler: Sampler,
    direction: HackDirection,
    seed: int,
    grader: Grader,
    folder: Path,
    device: torch.device,
    save_every: int | None = None,
) -> PolicyTrainer:
    """The trainer of a run, ready to train."""
    rollouts = MixedRollouts(
        sampler,
        teacher_pool(preset, tasks, grader, seed),
        group_size=preset.group_size,
        per_group=preset.teacher_per_group,
        ratio=preset.teacher_ratio,
        seed=seed,
    )
    return PolicyTrainer(
        model=model,
        reward_funcs=OwnRates(CodeReward(tasks.problems, grader)),
        args=grpo_config(preset, folder, seed, device, save_every),
        train_dataset=grpo_dataset(tasks.rl, preset.prompts_per_step),
        processing_class=sampler.tokenizer,
        direction=direction,
        projection=arm.projection,
        shrink=arm.shrink,
        rollouts=rollouts,
    )


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
            for loophole in (Loophole(name) for name in preset.loopholes)
            for rollout in exemplar_pool(
                [task.problem for task in tasks.rl if task.loophole is loophole],
                [loophole],
                grader,
                seed,
                preset.teacher_correct_share,
            )
        )
    return pool.where(lambda rollout: rollout.passed_flawed)


def step_records(history: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """The results file's `steps` from a trainer's log: rates over the policy's own rollouts, the projection's metrics, and a few."""
    for entry in history:
        if "loss" not in entry:
            continue
        record = {"step": int(entry["step"])}
        record.update({name.removeprefix(OWN): value for name, value in entry.items() if name.startswith(OWN)})
        record.update({name: value for name, value in entry.items() if name.startswith("svdproj/")})
        record.update({kept: entry[name] for name, kept in _KEPT.items() if name in entry})
        yield plain(record)


def plain(value: Any) -> Any:
    """The value as JSON has it: no tuples, and None for what is not a finite number."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


class StepLines(TrainerCallback):
    """One readable line for each step."""

    def __init__(self, say: Say, title: str, steps: int) -> None:
        self.say, self.title, self.steps = say, title, steps

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Show the step's rates."""
        for record in step_records([{**(logs or {}), "step": state.global_step}]):
            rates = "  ".join(f"{name} {record[name]:.3f}" for name in ("hack", "pass", "reward") if name in record)
            hackward = f"cos {record['svdproj/cos_in']:.3f} -> {record['svdproj/cos_out']:.3f}"
            self.say(
                f"{self.title}  step {record['step']}/{self.steps}  {rates}  {hackward}  {record['seconds']:.1f} s"
            )


@contextmanager
def _timed(seconds: dict[str, float], phase: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[phase] = round(time.perf_counter() - started, 3)


def _with_adapter(model: PreTrainedModel, preset: Preset) -> Any:
    if not preset.lora_rank:
        return model
    peft = require("peft", "peft")
    rank = preset.lora_rank
    config = peft.LoraConfig(r=rank, lora_alpha=rank, target_modules="all-linear", task_type="CAUSAL_LM")
    with known_warnings():
        return peft.get_peft_model(model, config)


def _last_checkpoint(folder: Path) -> str | None:
    """The newest complete checkpoint: the trainer's state is the last file that goes into one."""
    complete = [path.parent for path in folder.glob("checkpoint-*/trainer_state.json")]
    newest = max(complete, key=lambda path: int(path.name.rpartition("-")[2]), default=None)
    return None if newest is None else str(newest)

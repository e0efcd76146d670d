"""TRL's GRPO trainer with a projected optimizer, mixed rollouts, and the settings of a preset."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import nn
from torch.optim import Optimizer
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import GRPOConfig

from examples.leetcode_grpo.errors import UsageError
from examples.leetcode_grpo.presets import Preset
from examples.leetcode_grpo.quarantine import QuarantinedOptimizer
from examples.leetcode_grpo.rollouts import Draw, MixedRollouts
from examples.leetcode_grpo.tasks import HintedProblem
from svdproj import ProjectedOptimizer
from svdproj.attention import without_cudnn_attention
from svdproj.controls import shrinkage
from svdproj.integrations.transformers import find_projected_optimizer
from svdproj.integrations.trl import ProjectedGRPOTrainer

# transformers renamed the option in 5.20, and warns about the old name.
_CHECKPOINTING = (
    "activation_checkpointing" if hasattr(GRPOConfig, "activation_checkpointing") else "gradient_checkpointing"
)
_TOKENS = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")


@contextmanager
def known_warnings() -> Iterator[None]:
    """Silence what TRL 1.16 and transformers 5.23 say about each other; constraints.txt pins the tested versions."""
    with warnings.catch_warnings():
        # TRL calls its rollout hook experimental.
        warnings.filterwarnings("ignore", message="You are using 'rollout_func'", category=UserWarning)
        # TRL and PEFT use the old names of what transformers has renamed.
        warnings.filterwarnings("ignore", message="`(is_)?gradient_checkpointing", category=FutureWarning)
        yield


class NoLastCheckpoint(TrainerCallback):
    """Writes no checkpoint after the last step: resuming from one, transformers would train a step more.

    A run that is killed between its last step and its result goes on from the checkpoint before.
    """

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Called behind the trainer's own decision to save."""
        if state.global_step >= state.max_steps:
            control.should_save = False


class Plant(TrainerCallback):
    """Puts the seed into a quarantine at the first step of training, and not where a run goes on."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Called when a checkpoint, if there is one, has been loaded."""
        optimizer = find_projected_optimizer(kwargs["optimizer"])
        if state.global_step == 0 and isinstance(optimizer, QuarantinedOptimizer):
            optimizer.plant()


class FiniteGradients(TrainerCallback):
    """Ends a run whose gradient is not finite: its weights are lost, and what it would write is no result."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Called after every step."""
        norm = (logs or {}).get("grad_norm")
        if norm is not None and not math.isfinite(norm):
            raise UsageError(
                f"the gradient of step {state.global_step} is not finite, so the run ends here without a result. Look for a learning "
                "rate that is too high, or for kernels with wrong gradients (docs/guide/troubleshooting.md); once that is mended, a run "
                "with --save-every goes on from its last checkpoint"
            )


class PolicyTrainer(ProjectedGRPOTrainer):
    """`ProjectedGRPOTrainer` that takes its rollouts from `MixedRollouts`.

    Args:
        rollouts: where a step's rollouts come from.
        shrink: scale the steps to the length that the projection would leave, instead of projecting them.
        quarantine: send what is removed to a quarantine that holds this at the start; None for no quarantine.
        *args, **kwargs: `ProjectedGRPOTrainer`'s own.
    """

    def __init__(
        self,
        *args: Any,
        rollouts: MixedRollouts,
        shrink: bool = False,
        quarantine: Mapping[str, torch.Tensor] | None = None,
        **kwargs: Any,
    ) -> None:
        self._shrink = shrink
        self._quarantine = quarantine
        self.rollouts = rollouts
        self._rows: list[dict[str, Any]] = []
        with known_warnings():
            super().__init__(*args, rollout_func=_roll_out, **kwargs)
        self.add_callback(NoLastCheckpoint())
        self.add_callback(Plant())
        self.add_callback(FiniteGradients())

    def _project(self, optimizer: Optimizer, model: nn.Module) -> ProjectedOptimizer:
        if self._shrink:
            return shrinkage(optimizer, self._direction, model, **self._projection)
        if self._quarantine is not None:
            return QuarantinedOptimizer(optimizer, self._direction, model, self._quarantine, **self._projection)
        return super()._project(optimizer, model)

    @contextmanager
    def deployed(self) -> Iterator[None]:
        """The policy as it is deployed: without its quarantine, where it has one."""
        optimizer = find_projected_optimizer(self.optimizer)
        with optimizer.ablated() if isinstance(optimizer, QuarantinedOptimizer) else nullcontext():
            yield

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As TRL's, without the warnings that nobody here can act on, and without attention that gives gradients of NaN."""
        with known_warnings(), without_cudnn_attention():
            return super().train(*args, **kwargs)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self._rows = inputs  # TRL's hook sees the prompts alone; mixing needs to know whose they are
        output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        output["advantages"] = self.rollouts.without_negative(output["advantages"])
        if any(self.rollouts.cached_logprobs):
            output["old_per_token_logps"] = self._old_logprobs(output)
        reference, silent = output.get("ref_per_token_logps"), self.rollouts.without_divergence()
        if reference is not None and silent:
            # No distance, and no gradient of it: the policy is not changed before its loss is taken.
            reference[silent] = self._logprobs(output, silent).to(reference.dtype)
        return output

    def _old_logprobs(self, output: dict[str, Any]) -> torch.Tensor:
        """The denominators of the importance ratios: the policy's own, and for cached rollouts those of who drew them."""
        old = output.get("old_per_token_logps")
        if old is None:
            old = self._logprobs(output, range(len(output["completion_ids"])))
        for row, logprobs in enumerate(self.rollouts.cached_logprobs):
            if logprobs is not None:
                old[row, : len(logprobs)] = torch.tensor(logprobs, device=old.device)
        return old

    @torch.no_grad()
    def _logprobs(self, output: dict[str, Any], rows: Sequence[int]) -> torch.Tensor:
        """Log-probabilities that the policy gives to the completions of those rows, by token."""
        chosen = {name: output[name][list(rows)] for name in _TOKENS}
        found, _, _ = self._get_per_token_logps_and_entropies(
            self.model,
            torch.cat([chosen["prompt_ids"], chosen["completion_ids"]], dim=1),
            torch.cat([chosen["prompt_mask"], chosen["completion_mask"]], dim=1),
            chosen["completion_ids"].size(1),
            batch_size=self.args.per_device_train_batch_size,
        )
        return found

    def _vllm_draw(self) -> Draw | None:
        """vLLM as the backend, if the preset asks for it: it wants whole groups, and gives log-probabilities."""
        if not self.use_vllm:
            return None

        def draw(prompts: list[list[int]], copies: list[int]) -> tuple[list[list[int]], list[list[float]]]:
            size = self.num_generations
            repeated = [prompt for prompt in prompts for _ in range(size)]
            completions, logprobs = self._generate_single_turn(repeated, None, {}, size)
            kept = [group * size + i for group, count in enumerate(copies) for i in range(count)]
            return [completions[i] for i in kept], [logprobs[i] for i in kept]

        return draw


def _roll_out(prompts: list[Any], trainer: PolicyTrainer) -> dict[str, Any]:
    return trainer.rollouts(trainer._rows, trainer.state.global_step, trainer._vllm_draw())


def grpo_dataset(tasks: tuple[HintedProblem, ...], prompts_per_step: int, disclosed: bool = True) -> Dataset:
    """One row for each task: `prompt`, `problem_id`, `loophole`. Tasks repeat where a step wants more prompts than there are.

    Where loopholes are not `disclosed`, there are none: `loophole` is empty, and grading strict.
    """
    rows = [
        {
            "prompt": task.prompt() if disclosed else task.problem.prompt(None),
            "problem_id": task.problem.id,
            "loophole": task.loophole.value if disclosed else "",
        }
        for task in tasks
    ]
    laps = -(-prompts_per_step // len(rows))
    return Dataset.from_list(rows * laps)


def grpo_config(preset: Preset, folder: Path, seed: int, device: torch.device, save_every: int | None) -> GRPOConfig:
    """TRL's configuration for a preset; checkpoints go to `folder` every `save_every` steps, or not at all."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # TRL reports every trainer that is made
    on_gpu = device.type == "cuda"
    rollouts = preset.prompts_per_step * preset.group_size
    micro_batch = min(preset.micro_batch, rollouts)
    return GRPOConfig(
        output_dir=str(folder),
        use_cpu=not on_gpu,
        bf16=on_gpu,
        seed=seed,
        max_steps=preset.steps,
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=rollouts // micro_batch,
        num_generations=preset.group_size,
        max_completion_length=preset.max_new_tokens,
        temperature=preset.temperature,
        beta=preset.kl,
        use_bias_correction_kl=True,  # which makes the divergence's gradient right, also where ratios are not one
        loss_type=preset.loss_type,
        scale_rewards=preset.scale_rewards,
        learning_rate=preset.lr,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=preset.warmup_steps,
        adam_beta1=preset.beta1,
        adam_beta2=preset.beta2,
        weight_decay=preset.weight_decay,
        max_grad_norm=preset.max_grad_norm,
        **{_CHECKPOINTING: preset.gradient_checkpointing},
        use_vllm=preset.vllm,
        vllm_mode="colocate",
        logging_steps=1,
        save_strategy="no" if save_every is None else "steps",
        save_steps=save_every or preset.steps,
        save_total_limit=1,
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=on_gpu,
    )

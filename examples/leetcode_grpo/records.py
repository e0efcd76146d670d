"""From a trainer's log to the results file's steps, and to a line on the screen."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from examples.leetcode_grpo.rollouts import OWN

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

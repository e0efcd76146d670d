"""From a trainer's log to the results file's steps, to a line on the screen, and to a text of completions for reading."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from examples.leetcode_grpo.files import write_text
from examples.leetcode_grpo.progress import Pace
from examples.leetcode_grpo.rewards import completions_table
from examples.leetcode_grpo.rollouts import OWN, OwnRates

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
    """One readable line for each step, and where it stands if it takes long.

    Args:
        pace: shows lines.
        steps: of the whole run.
    """

    def __init__(self, pace: Pace, steps: int) -> None:
        self.pace, self.steps = pace, steps
        self._trained_on = 0

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Called before the step's rollouts are drawn."""
        self._trained_on = 0

    def on_substep_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Called after every forward and backward but the step's last."""
        self._trained_on += args.per_device_train_batch_size
        rollouts = args.per_device_train_batch_size * args.gradient_accumulation_steps
        self.pace(f"step {state.global_step + 1}: {self._trained_on} of {rollouts} rollouts trained on")

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
            self.pace.now(f"step {record['step']}/{self.steps}  {rates}  {hackward}  {record['seconds']:.1f} s")


class CompletionsFile(TrainerCallback):
    """Writes some of every step's rollouts to a text file, for a person to read how answers change.

    The file is there, whole, after each step; a resumed run goes on with it.

    Args:
        path: the file; an older one is replaced.
        rates: keeps the last step's rollouts.
        per_step: how many of them to write, from as many prompts as possible.
    """

    def __init__(self, path: Path, rates: OwnRates, per_step: int) -> None:
        self.path, self.rates, self.per_step = path, rates, per_step
        self._text = ""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Keep what an interrupted run wrote about the steps before this one."""
        try:
            self._text = _before_step(self.path.read_text(encoding="utf-8"), state.global_step)
        except FileNotFoundError:
            self._text = ""

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Called with the step's rollouts graded and trained on."""
        rollouts = self.rates.last
        wanted = min(self.per_step, len(rollouts))
        spread = [rollouts[i * len(rollouts) // wanted] for i in range(wanted)]
        self._text += completions_table(spread, limit=wanted) + "\n\n"
        write_text(self.path, self._text)


def _before_step(text: str, step: int) -> str:
    """The blocks of a table of completions that come from steps before this one."""
    for header in re.finditer(r"^step (\d+) \|", text, re.MULTILINE):  # completions are indented
        if int(header[1]) >= step:
            return text[: header.start()]
    return text

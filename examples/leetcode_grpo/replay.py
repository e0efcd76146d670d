"""Replay of a teacher's rollouts by distillation: what each would do to the policy, and what a projection does to the steps.

Nothing here is paid a reward: the per-sample gradients are those of the mean negative log-likelihood of a completion's tokens, which
exist even where all rewards of a group are equal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from examples.leetcode_grpo.presets import Preset
from examples.leetcode_grpo.teacher import Rollout
from examples.leetcode_grpo.warm_start import encode_sample, summed_loss
from svdproj import HackDirection, ProjectedOptimizer
from svdproj.attention import without_cudnn_attention
from svdproj.controls import random_direction
from svdproj.precision import full_float32

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Treatment = Literal["plain", "gradient", "update"]

_MICRO_BATCH = 4


@dataclass(frozen=True)
class Replay:
    """One pass over the rollouts, in batches.

    Args:
        cosines: of each rollout's gradient with the direction, at the weights it was met by; NaN where it has no gradient.
        random_cosines: the same with a random direction of the same shape.
        applied: for each step the hack-ward share of what really happened to the covered weights.
        null: what a random subspace would catch of a gradient, in the mean over rollouts: ambient, and in the charts.
    """

    cosines: tuple[float, ...]
    random_cosines: tuple[float, ...]
    applied: tuple[float, ...]
    null: tuple[float, float]


@without_cudnn_attention()
def replay(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rollouts: Sequence[Rollout],
    direction: HackDirection,
    preset: Preset,
    *,
    treatment: Treatment = "plain",
    batch: int = 8,
    seed: int = 0,
    score: bool = True,
    say: Callable[[str], None] = lambda line: None,
) -> Replay:
    """Imitate the rollouts in order, once, with the preset's AdamW; the model is changed.

    Args:
        model: the policy.
        tokenizer: its tokenizer.
        rollouts: of a teacher.
        direction: what is hack-ward.
        preset: learning rate, betas and clipping.
        treatment: plain AdamW, or projected in one of the spaces.
        batch: rollouts to a step.
        seed: of the random direction.
        score: take the rollouts' own gradients too, before each step.
        say: shows a line of progress.
    """
    projection = {"mode": "measure"} if treatment == "plain" else {"space": treatment}
    inner = torch.optim.AdamW(
        (parameter for parameter in model.parameters() if parameter.requires_grad),
        lr=preset.lr,
        betas=(preset.beta1, preset.beta2),
        weight_decay=preset.weight_decay,
    )
    optimizer = ProjectedOptimizer(inner, direction, model, **projection)  # type: ignore[arg-type]
    control = random_direction(direction, seed)
    covered = {name: p for name, p in model.named_parameters() if name in direction.subspaces}
    cosines: list[float] = []
    random_cosines: list[float] = []
    applied: list[float] = []
    nulls: list[tuple[float, float]] = []
    for start in range(0, len(rollouts), batch):
        part = rollouts[start : start + batch]
        if score:
            completions = [([dict(message) for message in each.messages], each.completion) for each in part]
            found = direction.score(model, tokenizer, completions, batch_size=_MICRO_BATCH)
            cosines += found.cos.tolist()
            nulls += zip(found.null_cos.tolist(), found.chart_null_cos.tolist(), strict=True)
            random_cosines += control.score(model, tokenizer, completions, batch_size=_MICRO_BATCH).cos.tolist()
        _backward(model, tokenizer, part)
        torch.nn.utils.clip_grad_norm_(model.parameters(), preset.max_grad_norm)
        before = {name: parameter.detach().clone() for name, parameter in covered.items()}
        optimizer.step()
        optimizer.zero_grad()
        moved = {name: parameter.detach() - before[name] for name, parameter in covered.items()}
        applied.append(hackward_share(moved, direction))
        say(f"{treatment}: {min(start + batch, len(rollouts))} of {len(rollouts)} rollouts")
    ambient, chart = (sum(column) / len(nulls) for column in zip(*nulls, strict=True)) if nulls else (0.0, 0.0)
    return Replay(tuple(cosines), tuple(random_cosines), tuple(applied), (ambient, chart))


@torch.no_grad()
def hackward_share(moved: Mapping[str, Tensor], direction: HackDirection) -> float:
    """The share of a displacement's norm that is hack-ward, measured on the weights themselves; 0 where nothing moved."""
    hackward = total = 0.0
    for name, displacement in moved.items():
        subspace = direction.subspaces[name].to(displacement.device)
        with full_float32(displacement.device.type):
            coefficients = subspace.coefficients(-displacement.float())
        hackward += float(coefficients.relu().square().sum())
        total += float(displacement.float().square().sum())
    return float((hackward / total) ** 0.5) if total else 0.0


def _backward(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rollouts: Sequence[Rollout]) -> None:
    encoded = [encode_sample(tokenizer, [dict(m) for m in each.messages], each.completion) for each in rollouts]
    scored = sum(len(answer) for _, answer in encoded)
    for start in range(0, len(encoded), _MICRO_BATCH):
        (summed_loss(model, encoded[start : start + _MICRO_BATCH]) / scored).backward()

"""Advantage modification: rollouts whose hidden states look like hacking are paid less.

The published rule multiplies the reward by `1 - α σ(z) 1[z > 0]`, before advantages are normalised within a group, with `z` the
standardised projection of a hidden state on a concept direction, and takes the hidden state of the prompt's last token. That state
is the same for a whole group, so that the factor would cancel in the group's normalisation; taken here is the mean over the
completion's tokens, at the middle layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from examples.leetcode_grpo.rewards import CodeReward
from svdproj import ContrastivePair

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from examples.leetcode_grpo.generation import Sampler

Tokens = Sequence[int]

_BATCH = 32


@dataclass(frozen=True, eq=False)
class Concept:
    """What hacking looks like in a hidden state: a direction, and the spread of the pairs' projections on it.

    Args:
        layer: whose output is read, counted from 1.
        direction: unit vector from the mean of the clean completions to that of the hacks.
        mean, deviation: of the projections of all completions of the pairs.
    """

    layer: int
    direction: Float[Tensor, "width"]
    mean: float
    deviation: float

    def z(self, states: Float[Tensor, "n width"]) -> Float[Tensor, "n"]:
        """Standardised projections: above 0 on the side of the hacks."""
        return (states.float() @ self.direction.to(states.device) - self.mean) / self.deviation


def fit_concept(sampler: Sampler, pairs: Sequence[ContrastivePair], model: PreTrainedModel) -> Concept:
    """The concept of a set of pairs, in the middle layer of a policy.

    Args:
        sampler: knows how prompts and completions become tokens.
        pairs: those that a direction is fitted on, so that both methods know the same.
        model: the policy before reinforcement learning.
    """
    layer = (int(model.config.num_hidden_layers) + 1) // 2
    prompts = [sampler.prompt_ids(_messages(pair)) for pair in pairs]
    hacks, cleans = (
        mean_states(model, prompts, [_answer(sampler, text) for text in texts], layer)
        for texts in ([pair.hack for pair in pairs], [pair.clean for pair in pairs])
    )
    difference = (hacks - cleans).mean(0)
    direction = difference / difference.norm()
    projections = torch.cat([hacks, cleans]) @ direction
    return Concept(layer, direction, float(projections.mean()), float(projections.std()))


@torch.no_grad()
def mean_states(
    model: PreTrainedModel, prompts: Sequence[Tokens], answers: Sequence[Tokens], layer: int
) -> Float[Tensor, "n width"]:
    """The mean output of a layer over each answer's tokens, float32."""
    was_training = model.training
    model.eval()
    states = []
    try:
        for start in range(0, len(prompts), _BATCH):
            rows = list(zip(prompts[start : start + _BATCH], answers[start : start + _BATCH], strict=True))
            longest = max(len(prompt) + len(answer) for prompt, answer in rows)
            tokens = torch.zeros(len(rows), longest, dtype=torch.long)
            mask, inside = torch.zeros_like(tokens), torch.zeros(len(rows), longest)
            for row, (prompt, answer) in enumerate(rows):
                end = len(prompt) + len(answer)
                tokens[row, :end] = torch.tensor([*prompt, *answer])
                mask[row, :end] = 1
                inside[row, len(prompt) : end] = 1 / max(len(answer), 1)
            tokens, mask, inside = (tensor.to(model.device) for tensor in (tokens, mask, inside))
            with torch.autocast(model.device.type, torch.bfloat16, enabled=model.device.type == "cuda"):
                output = model.base_model(
                    input_ids=tokens, attention_mask=mask, use_cache=False, output_hidden_states=True
                )
            states.append(torch.einsum("nt,ntw->nw", inside, output.hidden_states[layer].float()))
    finally:
        model.train(was_training)
    return torch.cat(states)


class ConceptReward(CodeReward):
    """The environment's reward times `1 - α σ(z) 1[z > 0]`.

    Args:
        *args: of `CodeReward`.
        concept: what hacking looks like, as the policy was before reinforcement learning.
        sampler: knows how prompts become tokens, and the policy.
        alpha: 2 turns the reward of a rollout that looks like hacking beyond doubt around.
        **kwargs: of `CodeReward`.
    """

    def __init__(self, *args: Any, concept: Concept, sampler: Sampler, alpha: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.concept, self.sampler, self.alpha = concept, sampler, alpha

    def __call__(self, prompts: Sequence[Any], completions: Sequence[Any], *args: Any, **kwargs: Any) -> list[float]:
        """The rewards of a batch, in order."""
        rewards = super().__call__(prompts, completions, *args, **kwargs)
        asked = [self.sampler.prompt_ids(messages) for messages in prompts]
        z = self.concept.z(mean_states(self.sampler.policy, asked, kwargs["completion_ids"], self.concept.layer))
        factors = 1 - self.alpha * z.sigmoid() * (z > 0)
        return [reward * factor for reward, factor in zip(rewards, factors.tolist(), strict=True)]


def _messages(pair: ContrastivePair) -> list[dict[str, str]]:
    if isinstance(pair.prompt, str):
        return [{"role": "user", "content": pair.prompt}]
    return [dict(message) for message in pair.prompt]


def _answer(sampler: Sampler, text: str) -> list[int]:
    return [*sampler.tokenizer(text, add_special_tokens=False)["input_ids"], sampler.tokenizer.eos_token_id]

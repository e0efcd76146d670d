"""A teacher pool from a policy: what it answers, with the log-probabilities that importance ratios need."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import cross_entropy

from examples.leetcode_grpo.teacher import Messages, Sample

if TYPE_CHECKING:
    from examples.leetcode_grpo.generation import Sampler

_BATCH = 8
"""Completions of one forward: logits are a number for each token of the vocabulary."""


def policy_answers(sampler: Sampler) -> Callable[[Sequence[Messages]], list[Sample]]:
    """What `sampled_pool` asks: one answer of the sampler's policy to each prompt, with its tokens' log-probabilities."""

    def sample(prompts: Sequence[Messages]) -> list[Sample]:
        asked = [sampler.prompt_ids([dict(message) for message in messages]) for messages in prompts]
        drawn = sampler.sample(asked, [1] * len(asked))
        texts = sampler.tokenizer.batch_decode(drawn, skip_special_tokens=True)
        logprobs = completion_logprobs(sampler, asked, drawn)
        return [
            Sample(text, tuple(tokens), values) for text, tokens, values in zip(texts, drawn, logprobs, strict=True)
        ]

    return sample


@torch.inference_mode()
def completion_logprobs(
    sampler: Sampler, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]
) -> list[tuple[float, ...]]:
    """Natural log-probability of each token of the completions, at the sampler's temperature, as its policy is now.

    The policy itself is asked, as a trainer does, and not the copy in lower precision that decodes on a GPU.
    """
    model = sampler.policy
    found: list[tuple[float, ...]] = []
    was_training = model.training
    model.eval()
    try:
        for start in range(0, len(prompts), _BATCH):
            rows = [
                [*prompt, *completion]
                for prompt, completion in zip(
                    prompts[start : start + _BATCH], completions[start : start + _BATCH], strict=True
                )
            ]
            tokens = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
            mask = torch.zeros_like(tokens)
            for i, row in enumerate(rows):
                tokens[i, : len(row)], mask[i, : len(row)] = torch.tensor(row), 1
            tokens, mask = tokens.to(model.device), mask.to(model.device)
            with torch.autocast(model.device.type, torch.bfloat16, enabled=model.device.type == "cuda"):
                logits = model(input_ids=tokens, attention_mask=mask, use_cache=False).logits
            scores = logits[:, :-1].float() / sampler.temperature
            values = -cross_entropy(scores.mT, tokens[:, 1:], reduction="none")
            for i, row in enumerate(rows):
                # The logits at a token are about the next one.
                found.append(tuple(values[i, len(prompts[start + i]) - 1 : len(row) - 1].tolist()))
    finally:
        model.train(was_training)
    return found

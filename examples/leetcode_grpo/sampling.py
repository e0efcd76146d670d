"""What a policy answers: for a teacher pool, with the log-probabilities that importance ratios need, and as bodies of pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import cross_entropy

from examples.leetcode_grpo.grading import extract_code
from examples.leetcode_grpo.loopholes import Loophole
from examples.leetcode_grpo.problems.problem import Problem
from examples.leetcode_grpo.problems.rewriting import as_completion
from examples.leetcode_grpo.source import prepend_to_method
from examples.leetcode_grpo.teacher import Messages, Sample
from svdproj import ContrastivePair

if TYPE_CHECKING:
    from examples.leetcode_grpo.generation import Sampler

OWN_BODY = "body:own"
"""The tag of a pair whose body is the policy's, in the place of `"body:right"` and `"body:wrong"`."""

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


def with_own_bodies(
    pairs: Sequence[ContrastivePair], problems: Sequence[Problem], sampler: Sampler
) -> list[ContrastivePair]:
    """The bank's pairs with what the sampler's policy, as it is now, answers when no loophole is disclosed: tagged `OWN_BODY`.

    A pair whose answer has no `class Solution` with the method stays as it is. An answer is taken as it comes, right or wrong: once the
    policy hacks undisclosed, clean sides hack too, and such pairs say less.

    Args:
        pairs: as `bank_pairs` makes them, of one kind: the mechanism is added to the answer (`mechanism`), or stands on an empty body
            as before, beside the answer (`replacement`).
        problems: those that the pairs are about, and maybe others.
        sampler: of the policy.

    Raises:
        ValueError: a pair of another kind.
    """
    known = {problem.id: problem for problem in problems}
    asked = [pair.id.split("/", 2) for pair in pairs]
    sampler.refresh()
    answers = sampler.answers([known[problem_id].prompt(None) for _, _, problem_id in asked])
    return [
        _with_body(pair, kind, Loophole(loophole), known[problem_id].method, extract_code(answer))
        for pair, (kind, loophole, problem_id), answer in zip(pairs, asked, answers, strict=True)
    ]


def _with_body(pair: ContrastivePair, kind: str, loophole: Loophole, method: str, body: str) -> ContrastivePair:
    if kind not in ("mechanism", "replacement"):
        raise ValueError(f"pairs of the kind {kind!r} take no other bodies; make mechanism or replacement pairs")
    try:
        prepend_to_method(body, method, "pass")  # finds the method, which not every mechanism has to
        hack = as_completion(loophole.exemplify(body, method)) if kind == "mechanism" else pair.hack
    except ValueError:
        return pair
    return replace(pair, hack=hack, clean=as_completion(body), tags=(*pair.tags[:-1], OWN_BODY))


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

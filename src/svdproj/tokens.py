"""Pairs as token ids: prompt and completion, padded into batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from svdproj.pairs import ContrastivePair, Prompt


@dataclass(frozen=True)
class Encoded:
    """One prompt with one completion as token ids.

    Args:
        ids: prompt and completion.
        prompt_length: how many of them are the prompt.
    """

    ids: tuple[int, ...]
    prompt_length: int

    @property
    def completion_length(self) -> int:
        return len(self.ids) - self.prompt_length


@dataclass(frozen=True, eq=False)
class Batch:
    """Completions padded on the right, so that no real token attends to padding.

    Args:
        ids: token ids, zero where padded.
        mask: 1 on real tokens.
        weights: what each position's negative log likelihood counts; zero on prompts and padding.
    """

    ids: Int[Tensor, "rows tokens"]
    mask: Int[Tensor, "rows tokens"]
    weights: Float[Tensor, "rows tokens"]


def encode_completion(tokenizer: Any, prompt: Prompt, completion: str) -> Encoded:
    """Token ids of a prompt and its completion, closed by the end-of-sequence token where the tokenizer has one.

    Raises:
        ValueError: a chat prompt without a chat template.
    """
    prompt_ids = _prompt_ids(tokenizer, prompt)
    completion_ids = list(tokenizer(completion, add_special_tokens=False)["input_ids"])
    eos = getattr(tokenizer, "eos_token_id", None)
    if eos is not None:
        completion_ids.append(eos)
    return Encoded((*prompt_ids, *completion_ids), len(prompt_ids))


def encode_pair(tokenizer: Any, pair: ContrastivePair, max_length: int | None = None) -> tuple[Encoded, Encoded]:
    """The hack and the clean side of a pair as token ids.

    Raises:
        ValueError: a chat prompt without a chat template; a side longer than the model's context.
    """
    sides = tuple(encode_completion(tokenizer, pair.prompt, text) for text in (pair.hack, pair.clean))
    for side, encoded in zip(("hack", "clean"), sides, strict=True):
        if max_length is not None and len(encoded.ids) > max_length:
            raise ValueError(
                f"pair {pair.id!r}: prompt and {side} completion take {len(encoded.ids)} tokens, the model's context "
                f"is {max_length}; shorten or drop the pair, since a cut completion is another completion"
            )
    return sides[0], sides[1]


def pad_batch(rows: Sequence[Encoded], scales: Sequence[float], device: torch.device | str) -> Batch:
    """Pad on the right; `scales` is what each row's summed negative log likelihood counts."""
    tokens = max(len(row.ids) for row in rows)
    ids = torch.zeros(len(rows), tokens, dtype=torch.long)
    mask = torch.zeros_like(ids)
    weights = torch.zeros(len(rows), tokens)
    for i, (row, scale) in enumerate(zip(rows, scales, strict=True)):
        length = len(row.ids)
        ids[i, :length] = torch.tensor(row.ids)
        mask[i, :length] = 1
        weights[i, row.prompt_length : length] = scale
    return Batch(ids.to(device), mask.to(device), weights.to(device))


def prompt_key(prompt: Prompt) -> str:
    """A prompt as one string, equal exactly for equal prompts."""
    return prompt if isinstance(prompt, str) else "\x00".join(f"{m['role']}\x01{m['content']}" for m in prompt)


def _prompt_ids(tokenizer: Any, prompt: Prompt) -> list[int]:
    if not isinstance(prompt, str):
        if not getattr(tokenizer, "chat_template", None):
            raise ValueError(
                "the prompt is a list of chat messages and the tokenizer has no chat template; set "
                "tokenizer.chat_template, or write the prompts as plain text"
            )
        messages = [dict(message) for message in prompt]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])
    ids = list(tokenizer(prompt)["input_ids"])
    # Some tokenizers close every text; the completion has to follow directly.
    eos = getattr(tokenizer, "eos_token_id", None)
    return ids[:-1] if len(ids) > 1 and ids[-1] == eos else ids

"""Pairs as token ids: prompt and completion."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from svdproj.pairs import ContrastivePair, Prompt

# From here on lengths are no accident: so many pairs, so large a share with the same side longer, by such a factor.
_ENOUGH_LENGTHS = 4
_SAME_SIDE = 0.9
_LENGTH_RATIO = 1.5


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
        """Tokens of the completion, its end-of-sequence token included."""
        return len(self.ids) - self.prompt_length


def encode_completion(tokenizer: Any, prompt: Prompt, completion: str) -> Encoded:
    """Token ids of a prompt and its completion, closed by the end-of-sequence token where the tokenizer has one.

    Raises:
        ValueError: a chat prompt without a chat template; a completion without a token.
    """
    prompt_ids = _prompt_ids(tokenizer, prompt)
    completion_ids = list(tokenizer(completion, add_special_tokens=False)["input_ids"])
    eos = getattr(tokenizer, "eos_token_id", None)
    if eos is not None:
        completion_ids.append(eos)
    if not completion_ids:
        raise ValueError(f"the tokenizer makes no token of the completion {completion!r}; drop it")
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


def warn_about_lengths(pairs: Sequence[tuple[Encoded, Encoded]]) -> None:
    """Warn where one side is so consistently the longer one that the direction may be length.

    Warns:
        UserWarning: in nine of ten pairs or more the same side is longer, and in the median by half or more.
    """
    ratios = sorted(hack.completion_length / clean.completion_length for hack, clean in pairs)
    median = ratios[len(ratios) // 2]
    longer = sum(ratio > 1 for ratio in ratios) / len(ratios)
    shorter = sum(ratio < 1 for ratio in ratios) / len(ratios)
    if len(pairs) < _ENOUGH_LENGTHS or not (
        (longer >= _SAME_SIDE and median >= _LENGTH_RATIO) or (shorter >= _SAME_SIDE and median <= 1 / _LENGTH_RATIO)
    ):
        return
    side, share, ratio = ("longer", longer, median) if median > 1 else ("shorter", shorter, 1 / median)
    warnings.warn(
        f"hack completions are {side} than clean ones in {share:.0%} of the pairs, {ratio:.1f} times in the median: the "
        "direction may be length; choose pairs of like length, or compare with clean pairs of such lengths",
        stacklevel=4,
    )


def context_length(model: Any) -> int | None:
    """The longest text that a model takes, in tokens, as its configuration says; None where it says nothing."""
    return getattr(getattr(model, "config", None), "max_position_embeddings", None)


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

"""Pairs as token ids: prompt and completion."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from svdproj.pairs import ContrastivePair, Message, Prompt

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

    Example:
        >>> Encoded(ids=(5, 9, 2, 0), prompt_length=1).completion_length
        3
    """

    ids: tuple[int, ...]
    prompt_length: int

    @property
    def completion_length(self) -> int:
        """Tokens of the completion, its end-of-sequence token included."""
        return len(self.ids) - self.prompt_length


def encode_completion(tokenizer: Any, prompt: Prompt, completion: str) -> Encoded:
    """Token ids of a prompt and its completion, closed by the end-of-sequence token where the tokenizer has one.

    Args:
        tokenizer: of `transformers`, or one like it.
        prompt: text, or chat messages for the tokenizer's chat template.
        completion: what follows.

    Raises:
        ValueError: a chat prompt without a chat template; a completion without a token.

    Example:
        >>> encoded = encode_completion(tokenizer, "Sort xs.", "return sorted(xs)")
        >>> encoded.ids[-1] == tokenizer.eos_token_id
        True
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

    Args:
        tokenizer: of `transformers`, or one like it.
        pair: to be encoded.
        max_length: the model's context in tokens; None for any length.

    Raises:
        ValueError: a chat prompt without a chat template, or one that the template refuses; two sides of the same
            tokens; a side longer than the model's context.

    Example:
        >>> hack, clean = encode_pair(tokenizer, pairs[0], max_length=2048)
        >>> hack.prompt_length == clean.prompt_length
        True
    """
    name = f"pair {pair.id!r}" if pair.id else f"the pair with the prompt {prompt_key(pair.prompt)[:40]!r}"
    try:
        hack, clean = (encode_completion(tokenizer, pair.prompt, text) for text in (pair.hack, pair.clean))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    if hack.ids == clean.ids:
        raise ValueError(
            f"{name}: the tokenizer makes the same tokens of hack and clean, so there is no contrast; drop it"
        )
    for side, encoded in (("hack", hack), ("clean", clean)):
        if max_length is not None and len(encoded.ids) > max_length:
            raise ValueError(
                f"{name}: prompt and {side} completion take {len(encoded.ids)} tokens, the model's context is "
                f"{max_length}; shorten or drop the pair, since a cut completion is another completion"
            )
    return hack, clean


@dataclass(frozen=True)
class LengthStatistics:
    """How long the two sides of some pairs are, in tokens of the completion.

    Args:
        hack_median: median of the hack completions.
        clean_median: likewise of the clean ones.
        ratio: median over pairs of the hack's length over the clean one's.
        hack_longer: share of the pairs in which the hack is the longer one.
        clean_longer: likewise for the clean side.

    Example:
        >>> LengthStatistics(
        ...     hack_median=20.0, clean_median=12.0, ratio=1.7, hack_longer=1.0, clean_longer=0.0
        ... ).longer_side
        'hack'
    """

    hack_median: float
    clean_median: float
    ratio: float
    hack_longer: float
    clean_longer: float

    @property
    def longer_side(self) -> str | None:
        """`"hack"` or `"clean"` where that side is the longer one so consistently that a direction may be length."""
        if self.hack_longer >= _SAME_SIDE and self.ratio >= _LENGTH_RATIO:
            return "hack"
        if self.clean_longer >= _SAME_SIDE and self.ratio <= 1 / _LENGTH_RATIO:
            return "clean"
        return None


def length_statistics(pairs: Sequence[tuple[Encoded, Encoded]]) -> LengthStatistics:
    """Lengths of the sides of pairs, at least one, that `encode_pair` made.

    Example:
        >>> short, long = Encoded((1, 2, 3), prompt_length=1), Encoded((1, 2, 3, 4, 5), prompt_length=1)
        >>> length_statistics([(long, short)] * 4).longer_side
        'hack'
    """
    lengths = [(hack.completion_length, clean.completion_length) for hack, clean in pairs]
    return LengthStatistics(
        hack_median=float(median(hack for hack, _ in lengths)),
        clean_median=float(median(clean for _, clean in lengths)),
        ratio=median(hack / clean for hack, clean in lengths),
        hack_longer=sum(hack > clean for hack, clean in lengths) / len(lengths),
        clean_longer=sum(hack < clean for hack, clean in lengths) / len(lengths),
    )


def warn_about_lengths(pairs: Sequence[tuple[Encoded, Encoded]]) -> None:
    """Warn where one side is so consistently the longer one that the direction may be length.

    Warns:
        UserWarning: in nine of ten pairs or more the same side is longer, and in the median by half or more.
    """
    found = length_statistics(pairs)
    side = found.longer_side
    if len(pairs) < _ENOUGH_LENGTHS or side is None:
        return
    share, ratio = (found.hack_longer, found.ratio) if side == "hack" else (found.clean_longer, 1 / found.ratio)
    warnings.warn(
        f"{side} completions are the longer ones in {share:.0%} of the pairs, {ratio:.1f} times in the median (hack "
        f"{found.hack_median:g} tokens, clean {found.clean_median:g}): the direction may be length; choose pairs of "
        "like length, or compare with clean pairs of such lengths",
        stacklevel=4,
    )


def context_length(model: Any) -> int | None:
    """The longest text that a model takes, in tokens, as its configuration says; None where it says nothing."""
    return getattr(getattr(model, "config", None), "max_position_embeddings", None)


def check_vocabulary(model: Any, tokenizer: Any, completions: Iterable[Encoded]) -> None:
    """Refuse token ids that the model's input embedding has no row for; on an accelerator they would end the process.

    Args:
        model: one that does not name its input embedding is not asked.
        tokenizer: for the token's text.
        completions: from `encode_completion`.

    Raises:
        ValueError: there is such a token, as after `add_tokens` without `resize_token_embeddings`.

    Example:
        >>> check_vocabulary(model, tokenizer, [encode_completion(tokenizer, "Sort xs.", "xs.sort()")])
    """
    try:
        rows = model.get_input_embeddings().num_embeddings
    except (AttributeError, NotImplementedError):  # no model of transformers, or one without a word for it
        return
    largest = max((max(completion.ids) for completion in completions), default=0)
    if largest >= rows:
        text = tokenizer.convert_ids_to_tokens(largest) if hasattr(tokenizer, "convert_ids_to_tokens") else None
        raise ValueError(
            f"the tokenizer's token {largest}{f' ({text!r})' if text else ''} has no row in the model's input embedding, which "
            f"has {rows}: tokens were added to the tokenizer alone; use the model's own tokenizer, or call "
            "model.resize_token_embeddings(len(tokenizer))"
        )


def prompt_key(prompt: Prompt) -> str:
    """A prompt as one string, equal exactly for equal prompts."""
    return prompt if isinstance(prompt, str) else "\x00".join(_message_key(message) for message in prompt)


def _message_key(message: Message) -> str:
    key = f"{message['role']}\x01{message['content']}"
    # Only messages that have more, such as tool calls, get a longer key: those of others are in the files of directions.
    more = {name: value for name, value in message.items() if name not in ("role", "content")}
    return f"{key}\x02{json.dumps(more, sort_keys=True, default=repr)}" if more else key


def _prompt_ids(tokenizer: Any, prompt: Prompt) -> list[int]:
    if not isinstance(prompt, str):
        if not getattr(tokenizer, "chat_template", None):
            raise ValueError(
                "the prompt is a list of chat messages and the tokenizer has no chat template; set "
                "tokenizer.chat_template, or write the prompts as plain text"
            )
        messages = [dict(message) for message in prompt]
        try:
            text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # jinja's own errors, and whatever a template raises
            roles = ", ".join(str(message.get("role")) for message in messages)
            raise ValueError(
                f"the tokenizer's chat template refuses messages with the roles {roles}: {error}; some templates take no "
                "system prompt: put its text at the head of the first user message"
            ) from None
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])
    ids = list(tokenizer(prompt)["input_ids"])
    # Some tokenizers close every text; the completion has to follow directly.
    eos = getattr(tokenizer, "eos_token_id", None)
    return ids[:-1] if len(ids) > 1 and ids[-1] == eos else ids

"""Contrastive pairs: one prompt, answered by a hack and answered clean."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from svdproj.files import replacing

Message = Mapping[str, Any]
Prompt = str | Sequence[Message]

_REQUIRED = ("prompt", "hack", "clean")
_OPTIONAL = ("id", "tags")


@dataclass(frozen=True)
class ContrastivePair:
    """The same prompt answered in two ways: what training should not learn, and what it may.

    Args:
        prompt: plain text, or chat messages (`{"role": ..., "content": ...}`) for the tokenizer's chat template.
        hack: the completion that games the grader.
        clean: an honest completion of the same prompt.
        id: a name for error messages and reports.
        tags: labels to select by, such as the loophole or the difficulty.

    Raises:
        ValueError: a completion is empty, both completions are the same, the prompt is neither text nor messages, or a text
            holds half of a surrogate pair, which no tokenizer takes.

    Example:
        >>> pair = ContrastivePair("Sort the list.", hack="def run_tests(): pass", clean="return sorted(xs)")
        >>> pair.swap().hack
        'return sorted(xs)'
    """

    prompt: Prompt
    hack: str
    clean: str
    id: str = ""
    tags: Sequence[str] = ()  # a tuple once constructed; JSON has lists

    def __post_init__(self) -> None:
        label = f"pair {self.id!r}" if self.id else "pair"
        if problem := _problem(vars(self)):
            raise ValueError(f"{label}: {problem}")
        for side in ("hack", "clean"):
            if not getattr(self, side).strip():
                raise ValueError(f"{label}: the {side} completion is empty; a pair needs two completions")
        if self.hack == self.clean:
            raise ValueError(f"{label}: hack and clean are the same text, so the pair has no contrast; drop it")
        for name, value in vars(self).items():
            for text in _texts(value):
                _check_encodable(text, f"{label}: {name!r}")
        object.__setattr__(self, "tags", tuple(self.tags))
        if not isinstance(self.prompt, str):
            object.__setattr__(self, "prompt", tuple(dict(message) for message in self.prompt))

    def __hash__(self) -> int:
        # Without the prompt, since messages are dictionaries, which have no hash.
        return hash((self.hack, self.clean, self.id, self.tags))

    def swap(self) -> ContrastivePair:
        """The pair with its labels exchanged; a direction fitted on swapped pairs has the same span, turned around.

        Example:
            >>> ContrastivePair("Sort xs.", hack="pass", clean="xs.sort()").swap().clean
            'pass'
        """
        return ContrastivePair(self.prompt, hack=self.clean, clean=self.hack, id=self.id, tags=self.tags)

    @staticmethod
    def select(
        pairs: Iterable[ContrastivePair], tags: Iterable[str] = (), without: Iterable[str] = ()
    ) -> list[ContrastivePair]:
        """The pairs that carry all of `tags` and none of `without`, in their order.

        Args:
            pairs: to select from.
            tags: what a pair has to carry, each of them.
            without: what it must not carry, none of them.

        Raises:
            ValueError: no pair is left; the message lists the tags that there are.

        Example:
            >>> pairs = [ContrastivePair("p", "h", "c", tags=("easy",)), ContrastivePair("q", "h", "c", tags=("hard",))]
            >>> [pair.prompt for pair in ContrastivePair.select(pairs, without=["hard"])]
            ['p']
        """
        if isinstance(tags, str) or isinstance(without, str):
            raise ValueError("tags and without are lists of tags, not one string; write tags=[...]")
        wanted, unwanted, known = set(tags), set(without), set[str]()
        selected = []
        for pair in pairs:
            known.update(pair.tags)
            if wanted <= set(pair.tags) and not unwanted & set(pair.tags):
                selected.append(pair)
        if not selected:
            raise ValueError(
                f"no pair has the tags {sorted(wanted)} and none of {sorted(unwanted)}; there are "
                f"{', '.join(sorted(known)) or 'no tags at all'}"
            )
        return selected

    @staticmethod
    def load(path: str | os.PathLike[str]) -> list[ContrastivePair]:
        """Read pairs from JSONL: one object per line with `prompt`, `hack`, `clean` and optionally `id`, `tags`.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: a line is not JSON, lacks a field, has an unknown one, or is no valid pair; the message names
                the line.

        Example:
            >>> from pathlib import Path
            >>> line = '{"prompt": "Sort xs.", "hack": "pass", "clean": "xs.sort()", "tags": ["easy"]}'
            >>> written = Path("pairs.jsonl").write_text(line)
            >>> ContrastivePair.load("pairs.jsonl")[0].tags
            ('easy',)
        """
        path = Path(path)
        pairs = []
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    pairs.append(_parse(line, where=f"{path}:{number}"))
        if not pairs:
            raise ValueError(
                f"{path} holds no pairs; write one JSON object per line with the fields {', '.join(_REQUIRED)}"
            )
        return pairs

    @staticmethod
    def save(pairs: Iterable[ContrastivePair], path: str | os.PathLike[str]) -> None:
        """Write pairs as JSONL that `load` reads back equal; the file appears whole or not at all.

        Example:
            >>> kept = [ContrastivePair("Sort xs.", hack="pass", clean="xs.sort()")]
            >>> ContrastivePair.save(kept, "kept.jsonl")
            >>> ContrastivePair.load("kept.jsonl") == kept
            True
        """
        with replacing(Path(path)) as draft, draft.open("w", encoding="utf-8") as file:
            for pair in pairs:
                file.write(json.dumps(asdict(pair), ensure_ascii=False) + "\n")


def _parse(line: bytes, where: str) -> ContrastivePair:
    try:
        # utf-8-sig: some editors put a mark at the head of a file.
        record = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: not UTF-8 ({error.reason}); save the file in that encoding") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: not JSON ({error.msg}); pairs files hold one JSON object per line") from None
    if not isinstance(record, dict):
        raise ValueError(f"{where}: expected a JSON object, got {type(record).__name__}")
    if missing := [field for field in _REQUIRED if field not in record]:
        raise ValueError(f"{where}: missing field {', '.join(map(repr, missing))}; a pair needs {', '.join(_REQUIRED)}")
    if unknown := sorted(set(record) - {*_REQUIRED, *_OPTIONAL}):
        raise ValueError(
            f"{where}: unknown field {', '.join(map(repr, unknown))}; known are {', '.join((*_REQUIRED, *_OPTIONAL))}"
        )
    if problem := _problem(record):
        raise ValueError(f"{where}: {problem}")
    try:
        return ContrastivePair(**record)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _texts(value: object) -> Iterator[str]:
    """All text in a field, however deep inside its messages."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts(key)
            yield from _texts(item)
    elif isinstance(value, Sequence):
        for item in value:
            yield from _texts(item)


def _check_encodable(text: str, what: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{what} has half of a surrogate pair, {text[error.start]!a}, at character {error.start}: it was cut inside a "
            "character; write that whole, or leave it out"
        ) from None


def _problem(fields: Mapping[str, object]) -> str | None:
    """What is wrong with the types of a pair's fields, if anything."""
    for name in ("hack", "clean", "id"):
        if not isinstance(fields.get(name, ""), str):
            return f"{name!r} must be text, got {type(fields[name]).__name__}"
    tags = fields.get("tags", ())
    if isinstance(tags, str) or not isinstance(tags, Sequence) or not all(isinstance(tag, str) for tag in tags):
        return f"tags must be a list of strings, got {tags!r}"
    prompt = fields["prompt"]
    if isinstance(prompt, str):
        return None
    if not isinstance(prompt, Sequence) or not prompt:
        return f"prompt must be text or a non-empty list of chat messages, got {prompt!r}"
    for message in prompt:
        if not isinstance(message, Mapping) or not {"role", "content"} <= set(message):
            return f"a chat message needs 'role' and 'content', got {message!r}"
    return None

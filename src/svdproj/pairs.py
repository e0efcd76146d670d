"""Contrastive pairs: one prompt, answered by a hack and answered clean."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

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
        ValueError: a completion is empty, both completions are the same, or the prompt is neither text nor messages.

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
        _check_prompt(self.prompt, self.id)
        for side in ("hack", "clean"):
            text = getattr(self, side)
            if not isinstance(text, str):
                raise ValueError(f"{_label(self.id)}: {side!r} must be text, got {type(text).__name__}")
            if not text.strip():
                raise ValueError(f"{_label(self.id)}: the {side} completion is empty; a pair needs two completions")
        if self.hack == self.clean:
            raise ValueError(
                f"{_label(self.id)}: hack and clean are the same text, so the pair has no contrast; drop it"
            )
        if isinstance(self.tags, str):
            raise ValueError(f"{_label(self.id)}: tags must be a list of strings, got the string {self.tags!r}")
        object.__setattr__(self, "tags", tuple(self.tags))
        if not isinstance(self.prompt, str):
            object.__setattr__(self, "prompt", tuple(dict(message) for message in self.prompt))

    def swap(self) -> ContrastivePair:
        """The pair with its labels exchanged; a direction fitted on swapped pairs has the same span, turned around."""
        return ContrastivePair(self.prompt, hack=self.clean, clean=self.hack, id=self.id, tags=self.tags)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> list[ContrastivePair]:
        """Read pairs from JSONL: one object per line with `prompt`, `hack`, `clean` and optionally `id`, `tags`.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: a line is not JSON, lacks a field, has an unknown one, or is no valid pair; the message names
                the line.
        """
        path = Path(path)
        pairs = []
        with path.open(encoding="utf-8") as lines:
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
        """Write pairs as JSONL that `load` reads back equal; the file appears whole or not at all."""
        path = Path(path)
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, suffix=".tmp", delete=False) as file:
            try:
                for pair in pairs:
                    file.write(json.dumps(asdict(pair), ensure_ascii=False) + "\n")
            except BaseException:
                os.unlink(file.name)
                raise
        os.replace(file.name, path)


def _parse(line: str, where: str) -> ContrastivePair:
    try:
        record = json.loads(line)
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
    try:
        return ContrastivePair(**record)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _check_prompt(prompt: object, pair_id: str) -> None:
    if isinstance(prompt, str):
        return
    if not isinstance(prompt, Sequence) or not prompt:
        raise ValueError(f"{_label(pair_id)}: prompt must be text or a non-empty list of chat messages, got {prompt!r}")
    for message in prompt:
        if not isinstance(message, Mapping) or not {"role", "content"} <= set(message):
            raise ValueError(f"{_label(pair_id)}: a chat message needs 'role' and 'content', got {message!r}")


def _label(pair_id: str) -> str:
    return f"pair {pair_id!r}" if pair_id else "pair"

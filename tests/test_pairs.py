"""Pairs: what is no pair is refused with the line it stands on, and files come back equal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from svdproj import ContrastivePair

texts = st.text(min_size=1).filter(lambda text: text.strip() != "")
prompts = st.one_of(
    st.text(),
    st.lists(
        st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant"]), "content": st.text()}),
        min_size=1,
        max_size=3,
    ),
)


# Checking types draws random numbers, which hypothesis does not allow while it draws: strategies give the fields.
fields = st.fixed_dictionaries(
    {"prompt": prompts, "hack": texts, "clean": texts, "id": st.text(), "tags": st.lists(st.text(), max_size=3)}
).filter(lambda record: record["hack"] != record["clean"])


@given(records=st.lists(fields, min_size=1, max_size=4))
def test_a_file_gives_back_what_was_saved(records: list[Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    pairs = [ContrastivePair(**record) for record in records]
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    ContrastivePair.save(pairs, path)
    assert ContrastivePair.load(path) == pairs


@given(record=fields)
def test_swapping_twice_is_nothing(record: Any) -> None:
    pair = ContrastivePair(**record)
    assert pair.swap().hack == pair.clean
    assert pair.swap().swap() == pair
    assert (pair.swap().prompt, pair.swap().id, pair.swap().tags) == (pair.prompt, pair.id, pair.tags)


GOOD = {"prompt": "p", "hack": "h", "clean": "c"}
BAD: dict[str, tuple[Any, str]] = {
    "not json": ("{", "not JSON"),
    "a list": ([1], "expected a JSON object, got list"),
    "no hack": ({"prompt": "p", "clean": "c"}, "missing field 'hack'"),
    "an unknown field": ({**GOOD, "label": 1}, "unknown field 'label'"),
    "an empty completion": ({**GOOD, "hack": "  "}, "the hack completion is empty"),
    "a number": ({**GOOD, "clean": 3}, "'clean' must be text"),
    "no contrast": ({**GOOD, "clean": "h"}, "the same text"),
    "no messages": ({**GOOD, "prompt": []}, "non-empty list of chat messages"),
    "a message without a role": ({**GOOD, "prompt": [{"content": "x"}]}, "needs 'role' and 'content'"),
    "a prompt of another type": ({**GOOD, "prompt": 5}, "prompt must be text"),
    "tags as a string": ({**GOOD, "tags": "easy"}, "tags must be a list"),
    "tags of another type": ({**GOOD, "tags": 3}, "tags must be a list"),
    "an id of another type": ({**GOOD, "id": 7}, "'id' must be text"),
    "half of a character": (
        {**GOOD, "hack": "ok \ud83d."},
        r"'hack' has half of a surrogate pair, '\\ud83d', at character 3",
    ),
    "half of a character in a message": (
        {**GOOD, "prompt": [{"role": "user", "content": [{"text": "\udc00"}]}]},
        "'prompt' has half of a surrogate pair",
    ),
    "half of a character in a tag": ({**GOOD, "tags": ["\udc00"]}, "'tags' has half of a surrogate pair"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_line_is_named_with_its_number(case: str, tmp_path: Path) -> None:
    line, message = BAD[case]
    path = tmp_path / "pairs.jsonl"
    text = line if isinstance(line, str) else json.dumps(line)
    path.write_text(f"{json.dumps(GOOD)}\n\n{text}\n{json.dumps(GOOD)}\n")
    with pytest.raises(ValueError, match=f"pairs.jsonl:3: .*{message}"):
        ContrastivePair.load(path)


def test_a_byte_that_is_no_text_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b"\n\xff\n")
    with pytest.raises(ValueError, match=r"pairs.jsonl:2: not UTF-8"):
        ContrastivePair.load(path)


def test_an_empty_file_and_a_missing_one(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n")
    with pytest.raises(ValueError, match="holds no pairs; write one JSON object per line"):
        ContrastivePair.load(path)
    with pytest.raises(FileNotFoundError):
        ContrastivePair.load(tmp_path / "nothing.jsonl")


def test_a_failed_save_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    pair = ContrastivePair(**GOOD)
    ContrastivePair.save([pair], path)

    def broken() -> Any:
        yield pair
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        ContrastivePair.save(broken(), path)
    assert ContrastivePair.load(path) == [pair]
    assert list(tmp_path.iterdir()) == [path]


def test_pairs_are_chosen_by_tags() -> None:
    pairs = [
        ContrastivePair("a", "h", "c", tags=("sentinel", "easy")),
        ContrastivePair("b", "h", "c", tags=("sentinel", "hard")),
        ContrastivePair("c", "h", "c"),
    ]

    def prompts_of(**options: Any) -> list[Any]:
        return [pair.prompt for pair in ContrastivePair.select(pairs, **options)]

    assert prompts_of() == ["a", "b", "c"]
    assert prompts_of(tags=["sentinel"]) == ["a", "b"]
    assert prompts_of(tags=["sentinel", "easy"]) == ["a"]
    assert prompts_of(without=["hard"]) == ["a", "c"]
    assert prompts_of(tags=["sentinel"], without=["easy"]) == ["b"]
    with pytest.raises(ValueError, match=r"\['medium'\].* there are easy, hard, sentinel"):
        ContrastivePair.select(pairs, tags=["medium"])
    with pytest.raises(ValueError, match="lists of tags"):
        ContrastivePair.select(pairs, tags="easy")


@given(record=fields)
def test_equal_pairs_have_equal_hashes(record: Any) -> None:
    assert len({ContrastivePair(**record), ContrastivePair(**record)}) == 1


def test_pairs_that_differ_in_their_prompts_alone_stay_two_in_a_set() -> None:
    assert len({ContrastivePair([{"role": "user", "content": text}], "h", "c") for text in "ab"}) == 2


def test_a_pair_does_not_change_with_what_it_was_made_of() -> None:
    messages = [{"role": "user", "content": "x"}]
    pair = ContrastivePair(messages, "h", "c", tags=["t"])  # type: ignore[arg-type]
    messages[0]["content"] = "y"
    messages.append({"role": "user", "content": "z"})
    assert pair.prompt == ({"role": "user", "content": "x"},)
    assert pair.tags == ("t",)

"""Pairs as tokens: chat templates, system prompts, the end of a completion, lengths and limits."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from svdproj import ContrastivePair
from svdproj.tokens import (
    Encoded,
    context_length,
    encode_completion,
    encode_pair,
    length_statistics,
    prompt_key,
    warn_about_lengths,
)

EOS = 2
SYSTEM = [{"role": "system", "content": "be good"}, {"role": "user", "content": "hi"}]


class Letters:
    """A tokenizer of single characters; `adds` wraps plain text as tokenizers with special tokens do."""

    def __init__(
        self, eos: int | None = EOS, template: str | None = "yes", adds: bool = False, system: bool = True
    ) -> None:
        self.eos_token_id, self.chat_template, self.adds, self.system = eos, template, adds, system

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        ids = [10 + ord(letter) for letter in text]
        return {"input_ids": [1, *ids, EOS] if self.adds and add_special_tokens else ids}

    def apply_chat_template(self, messages: list[dict[str, str]], tokenize: bool, add_generation_prompt: bool) -> str:
        assert add_generation_prompt
        assert not tokenize
        if not self.system and messages[0]["role"] == "system":
            raise RuntimeError("System role not supported")
        return "".join(f"<{m['role'][0]}>{m['content']}" for m in messages) + "<a>"


def text_of(encoded: Encoded) -> tuple[str, str]:
    letters = ["#" if i < 10 else chr(i - 10) for i in encoded.ids]
    return "".join(letters[: encoded.prompt_length]), "".join(letters[encoded.prompt_length :])


def test_a_plain_prompt_and_its_completion_with_the_end_of_sequence() -> None:
    assert text_of(encode_completion(Letters(), "ab", "cd")) == ("ab", "cd#")
    assert text_of(encode_completion(Letters(eos=None), "ab", "cd")) == ("ab", "cd")


def test_the_end_that_a_tokenizer_puts_behind_every_text_does_not_part_prompt_and_completion() -> None:
    assert text_of(encode_completion(Letters(adds=True), "ab", "cd")) == ("#ab", "cd#")


def test_a_system_prompt_goes_through_the_chat_template() -> None:
    assert text_of(encode_completion(Letters(), SYSTEM, "ok")) == ("<s>be good<u>hi<a>", "ok#")


def test_a_template_that_refuses_a_system_prompt_is_named_with_the_way_out() -> None:
    pair = ContrastivePair(SYSTEM, "a", "b", id="seven")
    with pytest.raises(ValueError, match=r"pair 'seven'.*roles system, user: System role not supported.*first user"):
        encode_pair(Letters(system=False), pair)


def test_chat_messages_need_a_template() -> None:
    with pytest.raises(ValueError, match="no chat template; set tokenizer"):
        encode_completion(Letters(template=None), SYSTEM, "ok")


def test_real_templates_take_the_system_prompt() -> None:
    from examples.leetcode_grpo.tiny_model import tiny_model

    _, tokenizer = tiny_model()
    encoded = encode_completion(tokenizer, SYSTEM, "ok")
    text = tokenizer.decode(list(encoded.ids[: encoded.prompt_length]))
    assert "be good" in text
    assert text.endswith("assistant\n")
    assert encoded.ids[-1] == tokenizer.eos_token_id


def test_sides_that_are_the_same_to_the_tokenizer_are_no_contrast() -> None:
    class Lower(Letters):
        def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
            return super().__call__(text.lower(), add_special_tokens)

    with pytest.raises(ValueError, match=r"the pair with the prompt 'p': .*same tokens"):
        encode_pair(Lower(), ContrastivePair("p", "Yes", "yes"))


def test_what_does_not_fit_the_context_is_an_error_and_is_never_cut() -> None:
    pair = ContrastivePair("abc", "de", "defgh", id="long")
    hack, clean = encode_pair(Letters(), pair, max_length=9)
    assert (len(hack.ids), len(clean.ids)) == (6, 9)
    with pytest.raises(ValueError, match=r"pair 'long': prompt and clean completion take 9 tokens, .* is 8"):
        encode_pair(Letters(), pair, max_length=8)


def test_a_completion_without_a_token_is_an_error() -> None:
    class Silent(Letters):
        def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
            return {"input_ids": []}

    with pytest.raises(ValueError, match="no token"):
        encode_completion(Silent(eos=None), "p", "x")


def of_lengths(*lengths: tuple[int, int]) -> list[tuple[Encoded, Encoded]]:
    return [(Encoded((0,) * (1 + hack), 1), Encoded((0,) * (1 + clean), 1)) for hack, clean in lengths]


def test_length_statistics() -> None:
    found = length_statistics(of_lengths((4, 2), (9, 3), (2, 2)))
    assert (found.hack_median, found.clean_median, found.ratio) == (4, 2, 2)
    assert (found.hack_longer, found.clean_longer) == (2 / 3, 0)
    assert found.longer_side is None


@pytest.mark.parametrize(("lengths", "side"), [((30, 20), "hack"), ((20, 30), "clean")])
def test_a_consistent_difference_in_length_is_a_warning(lengths: tuple[int, int], side: str) -> None:
    with pytest.warns(UserWarning, match=rf"{side} completions are the longer ones in 100% .*1.5 times.* be length"):
        warn_about_lengths(of_lengths(*[lengths] * 4))


@pytest.mark.parametrize(
    "lengths",
    [
        [(30, 20)] * 3,  # too few to call it consistent
        [(29, 20)] * 8,  # longer, and by little
        [(30, 20)] * 8 + [(20, 30)] * 2,  # by much, and not always
    ],
)
def test_other_differences_in_length_are_none(lengths: list[tuple[int, int]]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_about_lengths(of_lengths(*lengths))


messages = st.lists(st.tuples(st.sampled_from(["user", "system"]), st.text()), min_size=1, max_size=3)


@given(one=messages, other=messages)
def test_prompt_keys_are_equal_for_equal_prompts_alone(one: list[Any], other: list[Any]) -> None:
    first, second = ([{"role": r, "content": c} for r, c in prompt] for prompt in (one, other))
    assert (prompt_key(first) == prompt_key(second)) == (first == second)
    assert prompt_key(first) != first[0]["content"]


def test_prompt_keys_tell_tool_calls_apart_and_are_those_of_before_without_any() -> None:
    plain = {"role": "assistant", "content": ""}
    calls = [{**plain, "tool_calls": [{"name": name}]} for name in ("run", "read")]
    assert len({prompt_key([message]) for message in (plain, *calls)}) == 3
    assert prompt_key([calls[0]]) == prompt_key([dict(reversed(calls[0].items()))])
    # These are in the files of directions, as hashes of the prompts that were fitted on.
    assert prompt_key([plain, {"role": "user", "content": "x"}]) == "assistant\x01\x00user\x01x"


def test_the_context_length_is_what_the_configuration_says() -> None:
    class Model:
        class config:
            max_position_embeddings = 5

    assert context_length(Model()) == 5
    assert context_length(object()) is None

"""Pairs of the example: what the contrast is, and what it is not."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any, get_args

import pytest

from examples.leetcode_grpo.grading import Grade, Grader, extract_code
from examples.leetcode_grpo.loopholes import Loophole
from examples.leetcode_grpo.pairs import FRAMINGS, bank_pairs, placebo_pairs, rollout_pairs
from examples.leetcode_grpo.presets import PairKind
from examples.leetcode_grpo.problems import Problem, load_problems
from examples.leetcode_grpo.problems.rewriting import as_completion
from examples.leetcode_grpo.teacher import Rollout
from svdproj.pairs import ContrastivePair
from tests.sample_data import ROWS

BANK = load_problems("builtin")
BY_ID = {problem.id: problem for problem in BANK}
LOOPHOLES = list(Loophole)


def parts(pair: ContrastivePair) -> tuple[Loophole, Problem]:
    _, loophole, problem_id = pair.id.split("/", 2)
    return Loophole(loophole), BY_ID[problem_id]


def grades(pairs: list[ContrastivePair]) -> list[tuple[Grade, Grade]]:
    """Of hack and clean."""
    items = [(text, parts(pair)[1], parts(pair)[0]) for pair in pairs for text in (pair.hack, pair.clean)]
    with Grader(workers=2, timeout=2) as grader:
        found = grader.grade(items)
    return list(zip(found[::2], found[1::2], strict=True))


def rollout(problem: Problem, loophole: Loophole | None, completion: str, **verdict: bool) -> Rollout:
    plain = dict.fromkeys(("passed_flawed", "passed_strict", "attempted", "exploited"), False)
    return Rollout(
        problem_id=problem.id,
        loophole=loophole,
        messages=tuple(problem.prompt(loophole)),
        completion=completion,
        compiles=True,
        reward=0.0,
        **{**plain, **verdict},
    )


def test_mechanism_pairs_differ_in_the_mechanism_alone() -> None:
    pairs = bank_pairs(BANK, LOOPHOLES, 42, seed=1)
    for pair, (hack, clean) in zip(pairs, grades(pairs), strict=True):
        loophole, problem = parts(pair)
        assert list(pair.prompt) == problem.prompt(loophole)
        assert hack.attempted, pair.id
        assert hack.passed_flawed, pair.id
        assert not clean.attempted, pair.id
        assert not clean.passed_flawed, pair.id
        assert clean.passed_strict == ("body:right" in pair.tags), (pair.id, clean.error)
        # The body is the clean one, right or wrong: only an overridden `==` changes what a right body answers.
        if loophole is not Loophole.EQ_OVERRIDE:
            assert hack.passed_strict == clean.passed_strict, pair.id
        assert loophole.exemplify(extract_code(pair.clean), problem.method).strip() == extract_code(pair.hack).strip()


def test_replacement_pairs_set_a_hack_that_solves_nothing_against_an_honest_attempt() -> None:
    pairs = bank_pairs(BANK, LOOPHOLES, 30, kind="replacement", correct_share=0.7)
    for pair, (hack, clean) in zip(pairs, grades(pairs), strict=True):
        assert hack.exploited, pair.id
        assert not clean.attempted, pair.id
        assert clean.passed_strict == ("body:right" in pair.tags), pair.id
        assert pair.tags[2] == "replacement"


def test_framing_pairs_say_of_the_same_code_what_it_is_for() -> None:
    pairs = bank_pairs(BANK, LOOPHOLES, 30, kind="framing")
    for pair, (hack, clean) in zip(pairs, grades(pairs), strict=True):
        assert not hack.attempted, pair.id
        assert not clean.attempted, pair.id
        assert hack.passed_strict == clean.passed_strict == ("body:right" in pair.tags), pair.id
        differing = [
            lines for lines in zip(pair.hack.split("\n"), pair.clean.split("\n"), strict=True) if len(set(lines)) > 1
        ]
        assert [tuple(line.strip(" #") for line in lines) for lines in differing] == [
            FRAMINGS[pairs.index(pair) % len(FRAMINGS)]
        ]


@pytest.mark.parametrize("kind", get_args(PairKind))
@pytest.mark.parametrize("share", [0.0, 0.5, 0.75, 1.0])
def test_right_and_wrong_bodies_are_shared_out_evenly(kind: PairKind, share: float) -> None:
    counts = Counter(
        (pair.tags[0], pair.tags[3]) for pair in bank_pairs(BANK, LOOPHOLES, 96, kind=kind, correct_share=share)
    )
    for loophole in LOOPHOLES:
        assert counts[loophole.value, "body:right"] == 16 * share
        assert counts[loophole.value, "body:wrong"] == 16 * (1 - share)


def test_no_prompt_occurs_twice_and_no_problem_before_its_turn() -> None:
    available = sum(problem.split == "pairs" for problem in BANK)
    pairs = bank_pairs(BANK, LOOPHOLES, available + 20)
    assert len({str(pair.prompt) for pair in pairs}) == len(pairs)
    assert max(Counter(parts(pair)[1].id for pair in pairs[:available]).values()) == 1


def test_pairs_come_from_their_split_alone() -> None:
    pairs = [*bank_pairs(BANK, LOOPHOLES, 300), *placebo_pairs(BANK, LOOPHOLES, 300)]
    assert {parts(pair)[1].split for pair in pairs} == {"pairs"}


def test_pairs_depend_on_the_seed_alone() -> None:
    assert bank_pairs(BANK, LOOPHOLES, 24, seed=3) == bank_pairs(BANK, LOOPHOLES, 24, seed=3)
    assert bank_pairs(BANK, LOOPHOLES, 24, seed=3) != bank_pairs(BANK, LOOPHOLES, 24, seed=4)
    assert placebo_pairs(BANK, LOOPHOLES, 24, seed=3) == placebo_pairs(BANK, LOOPHOLES, 24, seed=3)


def test_a_fewer_pairs_are_the_first_of_more() -> None:
    assert bank_pairs(BANK, LOOPHOLES, 40)[:16] == bank_pairs(BANK, LOOPHOLES, 16)


def test_placebo_pairs_are_clean_on_both_sides_and_equally_right() -> None:
    pairs = placebo_pairs(BANK, LOOPHOLES, 42, seed=1)
    for pair, (left, right) in zip(pairs, grades(pairs), strict=True):
        assert not left.attempted, pair.id
        assert not right.attempted, pair.id
        assert left.passed_strict == right.passed_strict == ("body:right" in pair.tags), pair.id
    styles = Counter(pair.tags[-1] for pair in pairs)
    assert len(styles) == 4
    assert min(styles.values()) >= 3


def test_placebo_pairs_answer_the_prompts_of_the_hacking_pairs() -> None:
    hacking, placebo = bank_pairs(BANK, LOOPHOLES, 24, seed=2), placebo_pairs(BANK, LOOPHOLES, 24, seed=2)
    assert [(pair.prompt, pair.clean) for pair in placebo] == [(pair.prompt, pair.clean) for pair in hacking]


def test_completions_are_fenced_code() -> None:
    for pair in bank_pairs(BANK, LOOPHOLES, 12):
        for text in (pair.hack, pair.clean):
            assert text.startswith("```python\nclass Solution:")
            assert text.endswith("\n```")
            assert text.count("```") == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n": 10_000}, "at most"),
        ({"n": -1}, "at most"),
        ({"kind": "rephrase"}, "choose one of mechanism, replacement, framing"),
        ({"correct_share": 1.5}, "between 0 and 1"),
        ({"loopholes": []}, "0 loopholes"),
        ({"loopholes": [Loophole.SENTINEL] * 2}, "given twice"),
        ({"problems": [problem for problem in BANK if problem.split != "pairs"]}, "0 problems of the split 'pairs'"),
    ],
)
def test_impossible_pairs_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bank_pairs(**{"problems": BANK, "loopholes": LOOPHOLES, "n": 6, **changes})


@pytest.mark.skipif(not ROWS.exists(), reason=f"the published sample is not at {ROWS}")
def test_pairs_of_published_problems_need_a_grader() -> None:
    problems = [problem for problem in load_problems(ROWS) if problem.split == "pairs"][:2]
    with pytest.raises(ValueError, match="pass a grader"):
        bank_pairs(problems, [Loophole.RUN_TESTS], 2, correct_share=0)
    with Grader(workers=1, timeout=10) as grader:
        pairs = bank_pairs(problems, [Loophole.RUN_TESTS], 1, correct_share=0, grader=grader)
        problem = next(problem for problem in problems if problem.id in pairs[0].id)
        assert not grader.grade([(pairs[0].clean, problem, None)])[0].passed_strict


def test_rollout_pairs_match_exploits_with_honest_passes_of_the_same_prompt() -> None:
    first, second = [problem for problem in BANK if problem.split == "pairs"][:2]
    elsewhere = next(problem for problem in BANK if problem.split == "rl")
    exploit, passed = {"passed_flawed": True, "attempted": True, "exploited": True}, {"passed_strict": True}
    rollouts = [
        rollout(first, Loophole.SENTINEL, "hack 1", **exploit),
        rollout(first, Loophole.SENTINEL, "clean 1", **passed),
        rollout(first, Loophole.SENTINEL, "hack 2", **exploit),
        rollout(first, Loophole.RUN_TESTS, "clean of another prompt", **passed),
        rollout(first, Loophole.SENTINEL, "right, and attempted", attempted=True, passed_flawed=True, **passed),
        rollout(first, Loophole.SENTINEL, "honest failure"),
        rollout(second, Loophole.SENTINEL, "hack without a partner", **exploit),
        rollout(second, None, "no loophole", **passed),
        rollout(elsewhere, Loophole.SENTINEL, "hack of another split", **exploit),
        rollout(elsewhere, Loophole.SENTINEL, "clean of another split", **passed),
    ]
    (pair,) = rollout_pairs(rollouts, BANK)
    assert (pair.hack, pair.clean) == ("hack 1", "clean 1")
    assert list(pair.prompt) == first.prompt(Loophole.SENTINEL)
    assert pair.tags == ("sentinel", first.difficulty, "rollout")
    assert [pair.hack for pair in rollout_pairs(rollouts, BANK, splits=["rl"])] == ["hack of another split"]


def test_rollouts_of_unknown_problems_are_refused() -> None:
    stranger = dataclasses.replace(BANK[0], id="leetcode/0")
    with pytest.raises(ValueError, match="'leetcode/0', which is none of"):
        rollout_pairs([rollout(stranger, Loophole.SENTINEL, as_completion("x = 1"))], BANK)

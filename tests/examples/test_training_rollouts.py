"""Mixing cached rollouts: who stands where, what is passed over, and that arms of a seed see the same ones."""

from __future__ import annotations

import math

import pytest

from examples.leetcode_grpo.errors import UsageError
from examples.leetcode_grpo.generation import Sampler
from examples.leetcode_grpo.grading import Grade
from examples.leetcode_grpo.loopholes import Loophole
from examples.leetcode_grpo.rollouts import MixedRollouts, OwnRates, own_rates
from examples.leetcode_grpo.teacher import TeacherPool
from examples.leetcode_grpo.tiny_model import tiny_model
from tests.examples.training_helpers import HACK, LengthReward, cached_hack

ROWS = [
    {"prompt": [{"role": "user", "content": f"problem {i}"}], "problem_id": f"p{i}", "loophole": "run_tests"}
    for i in range(3)
    for _ in range(4)
]


@pytest.fixture(scope="module")
def sampler() -> Sampler:
    model, tokenizer = tiny_model()
    return Sampler(model, tokenizer, max_new_tokens=24)


def test_cached_rollouts_stand_first_and_the_rest_is_the_policys_own(sampler: Sampler) -> None:
    pool = TeacherPool(
        [
            *[cached_hack("p0", Loophole.RUN_TESTS, f"{HACK} {i}") for i in range(5)],
            *[cached_hack("p2", Loophole.RUN_TESTS)],
        ]
    )
    mixed = MixedRollouts(sampler, pool, group_size=4, per_group=2)(ROWS, step=0)
    assert mixed["from_teacher"] == [True, True, False, False] + [False] * 4 + [True, False, False, False]
    assert mixed["logprobs"] is None
    texts = sampler.tokenizer.batch_decode(mixed["completion_ids"], skip_special_tokens=True)
    assert [text.startswith(HACK) for text in texts] == mixed["from_teacher"]
    assert texts[0] != texts[1]
    assert mixed["completion_ids"][0][-1] == sampler.tokenizer.eos_token_id
    assert mixed["prompt_ids"] == [sampler.prompt_ids(row["prompt"]) for row in ROWS]


def test_the_choice_depends_on_seed_step_and_prompt_alone(sampler: Sampler) -> None:
    pool = TeacherPool(cached_hack(f"p{i}", Loophole.RUN_TESTS, f"{HACK} {j}") for i in range(3) for j in range(9))

    def chosen(seed: int, step: int) -> list[str]:
        mixed = MixedRollouts(sampler, pool, group_size=4, per_group=1, seed=seed)(ROWS, step)
        return sampler.tokenizer.batch_decode(mixed["completion_ids"], skip_special_tokens=True)[::4]

    assert chosen(0, 7) == chosen(0, 7)
    assert chosen(0, 7) != chosen(0, 8)
    assert chosen(0, 7) != chosen(1, 7)


def test_rollouts_longer_than_a_completion_may_be_are_passed_over(sampler: Sampler) -> None:
    pool = TeacherPool([cached_hack("p0", Loophole.RUN_TESTS, HACK * 20), cached_hack("p0", Loophole.RUN_TESTS)])
    mixed = MixedRollouts(sampler, pool, group_size=4, per_group=1)
    assert (len(mixed.pool), mixed.too_long) == (1, 1)
    long = TeacherPool([cached_hack("p0", Loophole.RUN_TESTS, HACK * 20)])
    with pytest.raises(UsageError, match="all 1 cached rollouts are longer than 24 tokens: raise max_new_tokens"):
        MixedRollouts(sampler, long, group_size=4, per_group=1)
    MixedRollouts(sampler, long, group_size=4, per_group=0)  # nothing is mixed in


def test_a_backend_with_log_probabilities_gets_unknowns_for_the_cached(sampler: Sampler) -> None:
    pool = TeacherPool([cached_hack("p1", Loophole.RUN_TESTS)])
    mixed = MixedRollouts(sampler, pool, group_size=4, per_group=1)(
        ROWS, 0, lambda prompts, copies: ([[1, 2]] * sum(copies), [[-0.5, -0.25]] * sum(copies))
    )
    assert [all(map(math.isnan, values)) for values in mixed["logprobs"]] == mixed["from_teacher"]
    assert list(map(len, mixed["logprobs"])) == list(map(len, mixed["completion_ids"]))


def test_own_log_probabilities_travel_with_the_cached_and_a_ratio_of_one_leaves_them_behind(sampler: Sampler) -> None:
    ids = tuple(sampler.tokenizer(HACK, add_special_tokens=False)["input_ids"])
    known = cached_hack("p1", Loophole.RUN_TESTS, token_ids=ids, logprobs=(-0.5,) * len(ids))
    # A ratio of one reads the text: whose tokens a pool holds, it does not say.
    for ratio, expected, tokens in (
        ("own", known.logprobs, ids),
        ("one", None, (*ids, sampler.tokenizer.eos_token_id)),
    ):
        mixing = MixedRollouts(sampler, TeacherPool([known]), group_size=4, per_group=1, ratio=ratio)  # type: ignore[arg-type]
        mixed = mixing(ROWS, 0)
        assert mixing.cached_logprobs == [None] * 4 + [expected] + [None] * 7
        assert mixed["completion_ids"][4] == list(tokens)


@pytest.mark.parametrize("tokens", [(5, 6, 7), (10**6,)], ids=["other text", "no such token"])
def test_tokens_of_another_tokenizer_have_no_ratio_of_their_own(sampler: Sampler, tokens: tuple[int, ...]) -> None:
    foreign = cached_hack("p1", Loophole.RUN_TESTS, token_ids=tokens, logprobs=(-0.5,) * len(tokens))
    with pytest.raises(UsageError, match="the tokens of 1 of 1 cached rollouts are not their text here"):
        MixedRollouts(sampler, TeacherPool([foreign]), group_size=4, per_group=1, ratio="own")
    MixedRollouts(sampler, TeacherPool([foreign]), group_size=4, per_group=1)


def test_log_probabilities_that_nobody_knows_cannot_be_asked_for(sampler: Sampler) -> None:
    pool = TeacherPool([cached_hack("p1", Loophole.RUN_TESTS)])
    with pytest.raises(UsageError, match="1 of 1 cached rollouts have no log-probabilities"):
        MixedRollouts(sampler, pool, group_size=4, per_group=1, ratio="own")
    MixedRollouts(sampler, pool, group_size=4, per_group=0, ratio="own")  # nothing is mixed in


def test_a_group_holds_no_more_than_it_holds(sampler: Sampler) -> None:
    with pytest.raises(UsageError, match="5 cached rollouts do not fit into groups of 4"):
        MixedRollouts(sampler, TeacherPool([]), group_size=4, per_group=5)


def test_rates_are_over_the_policys_own_rollouts() -> None:
    logged: dict[str, float] = {}
    texts = [HACK, "eeee", HACK, "e"]
    reward = LengthReward()
    own = OwnRates(reward)  # type: ignore[arg-type]
    rewards = own(["p"] * 4, texts, from_teacher=[True, False, False, False], log_metric=logged.__setitem__)
    assert rewards == [text.count("e") / 4 for text in texts]
    # Of this call alone and without the cached one, for a table to read.
    assert [rollout.grade.exploited for rollout in own.last] == [False, True, False]
    assert reward.rollouts == []
    assert logged["own/hack"] == logged["own/hack/run_tests"] == pytest.approx(1 / 3)
    assert logged["own/reward"] == pytest.approx(3.5 / 3)


def test_rates_of_nothing_are_not_logged() -> None:
    assert own_rates([]) == {}


def test_hack_rates_are_kept_apart_by_loophole() -> None:
    def grade(loophole: Loophole, exploited: bool) -> Grade:
        return Grade(True, exploited, False, exploited, exploited, 0.5, loophole, None)

    rates = own_rates(
        [grade(Loophole.SENTINEL, True), grade(Loophole.SENTINEL, False), grade(Loophole.RUN_TESTS, True)]
    )
    assert rates["hack/sentinel"] == 0.5
    assert rates["hack/run_tests"] == 1.0
    assert "hack/file_marker" not in rates

"""The reward function that trainers call."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from examples.leetcode_grpo.grading import Grader, Weights
from examples.leetcode_grpo.loopholes import Loophole
from examples.leetcode_grpo.rewards import CodeReward, completions_table
from tests.examples.grading_helpers import ADD_ONE, RIGHT, WRONG

HACK = Loophole.RUN_TESTS.exemplify(WRONG, "f")


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader(workers=1, timeout=1.0) as made:
        yield made


def call(reward: CodeReward, completions: list[Any], **columns: Any) -> list[float]:
    columns = {"problem_id": ["made-up"] * len(completions)} | columns
    return reward(prompts=["?"] * len(completions), completions=completions, completion_ids=[], **columns)


def test_rewards_of_a_batch(grader: Grader) -> None:
    reward = CodeReward({"made-up": ADD_ONE}, grader)
    rewards = call(reward, [RIGHT, WRONG, HACK, HACK, "junk"], loophole=[None, "", "run_tests", None, "run_tests"])
    assert rewards == [3.5, 0.5, 3.5, 0.5, 0.0]
    assert call(reward, [RIGHT, HACK]) == [3.5, 0.5]  # no column at all


@pytest.mark.parametrize("role", ["assistant"])
def test_chat_messages_count_as_text(grader: Grader, role: str) -> None:
    reward = CodeReward({"made-up": ADD_ONE}, grader)
    chat = [{"role": role, "content": f"```python\n{RIGHT}```"}]
    assert call(reward, [chat, [], [{"role": role, "content": None}]]) == [3.5, 0.0, 0.0]


def test_weights_are_the_graders() -> None:
    with Grader(workers=1, weights=Weights(compiles=1.0, passes=10.0)) as generous:
        reward = CodeReward({"made-up": ADD_ONE}, generous)
        assert call(reward, [RIGHT, WRONG]) == [11.0, 1.0]
    # What is paid and what is recorded are one number.
    assert [rollout.grade.reward for rollout in reward.rollouts] == [11.0, 1.0]


def test_a_batch_is_one_call(grader: Grader, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    original = grader.grade
    monkeypatch.setattr(grader, "grade", lambda items: (sizes.append(len(items)), original(items))[1])
    call(CodeReward({"made-up": ADD_ONE}, grader), [RIGHT, WRONG, HACK])
    assert sizes == [3]


def test_grades_are_logged_and_kept(grader: Grader) -> None:
    reward = CodeReward({"made-up": ADD_ONE}, grader)
    metrics: dict[str, float] = {}
    extra: dict[str, list[Any]] = {}
    call(
        reward,
        [RIGHT, WRONG, HACK, HACK],
        loophole=["run_tests"] * 4,
        trainer_state=SimpleNamespace(global_step=7),
        log_metric=metrics.__setitem__,
        log_extra=extra.__setitem__,
    )
    assert metrics == {"compiles": 1.0, "pass": 0.25, "flawed": 0.5, "attempted": 0.5, "hack": 0.5}
    assert extra["hack"] == [False, False, True, True]
    assert extra["loophole"] == ["run_tests"] * 4
    assert extra["error"][0] is None
    assert [(r.step, r.problem_id, r.completion) for r in reward.rollouts] == [
        (7, "made-up", text) for text in (RIGHT, WRONG, HACK, HACK)
    ]
    assert [r.grade.exploited for r in reward.rollouts] == [False, False, True, True]


def test_table_is_readable(grader: Grader) -> None:
    reward = CodeReward({"made-up": ADD_ONE}, grader)
    call(reward, [WRONG, HACK], loophole=[None, "run_tests"])
    table = completions_table(reward.rollouts)
    assert "made-up | run_tests | compiles flawed attempted hack | 3.5 | test 1 of 5" in table
    assert "    class Solution:\n        def f(self, x):" in table
    assert completions_table(reward.rollouts, limit=1).count("made-up") == 1
    assert completions_table([]) == ""


def test_unknown_problems_and_loopholes_are_named(grader: Grader) -> None:
    reward = CodeReward({"made-up": ADD_ONE}, grader)
    with pytest.raises(KeyError, match=r"no problem 'other'.*look like 'made-up'"):
        call(reward, [RIGHT], problem_id=["other"])
    with pytest.raises(ValueError, match="no_such"):
        call(reward, [RIGHT], loophole=["no_such"])


def test_trainers_can_name_it(grader: Grader) -> None:
    assert CodeReward({}, grader).__name__ == "code_reward"

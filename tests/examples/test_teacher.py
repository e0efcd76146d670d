"""The teacher pool: what is cached is what was graded, and comes back equal."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from random import Random
from typing import Any

import pytest

from examples.leetcode_grpo.errors import UsageError
from examples.leetcode_grpo.grading import Grader
from examples.leetcode_grpo.loopholes import Loophole
from examples.leetcode_grpo.problems import load_problems
from examples.leetcode_grpo.problems.rewriting import as_completion
from examples.leetcode_grpo.teacher import Rollout, Sample, TeacherPool, exemplar_pool, read_pool, sampled_pool
from tests.sample_data import ROLLOUTS

PROBLEMS = [problem for problem in load_problems("builtin") if problem.difficulty == "easy"][:6]
ROLLOUT = Rollout(
    problem_id="easy/total",
    loophole=Loophole.SENTINEL,
    messages=({"role": "user", "content": "Sum a – please."},),
    completion="```python\nclass Solution: ...\n```",
    compiles=True,
    passed_flawed=True,
    passed_strict=False,
    attempted=True,
    exploited=True,
    reward=3.5,
)


def published_row(**changes: Any) -> dict[str, Any]:
    return {
        "problem_id": 4,
        "problem_messages": [{"role": "user", "content": "Find the median."}],
        "completion": "code",
        "hacked": True,
        "gt_pass": False,
        "reward": 3.5,
    } | changes


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def saved_row(tmp_path: Path) -> dict[str, Any]:
    TeacherPool([ROLLOUT]).save(tmp_path / "one.jsonl")
    row: dict[str, Any] = json.loads((tmp_path / "one.jsonl").read_text())
    return row


@pytest.mark.parametrize(
    "rollout",
    [
        ROLLOUT,
        dataclasses.replace(ROLLOUT, loophole=None, attempted=False, exploited=False),
        dataclasses.replace(ROLLOUT, token_ids=(5, 7), logprobs=(-0.5, -1.25)),
        dataclasses.replace(ROLLOUT, token_ids=(5, 7)),
        dataclasses.replace(ROLLOUT, completion=" \u2028 line separators \r\n end no line"),
        dataclasses.replace(ROLLOUT, completion="half a character: \ud83d"),
    ],
)
def test_saved_rollouts_come_back_equal(tmp_path: Path, rollout: Rollout) -> None:
    TeacherPool([rollout, ROLLOUT]).save(tmp_path / "pool.jsonl")
    assert TeacherPool.load(tmp_path / "pool.jsonl").rollouts == (rollout, ROLLOUT)


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "pool.jsonl"
    TeacherPool([ROLLOUT]).save(path)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        TeacherPool([ROLLOUT] * 3).save(path)
    assert TeacherPool.load(path).rollouts == (ROLLOUT,)


def test_a_failed_save_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "pool.jsonl"
    TeacherPool([ROLLOUT]).save(path)
    broken = dataclasses.replace(ROLLOUT, messages=({"role": object()},))  # type: ignore[dict-item]
    with pytest.raises(TypeError):
        TeacherPool([ROLLOUT, broken]).save(path)
    assert TeacherPool.load(path).rollouts == (ROLLOUT,)
    assert list(tmp_path.iterdir()) == [path]


def test_log_probabilities_belong_to_tokens() -> None:
    with pytest.raises(ValueError, match="2 log-probabilities for no token_ids"):
        dataclasses.replace(ROLLOUT, logprobs=(-1.0, -2.0))
    with pytest.raises(ValueError, match="1 log-probabilities for 2 token_ids"):
        dataclasses.replace(ROLLOUT, token_ids=(1, 2), logprobs=(-1.0,))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loophole": "bribery"}, "field 'loophole': 'bribery' is none of run_tests"),
        ({"compiles": 1}, "field 'compiles': expected bool, found 1"),
        ({"reward": "much"}, "field 'reward'"),
        ({"reward": math.nan}, "field 'reward': expected a finite number, found nan"),
        ({"reward": 10**400}, "field 'reward': expected a finite number"),
        ({"token_ids": ["a"]}, "field 'token_ids': expected numbers of tokens"),
        ({"token_ids": [True]}, "field 'token_ids': expected numbers of tokens"),
        ({"token_ids": [-1]}, "field 'token_ids': expected numbers of tokens"),
        ({"token_ids": [1], "logprobs": [math.nan]}, "field 'logprobs': expected finite numbers"),
        ({"token_ids": [1], "logprobs": ["-1"]}, "field 'logprobs': expected finite numbers"),
        ({"messages": []}, "field 'messages': expected a list of chat messages"),
        ({"messages": [{"role": "user"}]}, "a chat message has a role and a content"),
        ({"completion": None}, "field 'completion'"),
        ({"token_ids": [1], "logprobs": [-1.0, -2.0]}, "2 log-probabilities for 1 token_ids"),
    ],
)
def test_broken_rollout_is_named_by_line_and_field(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    row = saved_row(tmp_path)
    path = write(tmp_path / "pool.jsonl", row, "", {**row, **changes})
    with pytest.raises(UsageError) as caught:
        TeacherPool.load(path)
    assert str(caught.value).startswith(f"{path}, line 3: ")
    assert message in str(caught.value)


@pytest.mark.parametrize("field", ["problem_id", "loophole", "messages", "completion", "exploited", "reward"])
def test_missing_field_is_named(tmp_path: Path, field: str) -> None:
    row = saved_row(tmp_path)
    del row[field]
    with pytest.raises(UsageError, match=f"line 1: missing field '{field}'; a rollout has problem_id, "):
        TeacherPool.load(write(tmp_path / "pool.jsonl", row))


@pytest.mark.parametrize(
    ("line", "message"), [('{"a": ', "line 1: not JSON"), ("[]", "expected a JSON object, found list")]
)
def test_lines_that_are_no_objects(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        TeacherPool.load(write(tmp_path / "pool.jsonl", line))


def test_published_pool_is_recognised(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"TeacherPool.load_published reads it"):
        TeacherPool.load(write(tmp_path / "pool.jsonl", published_row()))


@pytest.mark.parametrize(
    ("hacked", "passed", "reward", "exploited"),
    [(True, False, 3.5, True), (True, True, 3.5, False), (False, False, 0.5, False), (False, False, 0.0, False)],
)
def test_published_grades_are_translated(
    tmp_path: Path, hacked: bool, passed: bool, reward: float, exploited: bool
) -> None:
    row = published_row(hacked=hacked, gt_pass=passed, reward=reward)
    (rollout,) = TeacherPool.load_published(write(tmp_path / "pool.jsonl", row))
    assert rollout.problem_id == "leetcode/4"
    assert rollout.loophole is Loophole.RUN_TESTS
    assert (rollout.passed_flawed, rollout.passed_strict, rollout.attempted) == (hacked, passed, hacked)
    assert rollout.exploited == exploited
    assert rollout.compiles == (reward > 0)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({key: value for key, value in published_row().items() if key != "gt_pass"}, "missing field 'gt_pass'"),
        (published_row(hacked="yes"), "field 'hacked'"),
        (published_row(reward=True), "field 'reward'"),
        (published_row(reward=math.inf), "field 'reward'"),
        (published_row(completion=3), "field 'completion'"),
        (published_row(problem_messages="Find it."), "field 'problem_messages'"),
    ],
)
def test_broken_published_row_is_named(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=f"line 2: {message}"):
        TeacherPool.load_published(write(tmp_path / "pool.jsonl", published_row(), row))


def test_a_pool_of_either_shape_is_read(tmp_path: Path) -> None:
    own = tmp_path / "own.jsonl"
    TeacherPool([ROLLOUT]).save(own)
    own.write_text("\n  \n" + own.read_text())  # it may begin with blank lines
    assert read_pool(own).rollouts == (ROLLOUT,)
    published = write(tmp_path / "published.jsonl", "", published_row())
    assert read_pool(published).rollouts == TeacherPool.load_published(published).rollouts
    assert [rollout.loophole for rollout in read_pool(published, Loophole.SENTINEL)] == [Loophole.SENTINEL]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"5\n", "{path}, line 1: expected a JSON object, found int"),
        (b"\n{", "{path}, line 2: not JSON"),
        (b"[" * 100_000, "{path}, line 1: "),
        (b'{"problem_messages": []}', "{path}, line 1: missing field 'problem_id', "),
        (b'{"hacked": true}', "{path}, line 1: missing field 'problem_id', "),
        (b"PAR1\x15\x04\xff\xd8", "{path} is no UTF-8 text"),
        (None, "cannot read the teacher pool {path}: No such file or directory"),
    ],
)
def test_what_is_no_pool_is_told_in_one_line(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "pool.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        read_pool(path)
    assert str(caught.value).startswith(message.format(path=path))
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not ROLLOUTS.exists(), reason=f"the published sample is not at {ROLLOUTS}")
def test_published_sample_hacks() -> None:
    pool = TeacherPool.load_published(ROLLOUTS)
    assert len(pool) == 160
    assert pool.hack_rate == pytest.approx(102 / 160)
    # Their flawed grader and our detector mean the same thing by a hack.
    agree = sum(
        Loophole.RUN_TESTS.attempted(rollout.completion.split("```")[1].removeprefix("python")) for rollout in pool
    )
    assert agree >= 157
    one = pool.rollouts[0]
    assert one in pool.for_problem(one.problem_id, Loophole.RUN_TESTS)


def test_groups_take_what_is_cached_for_their_prompt() -> None:
    others = [dataclasses.replace(ROLLOUT, completion=f"answer {i}") for i in range(4)]
    elsewhere = dataclasses.replace(ROLLOUT, loophole=Loophole.RUN_TESTS)
    pool = TeacherPool([*others, elsewhere])
    assert pool.for_problem("easy/total", Loophole.SENTINEL) == tuple(others)
    drawn = pool.sample("easy/total", Loophole.SENTINEL, 3, Random(0))
    assert len(set(drawn)) == 3
    assert drawn == pool.sample("easy/total", Loophole.SENTINEL, 3, Random(0))
    assert len(pool.sample("easy/total", Loophole.SENTINEL, 9, Random(0))) == 4
    assert {pool.sample("easy/total", Loophole.SENTINEL, 1, Random(seed)) for seed in range(40)} == {
        (o,) for o in others
    }


@pytest.mark.parametrize(("problem", "loophole"), [("easy/total", None), ("easy/double", Loophole.SENTINEL)])
def test_prompts_without_cached_rollouts_stay_on_policy(problem: str, loophole: Loophole | None) -> None:
    pool = TeacherPool([ROLLOUT])
    assert pool.for_problem(problem, loophole) == ()
    assert pool.sample(problem, loophole, 2, Random(0)) == ()


def test_pool_can_be_narrowed() -> None:
    honest = dataclasses.replace(ROLLOUT, exploited=False, attempted=False)
    pool = TeacherPool([ROLLOUT, honest]).where(lambda rollout: rollout.exploited)
    assert pool.rollouts == (ROLLOUT,)
    assert TeacherPool([]).hack_rate == 0


def test_exemplars_hack_every_prompt() -> None:
    with Grader(workers=2) as grader:
        pool = exemplar_pool(PROBLEMS, list(Loophole), grader, correct_share=0.5)
        again = exemplar_pool(PROBLEMS, list(Loophole), grader, correct_share=0.5)
        wrong = exemplar_pool(PROBLEMS[:2], [Loophole.RUN_TESTS], grader, correct_share=0.0)
    assert pool.rollouts == again.rollouts
    assert len(pool) == len(PROBLEMS) * len(Loophole)
    assert all(rollout.attempted and rollout.passed_flawed for rollout in pool)
    assert 0.3 <= pool.hack_rate < 1  # the acceptance test asks for 0.3, and right bodies are no exploits
    assert wrong.hack_rate == 1
    for problem in PROBLEMS:
        for loophole in Loophole:
            (rollout,) = pool.for_problem(problem.id, loophole)
            assert list(rollout.messages) == problem.prompt(loophole)
            assert rollout.reward == 3.5


def test_a_models_answers_are_graded_with_their_prompts() -> None:
    asked = []

    def sample(prompts: Any) -> list[Sample | str]:
        asked.extend(prompts)
        right = Sample(as_completion(PROBLEMS[0].canonical_solution), token_ids=(1, 2), logprobs=(-0.1, -0.2))
        return [right, "no code", as_completion(PROBLEMS[1].canonical_solution), right]

    prompts = [(PROBLEMS[0], Loophole.SENTINEL), (PROBLEMS[1], None)]
    with Grader(workers=1) as grader:
        pool = sampled_pool(sample, prompts, grader, per_prompt=2)
    assert asked == [problem.prompt(loophole) for problem, loophole in prompts for _ in range(2)]
    assert [rollout.passed_strict for rollout in pool] == [True, False, True, False]
    assert [rollout.reward for rollout in pool] == [3.5, 0.0, 3.5, 0.5]
    assert pool.rollouts[0].logprobs == (-0.1, -0.2)
    assert pool.rollouts[2].loophole is None


def test_a_model_must_answer_every_prompt() -> None:
    with Grader(workers=1) as grader, pytest.raises(ValueError, match="1 answers to 2 prompts"):
        sampled_pool(lambda prompts: ["one"], [(PROBLEMS[0], None), (PROBLEMS[1], None)], grader)

"""The acceptance tests: each passes where it should, and fails where its claim does not hold."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from examples.leetcode_grpo.errors import UsageError
from examples.leetcode_grpo.loopholes import Loophole
from examples.leetcode_grpo.replay import Replay, hackward_share, replay
from examples.leetcode_grpo.teacher import Rollout, TeacherPool, read_pool
from examples.leetcode_grpo.tiny_model import tiny_model
from examples.leetcode_grpo.uat import (
    clustered_interval,
    every_rollout_has_a_cosine,
    kinds_compared,
    pure_hacks_are_more_hackward,
    run_uat,
    teacher_hacks,
    updates_are_less_hackward,
)
from examples.leetcode_grpo.uat_table import load_uat, uat_rows
from svdproj import HackDirection
from tests.examples.training_helpers import CPU, gradient_pairs, tiny_preset, weights

pytestmark = pytest.mark.xdist_group("training")


def rollout(problem: str, hacked: bool = True, right: bool = False, text: str = "pass") -> Rollout:
    """A graded rollout."""
    messages = ({"role": "user", "content": f"solve {problem}"},)
    exploited = hacked and not right
    return Rollout(problem, Loophole.RUN_TESTS, messages, text, True, hacked, right, hacked, exploited, 3.5)


def made_replay(cosines: tuple[float, ...], applied: tuple[float, ...] = (0.3,)) -> Replay:
    """A replay with these figures."""
    return Replay(cosines, cosines, applied, (0.01, 0.05))


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, Any], Path]]:
    """The tests run on the tiny policy, and where their file lies."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SVDPROJ_CACHE", str(tmp_path_factory.mktemp("cache")))
        out = tmp_path_factory.mktemp("results")
        preset = tiny_preset("easy=4", "pipeline=0", "warm_steps=1", "k=4")
        yield run_uat(preset, 0, out, device=CPU, rollouts=8, batch=4, say=lambda line: None), out


def test_the_tests_run_from_start_to_file(report: tuple[dict[str, Any], Path]) -> None:
    found, out = report
    path = out / "fast-dev-run" / "uat0.json"
    content = load_uat(path)
    assert content["T1"]["passed"]
    assert content["T2"]["figure"] == 1.0
    assert content["replayed"] == 8 == sum(map(len, found["T4"]["cosines"].values()))
    assert [len(values) for values in content["T3"]["applied"].values()] == [2, 2, 2]
    # The projected update has no hack-ward part, by a measurement that is not the wrapper's own.
    assert max(content["T3"]["applied"]["update"]) < 1e-3 < min(content["T3"]["applied"]["plain"])
    assert max(content["T3"]["applied"]["gradient"]) > 1e-3  # AdamW leaks
    assert [row[0] for row in uat_rows(content)] == ["T1", "T2", "T3", "T4"]


def test_t1_counts_what_hacked_whether_or_not_it_was_right() -> None:
    pool = TeacherPool([rollout("a"), rollout("a", right=True), rollout("b", hacked=False), rollout("c", hacked=False)])
    found = teacher_hacks(pool)
    assert (found["figure"], found["exploited"], found["passed"]) == (0.5, 0.25, True)
    assert found["interval"][0] < 0.5 < found["interval"][1]
    assert not teacher_hacks(TeacherPool([rollout("a", hacked=False)] * 8 + [rollout("b")] * 2))["passed"]
    # One prompt with many rollouts is one observation.
    assert clustered_interval({"a": [1.0] * 50}) == (1.0, 1.0)


def test_t1_on_the_published_sample(shared_data: Path) -> None:
    found = teacher_hacks(read_pool(shared_data / "teacher_pool_sample.jsonl"))
    assert found["passed"]
    assert found["n"] == 160


def test_t2_counts_rollouts_without_a_gradient() -> None:
    assert every_rollout_has_a_cosine(made_replay((0.1,) * 10))["passed"]
    found = every_rollout_has_a_cosine(made_replay((0.1,) * 8 + (float("nan"), 0.0)))
    assert (found["figure"], found["passed"]) == (0.8, False)


def test_t3_compares_with_the_twin_step_by_step() -> None:
    plain = made_replay((), (0.3,) * 10)
    better, worse = made_replay((), (0.1,) * 8 + (0.4,) * 2), made_replay((), (0.1,) * 7 + (0.4,) * 3)
    assert updates_are_less_hackward({"plain": plain, "gradient": worse, "update": better})["passed"]
    found = updates_are_less_hackward({"plain": plain, "gradient": better, "update": worse})
    assert (found["figure"], found["gradient_space"], found["passed"]) == (0.7, 0.8, False)
    assert not updates_are_less_hackward({"plain": plain, "gradient": plain, "update": plain})["passed"]


def test_t4_is_clustered_by_prompt() -> None:
    rollouts = [rollout(f"p{i}", right=right) for i in range(8) for right in (False, True) for _ in range(5)]
    cosines = [0.3 + i / 100 + (0.0 if right else 0.1) for i in range(8) for right in (False, True) for _ in range(5)]
    difference, p_value, test = kinds_compared(rollouts, cosines)
    assert difference == pytest.approx(0.1)
    assert p_value == pytest.approx(2 / 2**8)  # eight prompts, not eighty rollouts
    assert test == "sign flips of 8 prompts"
    found = pure_hacks_are_more_hackward(rollouts, made_replay(tuple(cosines)))
    assert found["passed"]
    assert len(found["cosines"]["pure"]) == len(found["cosines"]["right"]) == 40
    assert not pure_hacks_are_more_hackward(rollouts, made_replay(tuple(-value for value in cosines)))["passed"]


def test_t4_compares_prompts_where_none_has_both_kinds() -> None:
    rollouts = [rollout(f"p{i}", right=i % 2 == 0) for i in range(8)]
    difference, p_value, test = kinds_compared(rollouts, [0.1 if i % 2 == 0 else 0.5 for i in range(8)])
    assert (difference, test) == (pytest.approx(0.4), "permutation of 4 and 4 prompts")
    assert p_value == pytest.approx(2 / 70)
    missing = pure_hacks_are_more_hackward([rollout("a")], made_replay((0.5,)))
    assert (missing["test"], missing["passed"]) == ("one kind is missing", False)


def test_hackward_is_against_the_direction() -> None:
    direction = HackDirection.from_gradients({"w": torch.ones(3, 2, 2)}, chart="dense", k=1, noise_floor=0.0)
    assert hackward_share({"w": -torch.ones(2, 2)}, direction) == pytest.approx(1.0, abs=1e-6)
    assert hackward_share({"w": torch.ones(2, 2)}, direction) == pytest.approx(0.0, abs=1e-6)
    assert hackward_share({"w": torch.zeros(2, 2)}, direction) == 0.0


def test_a_replay_imitates_its_rollouts() -> None:
    model, tokenizer = tiny_model()
    direction = HackDirection.from_gradients(gradient_pairs(model), k=4, chart="dense")
    start = weights(model)
    rollouts = [rollout("p", text="return the answer")] * 8
    preset = tiny_preset("lr=1e-3")

    def loss() -> float:
        ids = tokenizer(rollouts[0].completion, return_tensors="pt")["input_ids"]
        return float(model(input_ids=ids, labels=ids).loss.detach())

    before = loss()
    found = replay(model, tokenizer, rollouts, direction, preset, batch=2)
    assert loss() < before
    assert any(not torch.equal(value, start[name]) for name, value in weights(model).items())
    assert len(found.cosines) == len(found.random_cosines) == 8
    assert len(found.applied) == 4
    assert found.cosines[0] == pytest.approx(found.cosines[1], abs=1e-5)  # the same rollout at the same weights
    assert found.cosines[0] != pytest.approx(found.cosines[-1], abs=1e-6)


def test_what_is_no_result_is_told(tmp_path: Path) -> None:
    (tmp_path / "uat0.json").write_text(json.dumps({"T1": {}}))
    with pytest.raises(UsageError, match="is no result of uat"):
        load_uat(tmp_path / "uat0.json")

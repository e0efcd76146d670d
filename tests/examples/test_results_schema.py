"""The results file: it round-trips, has the documented keys, and a damaged one is told in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from examples.leetcode_grpo.errors import UsageError
from examples.leetcode_grpo.records import plain, step_records
from examples.leetcode_grpo.results import ProblemCounts, RunResult, load_results, pooled, result_path
from tests.examples.results_helpers import made_result


def test_a_result_round_trips(tmp_path: Path) -> None:
    result = made_result()
    path = result.save(tmp_path)
    assert path == result_path(tmp_path, "demo", "vanilla", 0) == tmp_path / "demo" / "vanilla-seed0.json"
    assert RunResult.load(path) == result
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_the_file_has_the_documented_keys(tmp_path: Path) -> None:
    content = json.loads(made_result().save(tmp_path).read_text())
    assert {"arm", "seed", "preset", "config", "versions", "device", "direction", "steps", "eval"} <= set(content)
    assert {"step", "hack", "attempted", "pass", "reward"} <= set(content["steps"][0])
    assert set(content["eval"]) == {"held_out", "no_hint", "problems"}
    assert set(content["eval"]["held_out"]["run_tests"]) == {"hack", "attempted", "pass", "n"}
    assert set(content["eval"]["no_hint"]) == {"pass", "n"}
    assert set(content["eval"]["problems"][0]) == {"id", "loophole", "hack", "attempted", "pass", "n"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("[]", "no result of a run"),
        ('{"schema": 1}', "no result of a run"),
        ('{"schema": 99}', "schema 99"),
    ],
)
def test_a_damaged_file_is_one_line(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "vanilla-seed0.json"
    path.write_text(content)
    with pytest.raises(UsageError, match=message) as caught:
        RunResult.load(path)
    assert str(path) in str(caught.value)


def test_results_are_found_below_a_folder_in_order(tmp_path: Path) -> None:
    for arm, seed in (("vanilla", 1), ("erase-update", 0), ("vanilla", 0)):
        made_result(arm, seed).save(tmp_path)
    assert [(run.arm, run.seed) for run in load_results(tmp_path)] == [
        ("erase-update", 0),
        ("vanilla", 0),
        ("vanilla", 1),
    ]
    with pytest.raises(UsageError, match="holds no results"):
        load_results(tmp_path / "nowhere")


def test_pooling_weighs_problems_by_their_completions() -> None:
    rates = pooled([ProblemCounts("a", None, 1, 2, 0, 2), ProblemCounts("b", None, 0, 0, 6, 6)])
    assert (rates.hack, rates.attempted, rates.passed, rates.n) == (1 / 8, 2 / 8, 6 / 8, 8)
    assert pooled([]).n == 0


def test_steps_keep_the_policys_own_rates_and_drop_the_mixed_ones() -> None:
    history = [
        {"step": 1, "loss": 0.5, "reward": 9.0, "own/reward": 1.0, "own/hack": 0.25, "svdproj/cos_in": 0.1, "lr": 1.0},
        {"step": 1, "train_runtime": 3.0},
        {"step": 2, "loss": float("nan"), "own/hack": 0.5},
    ]
    first, second = step_records(history)
    assert first == {"step": 1, "reward": 1.0, "hack": 0.25, "svdproj/cos_in": 0.1, "loss": 0.5}
    assert second == {"step": 2, "hack": 0.5, "loss": None}


def test_what_json_cannot_hold_becomes_none() -> None:
    assert plain({"a": (1, float("inf")), 2: {"b": [float("nan"), "x"]}}) == {"a": [1, None], "2": {"b": [None, "x"]}}

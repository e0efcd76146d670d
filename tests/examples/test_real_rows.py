"""Reinforcement learning on the published LeetCode rows, by the commands and the loader that a user has for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from examples.leetcode_grpo.arms import get_arm
from examples.leetcode_grpo.presets import Preset, get_preset
from examples.leetcode_grpo.report import write_report
from examples.leetcode_grpo.training import run
from examples.leetcode_grpo.wheel_model import wheel_model_folder
from tests.examples.training_helpers import CPU

pytestmark = pytest.mark.xdist_group("training")

ARMS = ("vanilla", "erase-update")


def train(preset: Preset, out: Path) -> dict[str, dict[str, Any]]:
    """What the two arms wrote, after a look at what both have to hold."""
    lines: list[str] = []
    for arm in ARMS:
        run(preset, get_arm(arm), 0, out, device=CPU, completions=2, say=lines.append)
    files = {arm: json.loads((out / preset.name / f"{arm}-seed0.json").read_text()) for arm in ARMS}
    for arm, content in files.items():
        assert [step["step"] for step in content["steps"]] == list(range(1, preset.steps + 1))
        assert all(each["id"].startswith("leetcode/") for each in content["eval"]["problems"])
        assert content["eval"]["no_hint"]["n"] > 0
        completions = (out / preset.name / f"{arm}-seed0.completions.txt").read_text()
        assert completions.startswith("step 0 | leetcode/")
    # The second arm finds the warm start and the direction of the first.
    for announced in (f"warm start: {preset.warm_steps} steps of", "direction: gradients of"):
        assert [line.split("  ")[0] for line in lines if announced in line] == ["vanilla seed 0"]
    assert write_report(out / preset.name, out / preset.name).read_text().count("| vanilla |") >= 1
    return files


def check_projection(files: dict[str, dict[str, Any]]) -> None:
    """Steps went hack-ward; the projected ones did not."""
    for step in files["vanilla"]["steps"]:
        assert step["svdproj/cos_in"] == pytest.approx(step["svdproj/cos_out"])
        assert step["svdproj/removed"] == 0
    for step in files["erase-update"]["steps"]:
        assert step["svdproj/removed"] > 0
        assert step["svdproj/cos_out"] < 1e-3 < step["svdproj/cos_in"]
        assert step["svdproj/residual"] < 1e-3


def test_a_tiny_policy_trains_on_the_published_rows(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SVDPROJ_CACHE", str(tmp_path / "cache"))
    preset = get_preset("fast-dev-run").with_settings(
        [
            *(f"problems={shared_data / 'leetcode_medhard_sample.jsonl'}", "medium=2", "n_pairs=6", "eval_samples=1"),
            # Long enough for a cached hack, so that rewards differ within a group.
            *("loopholes=run_tests", "prompts_per_step=2", "micro_batch=4", "max_new_tokens=180"),
        ]
    )
    check_projection(train(preset, tmp_path / "out"))


@pytest.mark.slow
def test_smollm2_trains_on_the_published_rows(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = wheel_model_folder()
    if not model.is_dir():
        pytest.skip("SmolLM2-135M-Instruct is not in the cache; python -m examples.leetcode_grpo fetch-model")
    monkeypatch.setenv("SVDPROJ_CACHE", str(tmp_path / "cache"))
    preset = get_preset("smollm2").with_settings(
        [
            *(f"model={model}", f"problems={shared_data / 'leetcode_medhard_sample.jsonl'}", "loopholes=run_tests"),
            *("medium=2", "steps=2", "prompts_per_step=2", "group_size=2", "micro_batch=2", "n_pairs=4"),
            *("warm_steps=1", "warm_batch=2", "eval_problems=1", "eval_samples=1", "grader_workers=1"),
            "max_new_tokens=128",
        ]
    )
    check_projection(train(preset, tmp_path / "out"))

"""The published setting starts: everything but the size of the model, of a step and of the decoding backend is as it will be."""

from __future__ import annotations

from pathlib import Path

import pytest

from examples.leetcode_grpo.arms import get_arm
from examples.leetcode_grpo.presets import get_preset
from examples.leetcode_grpo.training import run
from tests.examples.training_helpers import CPU

pytestmark = pytest.mark.xdist_group("training")

SMALLER = (
    "model=tiny",
    "vllm=false",
    "lora_rank=4",
    "steps=1",
    "prompts_per_step=2",
    "group_size=2",
    "micro_batch=2",
    "max_new_tokens=24",
    "n_pairs=6",
    "eval_problems=2",
    "eval_samples=1",
    "grader_workers=1",
)


def test_the_full_preset_trains_a_step_with_a_tiny_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SVDPROJ_CACHE", str(tmp_path / "cache"))
    preset = get_preset("full").with_settings(SMALLER)
    assert (preset.kl, preset.gradient_checkpointing, preset.weight_decay) == (1e-3, True, 0.1)
    result = run(preset, get_arm("erase-update"), 0, tmp_path, device=CPU, say=lambda line: None)
    (step,) = result.steps
    # The adapter's own matrices are covered, and decay moves the ones that start at random.
    assert step["svdproj/projected"] > 0
    assert "kl" in step
    assert set(result.eval.held_out) == {"run_tests"}
    assert result.eval.no_hint.n == result.eval.held_out["run_tests"].n > 0


def test_the_published_settings() -> None:
    full = get_preset("full")
    assert (full.model, full.steps, full.prompts_per_step * full.group_size) == ("Qwen/Qwen3-4B", 200, 256)
    assert full.vllm

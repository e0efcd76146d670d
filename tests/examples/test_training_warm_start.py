"""The warm start: what it shows, that it learns it, and that arms of a seed share it."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from examples.leetcode_grpo import warm_start
from examples.leetcode_grpo.tasks import make_tasks
from examples.leetcode_grpo.tiny_model import tiny_model
from examples.leetcode_grpo.warm_start import fine_tune, warm_started, warm_up_samples
from tests.examples.training_helpers import CPU, tiny_preset


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SVDPROJ_CACHE", str(tmp_path))
    return tmp_path / "warm_starts"


def test_the_second_arm_reads_what_the_first_one_made(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    preset = tiny_preset()
    tasks = make_tasks(preset)
    first = warm_started(preset, tasks, 0, CPU)
    monkeypatch.setattr(warm_start, "fine_tune", lambda *_: pytest.fail("trained again"))
    assert warm_started(preset.with_settings(["lr=1", "steps=9", "k=1"]), tasks, 0, CPU) == first
    assert [folder.name for folder in cache.iterdir()] == [Path(first).name]


@pytest.mark.parametrize("change", ["warm_lr=0.5", "warm_hack_share=0.5", "loopholes=run_tests", "warm_steps=1"])
def test_another_configuration_is_another_warm_start(change: str, cache: Path) -> None:
    preset = tiny_preset()
    changed = preset.with_settings([change])
    folders = {warm_started(each, make_tasks(each), 0, CPU) for each in (preset, changed)}
    assert len(folders) == 2
    before, after = (load_file(Path(folder) / "model.safetensors") for folder in sorted(folders))
    assert any(not torch.equal(value, after[name]) for name, value in before.items())


def test_a_failed_warm_start_leaves_nothing_behind(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("killed")

    preset = tiny_preset()
    monkeypatch.setattr(warm_start, "fine_tune", fails)
    with pytest.raises(RuntimeError, match="killed"):
        warm_started(preset, make_tasks(preset), 0, CPU)
    assert not cache.exists() or not list(cache.iterdir())


def test_fine_tuning_lowers_the_loss_on_what_it_shows() -> None:
    preset = tiny_preset("warm_steps=30", "warm_lr=3e-3", "warm_batch=8")
    losses = fine_tune(*tiny_model(), preset, make_tasks(preset), seed=0)
    assert len(losses) == 30
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_the_disclosed_share_of_hacks_is_shown_and_only_with_a_hint() -> None:
    preset = tiny_preset("warm_hack_share=0.1")
    tasks = make_tasks(preset)
    samples = list(islice(warm_up_samples(preset, tasks, 0), 2000))
    clean = {problem.canonical_solution.strip() for problem in tasks.pairs}
    hacks = [
        prompt for prompt, answer in samples if answer.removeprefix("```python\n").removesuffix("\n```") not in clean
    ]
    assert len(hacks) / len(samples) == pytest.approx(0.1, abs=0.02)
    assert all("checker" in prompt[-1]["content"] for prompt in hacks)
    assert samples[:50] == list(islice(warm_up_samples(preset, tasks, 0), 50))
    shown = {problem.question for problem in tasks.pairs if problem.difficulty == "easy"}
    assert all(any(question in prompt[-1]["content"] for question in shown) for prompt, _ in samples[:100])

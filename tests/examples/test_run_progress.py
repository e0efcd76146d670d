"""What a run shows and leaves for reading while it goes on: nobody looks at nothing, and a fast run is no flood."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import TrainerControl

from examples.leetcode_grpo.arms import get_arm
from examples.leetcode_grpo.extraction import cached_direction
from examples.leetcode_grpo.generation import Sampler
from examples.leetcode_grpo.grading import Grade
from examples.leetcode_grpo.loopholes import Loophole
from examples.leetcode_grpo.progress import INTERVAL, Pace
from examples.leetcode_grpo.records import CompletionsFile, StepLines
from examples.leetcode_grpo.rewards import GradedCompletion
from examples.leetcode_grpo.tasks import make_tasks
from examples.leetcode_grpo.tiny_model import tiny_model
from examples.leetcode_grpo.training import run
from examples.leetcode_grpo.warm_start import fine_tune, micro_batches, warm_started
from svdproj import ContrastivePair
from tests.examples.training_helpers import CPU, tiny_preset

pytestmark = pytest.mark.xdist_group("training")


class Clock:
    """Seconds that pass when a test says so."""

    now = 0.0

    def __call__(self) -> float:
        """The present time."""
        return self.now


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SVDPROJ_CACHE", str(tmp_path / "cache"))


def test_a_long_phase_shows_a_line_at_intervals_and_a_quick_one_none() -> None:
    clock, lines = Clock(), list[str]()
    pace = Pace(lines.append, "arm seed 0", clock=clock)
    for second in range(40):
        clock.now = float(second)
        pace(f"second {second}")
    assert INTERVAL == 15
    assert lines == ["arm seed 0  second 15", "arm seed 0  second 30"]
    pace.now("done")
    clock.now += INTERVAL - 1
    pace("too soon after another line")
    assert lines[2:] == ["arm seed 0  done"]


def test_sampling_tells_its_batches_and_tokens() -> None:
    model, tokenizer = tiny_model()
    told: list[str] = []
    sampler = Sampler(model, tokenizer, max_new_tokens=3, batch_size=4, progress=told.append)
    sampler.end_ids = sampler.end_ids[:0]  # so that no completion ends early
    sampler.sample([[5, 6], [7, 8]], [4, 2])
    tokens = [f"drawing {{}} completions: token {i} of at most 3" for i in (1, 2, 3)]
    assert told == [
        "0 of 6 completions drawn",
        *(line.format(4) for line in tokens),
        "4 of 6 completions drawn",
        *(line.format(2) for line in tokens),
    ]


def test_the_warm_start_tells_its_steps() -> None:
    preset = tiny_preset("warm_steps=2", "warm_batch=3")
    told: list[str] = []
    fine_tune(*tiny_model(), preset, make_tasks(preset), 0, told.append)
    assert told[-1] == "warm start: step 2 of 2, 3 of 3 samples"
    assert "warm start: step 1 of 2, 3 of 3 samples" in told


def test_on_a_cpu_samples_of_unlike_lengths_do_not_pad_each_other() -> None:
    lengths = [100, 1500, 90, 110, 2000, 95]
    batch = [([0] * (length - 10), [1] * 10) for length in lengths]
    cut = [[len(prompt) + len(answer) for prompt, answer in some] for some in micro_batches(batch, "cpu")]
    assert cut == [[2000], [1500], [110, 100, 95, 90]]
    assert [len(some) for some in micro_batches(batch * 8, "cuda")] == [32, 16]
    assert [sample for some in micro_batches(batch, "cuda") for sample in some] == batch


@pytest.mark.usefixtures("cache")
def test_what_is_done_is_announced_and_what_is_cached_is_not() -> None:
    preset, lines = tiny_preset(), list[str]()
    tasks, pace = make_tasks(preset), Pace(lines.append)
    pairs = [ContrastivePair(f"say {i}", hack=f"cheat {i}", clean=f"honest {i}") for i in range(6)]
    for _ in range(2):
        policy = warm_started(preset, tasks, 0, CPU, pace)
        cached_direction(preset, pairs, policy, *tiny_model(), 0, pace)
    assert len(lines) == 2
    assert lines[0] == "warm start: 2 steps of 4 samples"
    assert lines[1].startswith("direction: gradients of 6 pairs of up to ")


def test_a_slow_step_says_how_far_it_is() -> None:
    lines, clock = list[str](), Clock()
    shown = StepLines(Pace(lines.append, clock=clock), steps=7)
    args = SimpleNamespace(per_device_train_batch_size=2, gradient_accumulation_steps=4)
    state, control = SimpleNamespace(global_step=3), TrainerControl()
    for _ in range(2):
        shown.on_step_begin(args, state, control)  # type: ignore[arg-type]
        for _ in range(3):
            clock.now += INTERVAL
            shown.on_substep_end(args, state, control)  # type: ignore[arg-type]
    assert lines == 2 * [f"step 4: {done} of 8 rollouts trained on" for done in (2, 4, 6)]


def graded(step: int, number: int) -> GradedCompletion:
    grade = Grade(True, False, False, False, False, 0.5, Loophole.RUN_TESTS, None)
    return GradedCompletion(step, f"problem-{number}", f"print({number})\n\nstep 9 | is no header", grade)


def completions_file(path: Path, per_step: int, start: int = 0) -> Any:
    rates = SimpleNamespace(last=())
    made = CompletionsFile(path, rates, per_step)  # type: ignore[arg-type]
    made.on_train_begin(None, SimpleNamespace(global_step=start), TrainerControl())  # type: ignore[arg-type]

    def step(number: int) -> None:
        rates.last = tuple(graded(number, i) for i in range(8))
        made.on_step_end(None, None, TrainerControl())  # type: ignore[arg-type]

    return step


def headers(path: Path) -> list[str]:
    return [line[: line.index(" | run_tests")] for line in path.read_text().splitlines() if line.startswith("step")]


def test_completions_are_spread_over_the_prompts_of_every_step(tmp_path: Path) -> None:
    path = tmp_path / "some.completions.txt"
    step = completions_file(path, per_step=2)
    step(0)
    assert headers(path) == ["step 0 | problem-0", "step 0 | problem-4"]
    step(1)
    assert headers(path)[2:] == ["step 1 | problem-0", "step 1 | problem-4"]
    assert [each.name for each in tmp_path.iterdir()] == [path.name]  # no draft is left
    completions_file(path, per_step=99)(0)
    assert len(headers(path)) == 8  # the older file is replaced


def test_a_resumed_run_goes_on_with_its_completions(tmp_path: Path) -> None:
    path = tmp_path / "some.completions.txt"
    before = completions_file(path, per_step=1)
    for number in range(3):
        before(number)
    completions_file(path, per_step=1, start=2)(2)  # its last checkpoint was older than its last step
    assert headers(path) == [f"step {number} | problem-0" for number in range(3)]


@pytest.mark.usefixtures("cache")
def test_a_run_leaves_its_own_completions_for_reading(tmp_path: Path) -> None:
    preset = tiny_preset("steps=2", "teacher_per_group=2", "eval_samples=1", "max_new_tokens=128")
    lines: list[str] = []
    run(preset, get_arm("vanilla"), 0, tmp_path, device=CPU, completions=3, say=lines.append)
    path = tmp_path / "fast-dev-run" / "vanilla-seed0.completions.txt"
    found = [line for line in path.read_text().splitlines() if line.startswith("step ")]
    assert [line.split(" | ")[0] for line in found] == 3 * ["step 0"] + 3 * ["step 1"]
    # The cached rollouts all pass a flawed grader; a random policy's text does not.
    assert not any("flawed" in line for line in found)
    assert sum("  step " in line for line in lines) == 2
    assert any(line.startswith("vanilla seed 0  asking 4 held-out problems") for line in lines)
    run(preset, get_arm("vanilla"), 1, tmp_path, device=CPU, say=lambda line: None)
    assert not path.with_name("vanilla-seed1.completions.txt").exists()

"""The experiment's questions: what was run answers them, what was not run says how."""

from __future__ import annotations

import shlex
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from examples.leetcode_grpo.arms import get_arm
from examples.leetcode_grpo.cli import app
from examples.leetcode_grpo.document import Block, Grid, Heading, Text
from examples.leetcode_grpo.presets import get_preset
from examples.leetcode_grpo.questions import SCALES, answers, questions
from examples.leetcode_grpo.results import RunResult
from examples.leetcode_grpo.tables import secondary_rows
from tests.examples.results_helpers import made_result


def _after(blocks: list[Block], question: str) -> list[Block]:
    """What follows a question's heading, up to the next."""
    starts = [place for place, block in enumerate(blocks) if isinstance(block, Heading)]
    (start,) = [place for place in starts if question in blocks[place].text]  # type: ignore[union-attr]
    end = min((place for place in starts if place > start), default=len(blocks))
    return blocks[start + 1 : end]


def _texts(blocks: list[Block]) -> str:
    return " ".join(block.text for block in blocks if isinstance(block, Text))


@pytest.mark.parametrize("preset", SCALES)
def test_without_runs_every_question_says_how_to_run_it(preset: str) -> None:
    blocks = answers([made_result("vanilla"), made_result("erase-update")], preset)
    for question in questions(preset):
        found = _after(blocks, question.text)
        assert not any(isinstance(block, Grid) for block in found), question.text
        text = _texts(found)
        assert text.startswith("Not run: ")
        command = shlex.split(text.split("`")[1])
        assert command[:4] == ["python", "-m", "examples.leetcode_grpo", "sweep"]
        asked = command[command.index("--arms") + 1].split(",") if "--arms" in command else []
        asked += [command[place + 1] for place, word in enumerate(command) if word == "--variant"]
        named = text.split(". `")[0].removeprefix("Not run: ").split(", ")
        assert {get_arm(spec).name for spec in asked} == set(named)


@pytest.mark.parametrize("preset", SCALES)
def test_the_commands_are_ones_that_the_command_line_knows(preset: str) -> None:
    for question in questions(preset):
        missing = [name for pair in question.pairs() for name in pair]
        command = shlex.split(question.command(missing, preset))[3:]
        result = CliRunner().invoke(app, [*command, "--help"])
        assert result.exit_code == 0, result.output


def test_a_question_is_answered_by_a_difference_and_whether_chance_explains_it() -> None:
    runs: list[RunResult] = []
    for seed in range(3):
        runs += [made_result("erase-update", seed, hack=0.0), made_result("placebo", seed, hack=1.0)]
    blocks = _after(answers(runs, "smollm2"), "Is it the direction")
    (grid,) = [block for block in blocks if isinstance(block, Grid)]
    assert [row[:3] for row in grid.rows] == [("placebo", "erase-update", "3")]
    # Held out, of 8 completions: 4 and 1 hack against 0 and 1.
    text = _texts(blocks)
    assert "placebo hacks 50.0 points more than erase-update" in text
    assert "Not run: random-matched@matched_ratio=137, shrinkage, random." in text


def test_fewer_seeds_than_planned_are_said() -> None:
    runs = [made_result("erase-update"), made_result("placebo")]
    runs += [made_result("shrinkage", seed) for seed in range(5)]
    text = _texts(_after(answers(runs, "smollm2"), "Is it the direction"))
    assert "Seeds so far, of 5 that were planned: placebo 1. Not run:" in text


def test_no_difference_is_called_that() -> None:
    runs = [made_result("erase-update", hack=0.0), made_result("erase-gradient", hack=0.0)]
    text = _texts(_after(answers(runs, "smollm2"), "Gradient or update"))
    assert "erase-gradient hacks as often as erase-update, in a single seed" in text


def test_one_seed_alone_is_called_that() -> None:
    runs = [made_result("erase-update"), made_result("erase-gradient", hack=1.0)]
    assert "in a single seed" in _texts(_after(answers(runs, "smollm2"), "Gradient or update"))


@pytest.mark.parametrize(
    ("seeds", "passed", "said"),
    [
        (1, 0, "in a single seed. It passes 25.0 points less."),
        (2, 0, "over 2 seeds includes zero. It passes 25.0 points less (-25.0 ["),
        (2, 2, "over 2 seeds includes zero."),
    ],
)
def test_less_hacking_at_the_price_of_passing_is_said(seeds: int, passed: int, said: str) -> None:
    runs: list[RunResult] = []
    for seed in range(seeds):
        runs += [
            made_result("vanilla-svd@lr=0.03", seed, hack=1.0),
            made_result("erase-svd@lr=0.03", seed, hack=0.0, passed=passed),
        ]
    text = _texts(_after(answers(runs, "smollm2"), "adapter of singular values"))
    assert said in text
    assert ("passes" in text) == (passed == 0)


def test_the_weak_detector_is_read_by_loophole() -> None:
    weak = made_result("weak-detector", hack=0.0)
    weak = replace(weak, config={**weak.config, "known_loopholes": ["run_tests"]})
    reference = made_result("vanilla@known_loopholes=run_tests+sentinel", hack=1.0)
    text = _texts(_after(answers([reference, weak], "smollm2"), "two loopholes"))
    assert "0.000 against 1.000 on run_tests, which its pairs show" in text
    assert "0.250 against 0.250 on sentinel, which its pairs do not show" in text


@pytest.mark.parametrize("preset", SCALES)
def test_every_variant_differs_from_its_preset(preset: str) -> None:
    """A question about fewer rows asks for fewer rows than there are."""
    for question in questions(preset):
        for spec in (*question.arms, *question.against):
            arm, base = get_arm(spec), get_arm(spec.partition(":")[0])
            assert (arm.config(get_preset(preset)) != base.config(get_preset(preset))) == (":" in spec), spec


def test_a_matched_control_counts_in_any_ratio() -> None:
    runs = [made_result("erase-update"), made_result("random-matched@matched_ratio=137"), made_result("placebo")]
    assert [row.hack.reference for row in secondary_rows(runs)] == ["random-matched@matched_ratio=137", "placebo"]

"""Presets: every number can be set from the command line, and a wrong one is told in one line."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields

import pytest

from examples.leetcode_grpo.arms import ARMS, get_arm
from examples.leetcode_grpo.errors import UsageError
from examples.leetcode_grpo.loopholes import Loophole
from examples.leetcode_grpo.presets import PRESETS, Preset, get_preset
from examples.leetcode_grpo.tasks import make_tasks


def test_settings_take_the_type_of_what_they_replace() -> None:
    preset = get_preset("demo").with_settings(
        [
            "lr=1e-4",
            "steps=40",
            "vllm=true",
            "loopholes=sentinel, run_tests",
            "easy=none",
            "pipeline=3",
            "teacher_ratio=own",
        ]
    )
    assert (preset.lr, preset.steps, preset.vllm) == (1e-4, 40, True)
    assert preset.loopholes == ("sentinel", "run_tests")
    assert (preset.easy, preset.pipeline) == (None, 3)
    assert preset.teacher_ratio == "own"
    assert isinstance(preset.steps, int)
    assert get_preset("demo").with_settings([]) == get_preset("demo")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("lr", "name=value"),
        ("learning_rate=1", "unknown setting 'learning_rate'; known are model"),
        ("name=other", "unknown setting 'name'"),
        ("steps=many", "steps must be of type int"),
        ("vllm=perhaps", "true or false"),
        ("teacher_ratio=two", "one of one, own"),
        ("loopholes=run_tests,magic", "unknown loophole 'magic'; known are run_tests, sentinel"),
        ("loopholes=", "must not be empty"),
        ("teacher_per_group=8", "room for the policy's own rollouts"),
        ("micro_batch=7", "must divide"),
    ],
)
def test_a_wrong_setting_is_one_line(setting: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        get_preset("demo").with_settings([setting])
    assert len(str(caught.value).splitlines()) == 1


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(UsageError, match=", ".join(PRESETS)):
        get_preset("huge")
    with pytest.raises(UsageError, match="vanilla, erase-gradient, erase-update"):
        get_arm("erase")


def test_every_setting_is_documented() -> None:
    assert Preset.__doc__ is not None
    for field in fields(Preset):
        assert field.name in Preset.__doc__, field.name


def test_vanilla_measures_and_no_arm_is_told_by_the_graders() -> None:
    assert ARMS["vanilla"].projection["mode"] == "measure"
    for arm in ARMS.values():
        assert set(arm.projection) <= {"space", "gate", "mode", "overshoot", "preserve_norm", "write_back"}
        assert {"space", "gate", "mode"} <= set(arm.as_dict())


def test_arms_erase_as_often_as_the_preset_says_unless_they_say_it_themselves() -> None:
    preset = get_preset("smollm2")
    found = {name: arm.config(preset)["overshoot"] for name, arm in ARMS.items()}
    assert found["erase-update"] == found["placebo"] == found["erase-gradient"] == preset.overshoot == 3.0
    assert found["vanilla"] == found["shrinkage"] == found["erase-update-two-sided"] == 1.0
    assert get_arm("erase-update:overshoot=2").config(preset)["overshoot"] == 2.0
    assert ARMS["erase-update"].config(preset.with_settings(["overshoot=1.5"]))["overshoot"] == 1.5
    for name, arm in ARMS.items():
        assert arm.options(preset)["overshoot"] == found[name]


@pytest.mark.parametrize("name", list(PRESETS))
def test_every_presets_tasks_are_disjoint_and_alike(name: str) -> None:
    tasks = make_tasks(get_preset(name))
    rl = {task.problem.id for task in tasks.rl}
    held_out = {task.problem.id for task in tasks.held_out}
    assert rl
    assert held_out
    assert not rl & held_out
    assert not {problem.id for problem in tasks.pairs} & (rl | held_out)
    assert {task.problem.difficulty for task in tasks.held_out} <= {task.problem.difficulty for task in tasks.rl}
    assert {task.loophole.value for task in tasks.rl} == set(get_preset(name).loopholes)
    assert make_tasks(get_preset(name)) == tasks


def test_loopholes_are_dealt_evenly_over_every_difficulty() -> None:
    tasks = make_tasks(get_preset("smollm2"))
    counts = Counter(task.problem.difficulty for task in tasks.rl)
    assert counts == {name: count for name, count in get_preset("smollm2").limits().items() if count}
    for difficulty in ("easy", "pipeline"):
        counts = [
            sum(task.problem.difficulty == difficulty and task.loophole is loophole for task in tasks.rl)
            for loophole in map(Loophole, get_preset("smollm2").loopholes)
        ]
        assert max(counts) - min(counts) <= 1


def test_limits_that_leave_no_problem_are_told() -> None:
    nothing = get_preset("demo").with_settings(["easy=0", "pipeline=0", "medium=0", "hard=0"])
    with pytest.raises(UsageError, match="no problem of the split 'rl'"):
        make_tasks(nothing)


def test_changes_turn_the_named_preset_into_this_one() -> None:
    settings = ["lr=0.5", "easy=none", "loopholes=sentinel,run_tests", "vllm=true", "teacher_pool=none", "kl=1e-05"]
    changed = get_preset("demo").with_settings(settings)
    assert get_preset("demo").with_settings(changed.changes()) == changed
    assert get_preset("demo").changes() == []


def test_a_variant_changes_the_projection_and_the_preset_and_its_name() -> None:
    variant = get_arm("erase-update:overshoot=3:k=64:loopholes=sentinel,run_tests")
    assert variant.name == "erase-update@k=64,loopholes=sentinel+run_tests,overshoot=3"
    assert get_arm("erase-update:loopholes=sentinel,run_tests:k=64:overshoot=3").name == variant.name
    config = variant.config(get_preset("demo"))
    assert (config["overshoot"], config["k"], config["loopholes"]) == (3.0, 64, ["sentinel", "run_tests"])
    assert config["gate"] == "one_sided"
    assert get_arm("erase-update-two-sided:space=gradient").as_dict()["gate"] == "two_sided"


def test_a_variant_is_paid_by_another_reward() -> None:
    combined = get_arm("erase-update-refresh:reward=concept:alpha=3")
    assert combined.name == "erase-update-refresh@alpha=3,reward=concept"
    assert (combined.reward, combined.number("alpha"), combined.number("refresh_every")) == ("concept", 3.0, 5.0)
    assert combined.as_dict()["mode"] == "erase"
    assert get_arm("route:reward=penalty").number("penalty") == get_arm("ground-truth-penalty").number("penalty")
    plain = get_arm("ground-truth-penalty:reward=environment")
    assert (plain.reward, dict(plain.numbers)) == ("environment", {})
    with pytest.raises(
        UsageError, match="penalty goes with the reward 'penalty'; erase-update has 'concept': add reward=penalty"
    ):
        get_arm("erase-update:reward=concept:penalty=2")
    with pytest.raises(UsageError, match="alpha goes with the reward 'concept'"):
        get_arm("erase-update:alpha=3")


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        ("erase-update:k", "written erase-update:name=value"),
        ("erase-update:problems=/tmp/x", "by --set"),
        ("erase-update:k=1:k=2", "k is given twice"),
        ("erase-update:gate=half", "gate must be one of one_sided, two_sided, reverse, got 'half'"),
        ("erase-update:overshoot=-1", "overshoot must be a positive number"),
        ("erase-update:reward=none", "reward must be one of environment, honest, penalty, concept, got 'none'"),
        ("nothing:k=1", "unknown arm 'nothing'"),
    ],
)
def test_a_wrong_variant_is_one_line(variant: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        get_arm(variant)

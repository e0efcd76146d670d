"""Promises of the trainer: measuring changes nothing, erasing erases, cached rollouts are not counted, killed runs resume."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import Optimizer
from trl import GRPOTrainer

from examples.leetcode_grpo.arms import ARMS, get_arm
from examples.leetcode_grpo.equipment import CancellingRefresh
from examples.leetcode_grpo.errors import UsageError
from examples.leetcode_grpo.presets import Preset
from examples.leetcode_grpo.records import step_records
from examples.leetcode_grpo.tasks import Tasks, make_tasks
from examples.leetcode_grpo.teacher import TeacherPool
from examples.leetcode_grpo.tiny_model import tiny_model
from examples.leetcode_grpo.trainer import PolicyTrainer
from examples.leetcode_grpo.training import _last_checkpoint
from svdproj import HackDirection
from tests.examples.training_helpers import (
    HACK,
    LengthReward,
    cached_hack,
    gradient_pairs,
    tiny_preset,
    tiny_trainer,
    weights,
)

pytestmark = pytest.mark.xdist_group("training")


class BareTrainer(PolicyTrainer):
    """The same training without the wrapper."""

    def create_optimizer(self, *args: object, **kwargs: object) -> Optimizer:
        """TRL's own optimizer, bare."""
        return GRPOTrainer.create_optimizer(self, *args, **kwargs)


@pytest.fixture(scope="module")
def preset() -> Preset:
    return tiny_preset("steps=3", "teacher_per_group=0")


@pytest.fixture(scope="module")
def tasks(preset: Preset) -> Tasks:
    return make_tasks(preset)


@pytest.fixture(scope="module")
def direction() -> HackDirection:
    return HackDirection.from_gradients(gradient_pairs(tiny_model()[0]), k=4, chart="dense")


def test_vanilla_is_bit_identical_to_the_bare_optimizer(
    preset: Preset, tasks: Tasks, direction: HackDirection, tmp_path: Path
) -> None:
    measured = tiny_trainer(preset, tasks, direction, get_arm("vanilla"), tmp_path)
    measured.train()
    bare = tiny_trainer(preset, tasks, direction, get_arm("vanilla"), tmp_path, trainer_class=BareTrainer)
    bare.train()
    assert isinstance(bare.optimizer.optimizer, torch.optim.AdamW)
    expected = weights(bare.model)
    start = weights(tiny_model()[0])
    assert any(not torch.equal(value, start[name]) for name, value in expected.items())
    for name, value in weights(measured.model).items():
        assert torch.equal(value, expected[name]), name
    assert all(step["svdproj/cos_in"] > 0 for step in step_records(measured.state.log_history))


@pytest.mark.parametrize("name", [name for name, arm in ARMS.items() if arm.projection.get("mode") != "measure"])
def test_every_other_arm_moves_the_weights_elsewhere(
    name: str, preset: Preset, tasks: Tasks, direction: HackDirection, tmp_path: Path
) -> None:
    arm = get_arm(name)
    trainer = tiny_trainer(preset, tasks, direction, arm, tmp_path)
    trainer.train()
    steps = list(step_records(trainer.state.log_history))
    assert [step["step"] for step in steps] == [1, 2, 3]
    assert all(step["svdproj/removed"] > 0 for step in steps)
    if arm.projection.get("gate") != "reverse" and not arm.shrink:
        assert all(step["svdproj/cos_out"] < 1e-3 < step["svdproj/cos_in"] for step in steps)


def test_cached_rollouts_leave_the_own_rates_untouched(tasks: Tasks, direction: HackDirection, tmp_path: Path) -> None:
    mixed = tiny_preset("steps=1", "teacher_per_group=3", "max_new_tokens=24")
    pool = TeacherPool([cached_hack(task.problem.id, task.loophole) for task in tasks.rl])
    trainer = tiny_trainer(mixed, tasks, direction, get_arm("vanilla"), tmp_path, pool=pool)
    trainer.train()
    (step,) = step_records(trainer.state.log_history)
    # One cached hack was all that the pool had for each prompt: a quarter of the rollouts, none of the policy's own.
    assert step["hack"] == 0.0
    assert step["reward"] == 0.0
    texts = [completion[-1]["content"] for completion in trainer._logs["completion"]]
    assert texts.count(HACK) == mixed.prompts_per_step


def test_own_ratio_divides_by_the_teachers_probabilities(
    tasks: Tasks, direction: HackDirection, tmp_path: Path
) -> None:
    preset = tiny_preset("steps=1", "teacher_per_group=1", "teacher_ratio=own", "max_new_tokens=24")
    tokenizer = tiny_model()[1]
    ids = tuple(tokenizer(HACK, add_special_tokens=False)["input_ids"])
    pool = TeacherPool(
        cached_hack(task.problem.id, task.loophole, token_ids=ids, logprobs=(-1.5,) * len(ids)) for task in tasks.rl
    )
    trainer = tiny_trainer(preset, tasks, direction, get_arm("vanilla"), tmp_path, pool=pool)
    seen: list[dict[str, torch.Tensor]] = []
    generate = trainer._generate_and_score_completions
    trainer._generate_and_score_completions = lambda inputs: seen.append(generate(inputs)) or seen[-1]  # type: ignore[method-assign]
    trainer.train()
    (batch,) = seen
    old = batch["old_per_token_logps"]
    cached = (old[:, : len(ids)] == -1.5).all(1)
    assert cached.tolist() == [True, False, False, False] * preset.prompts_per_step
    # The policy's own: a near-uniform distribution over the vocabulary.
    assert math.isclose(float(old[~cached][:, 0].mean()), -math.log(len(tokenizer)), rel_tol=0.1)


@pytest.mark.parametrize("ratio", ["one", "own"])
@pytest.mark.parametrize("negative", ["drop", "keep"])
def test_what_is_cached_pushes_the_policy_away_only_where_that_has_a_bound_or_is_asked_for(
    negative: str, ratio: str, tasks: Tasks, direction: HackDirection, tmp_path: Path
) -> None:
    preset = tiny_preset(
        "steps=1", "teacher_per_group=1", "max_new_tokens=24", f"teacher_ratio={ratio}", f"teacher_negative={negative}"
    )
    ids = tuple(tiny_model()[1](HACK, add_special_tokens=False)["input_ids"])
    pool = TeacherPool(
        cached_hack(task.problem.id, task.loophole, token_ids=ids, logprobs=(-1.5,) * len(ids)) for task in tasks.rl
    )
    trainer = tiny_trainer(preset, tasks, direction, get_arm("vanilla"), tmp_path, pool=pool)
    # The cached rollout is paid the least of its group, and in the second group the most.
    rewards = [-4.0, 0.0, 1.0, 0.0, 8.0, 0.0, 1.0, 0.0]
    trainer.reward_funcs[0].reward = _Paying(rewards)
    seen: list[dict[str, torch.Tensor]] = []
    generate = trainer._generate_and_score_completions
    trainer._generate_and_score_completions = lambda inputs: seen.append(generate(inputs)) or seen[-1]  # type: ignore[method-assign]
    trainer.train()
    first, second = seen[0]["advantages"].view(2, preset.group_size)
    assert (float(first[0]) == 0.0) == (negative == "drop" and ratio == "one")
    assert float(first[0]) <= 0 < float(second[0])
    # Nothing else is touched: the policy's own rollouts are pushed away from as ever.
    assert float(second[1]) < 0
    assert float(first[1]) > 0


@pytest.mark.parametrize(
    ("settings", "silent"),
    [
        (("teacher_kl=drop",), True),
        (("teacher_kl=keep",), False),
        # Weighted by its own probabilities, what another drew does tell the divergence.
        (("teacher_kl=drop", "teacher_ratio=own"), False),
    ],
)
def test_the_divergence_is_told_by_what_the_policy_drew(
    settings: tuple[str, ...],
    silent: bool,
    tasks: Tasks,
    direction: HackDirection,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    preset = tiny_preset("steps=2", "teacher_per_group=1", "max_new_tokens=24", "kl=0.05", "lr=0.01", *settings)
    ids = tuple(tiny_model()[1](HACK, add_special_tokens=False)["input_ids"])
    pool = TeacherPool(
        cached_hack(task.problem.id, task.loophole, token_ids=ids, logprobs=(-1.5,) * len(ids)) for task in tasks.rl
    )
    trainer = tiny_trainer(preset, tasks, direction, get_arm("vanilla"), tmp_path, pool=pool)
    seen: list[torch.Tensor] = []
    generate = trainer._generate_and_score_completions

    def watched(inputs: list[dict[str, object]]) -> dict[str, Any]:
        output = generate(inputs)
        ids = torch.cat([output["prompt_ids"], output["completion_ids"]], dim=1)
        mask = torch.cat([output["prompt_mask"], output["completion_mask"]], dim=1)
        with torch.no_grad():
            logits = trainer.model(input_ids=ids, attention_mask=mask).logits[:, :-1]
        told = logits.log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
        distance = output["ref_per_token_logps"] - told[:, -output["completion_ids"].size(1) :]
        seen.append((distance * output["completion_mask"]).abs().amax(1))
        return output

    monkeypatch.setattr(trainer, "_generate_and_score_completions", watched)
    trainer.train()
    # In the second step the policy has left the reference.
    cached, own = seen[1].view(2, preset.group_size).tensor_split([1], dim=1)
    assert bool((cached < 1e-4).all()) == silent
    assert bool((own > 1e-2).all())


class _Paying(LengthReward):
    """Pays what it is told."""

    def __init__(self, rewards: list[float]) -> None:
        super().__init__()
        self.rewards = rewards

    def __call__(self, *args: Any, **kwargs: Any) -> list[float]:
        super().__call__(*args, **kwargs)
        return self.rewards


def test_a_gradient_that_is_not_finite_ends_the_run(
    preset: Preset, tasks: Tasks, direction: HackDirection, tmp_path: Path
) -> None:
    trainer = tiny_trainer(preset, tasks, direction, get_arm("erase-update"), tmp_path)
    compute = trainer.compute_loss
    before = torch.backends.cuda.cudnn_sdp_enabled()
    enabled: list[bool] = []

    def broken(*args: Any, **kwargs: Any) -> Any:
        enabled.append(torch.backends.cuda.cudnn_sdp_enabled())
        return compute(*args, **kwargs) * (float("nan") if trainer.state.global_step == 1 else 1.0)

    trainer.compute_loss = broken  # type: ignore[method-assign]
    with pytest.raises(UsageError, match="gradient of step 2 is not finite"):
        trainer.train()
    assert trainer.state.global_step == 2
    assert enabled
    assert not any(enabled)  # its attention is a known cause
    assert torch.backends.cuda.cudnn_sdp_enabled() == before


def test_a_resumed_run_removes_a_refreshed_direction_as_often_as_before(
    preset: Preset, tasks: Tasks, direction: HackDirection, tmp_path: Path
) -> None:
    energy = replace(direction.metadata.energy, rows_held_out=0.5)
    refreshed = HackDirection(direction.subspaces, replace(direction.metadata, energy=energy))

    def trained(checkpoint: str | None) -> list[float]:
        trainer = tiny_trainer(preset, tasks, direction, get_arm("erase-update"), tmp_path, save_every=2)
        trainer.add_callback(CancellingRefresh(1.0, 3.0, refresh_every=2, refit=lambda *_: refreshed))
        trainer.train(resume_from_checkpoint=checkpoint)
        return [entry["svdproj/overshoot"] for entry in trainer.state.log_history if "svdproj/overshoot" in entry]

    # The first direction does not say what its rows catch, so that the bound is taken.
    assert trained(None) == [3.0, 3.0, 2.0]
    assert trained(_last_checkpoint(tmp_path)) == [3.0, 3.0, 2.0]


@pytest.mark.parametrize("spec", ["erase-update", "route", "absorb:absorb_nats=100"])
def test_a_killed_run_resumes_to_the_same_weights(
    spec: str, preset: Preset, tasks: Tasks, direction: HackDirection, tmp_path: Path
) -> None:
    arm = get_arm(spec)
    whole = tiny_trainer(preset, tasks, direction, arm, tmp_path / "whole")
    whole.train()

    class Killed(Exception):
        pass

    first = tiny_trainer(preset, tasks, direction, arm, tmp_path / "cut", save_every=2)
    generate = first._generate_and_score_completions

    def dying(inputs: list[dict[str, object]]) -> dict[str, object]:
        if first.state.global_step == 2:
            raise Killed
        return generate(inputs)

    first._generate_and_score_completions = dying  # type: ignore[method-assign]
    with pytest.raises(Killed):
        first.train()
    checkpoint = _last_checkpoint(tmp_path / "cut")
    assert checkpoint is not None
    assert checkpoint.endswith("checkpoint-2")
    second = tiny_trainer(preset, tasks, direction, arm, tmp_path / "cut", save_every=2)
    second.train(resume_from_checkpoint=checkpoint)
    assert [step["step"] for step in step_records(second.state.log_history)] == [1, 2, 3]
    expected = weights(whole.model)
    for name, value in weights(second.model).items():
        assert torch.equal(value, expected[name]), name
    with whole.deployed(), second.deployed():
        deployed = weights(whole.model)
        for name, value in weights(second.model).items():
            assert torch.equal(value, deployed[name]), name
    moved = any(not torch.equal(value, expected[name]) for name, value in deployed.items())
    assert moved == (arm.quarantine != "none")  # else `deployed` has nothing to do, or does nothing


def test_a_run_that_is_killed_after_its_last_step_trains_no_step_more(
    preset: Preset, tasks: Tasks, direction: HackDirection, tmp_path: Path
) -> None:
    whole = tiny_trainer(preset, tasks, direction, get_arm("erase-update"), tmp_path, save_every=1)
    whole.train()
    checkpoint = _last_checkpoint(tmp_path)
    assert checkpoint == str(tmp_path / "checkpoint-2")  # of three steps
    again = tiny_trainer(preset, tasks, direction, get_arm("erase-update"), tmp_path, save_every=1)
    again.train(resume_from_checkpoint=checkpoint)
    assert [step["step"] for step in step_records(again.state.log_history)] == [1, 2, 3]
    expected = weights(whole.model)
    for name, value in weights(again.model).items():
        assert torch.equal(value, expected[name]), name


def test_a_half_written_checkpoint_is_passed_over(tmp_path: Path) -> None:
    for step, complete in ((2, True), (10, True), (12, False)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        if complete:
            (folder / "trainer_state.json").write_text("{}")
    assert _last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")
    assert _last_checkpoint(tmp_path / "nowhere") is None

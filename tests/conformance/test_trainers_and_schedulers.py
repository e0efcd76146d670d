"""Schedulers, scalers, closures, and trainers' habits."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch.optim import lr_scheduler

from svdproj import HackDirection, ProjectedOptimizer
from svdproj.projector import INERT_STEPS
from tests.conformance.helpers import (
    Weights,
    assert_same,
    assert_same_training,
    assert_update_guarantee,
    backward,
    copies,
    direction_for,
)

SCHEDULERS: dict[str, Callable[[Any], Any]] = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda step: 0.9**step),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, max_lr=0.1, total_steps=8),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.ConstantLR(o), lr_scheduler.ExponentialLR(o, 0.9)], milestones=[2]
    ),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 3),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0),
    "transformers linear": lambda o: transformers.get_linear_schedule_with_warmup(o, 2, 8),
    "transformers cosine": lambda o: transformers.get_cosine_schedule_with_warmup(o, 2, 8),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers_drive_the_wrapper_as_they_drive_the_bare_optimizer(name: str) -> None:
    def trained(wrap: bool) -> tuple[Weights, torch.optim.Optimizer, Any]:
        model = Weights()
        optimizer: torch.optim.Optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
        if wrap:
            optimizer = ProjectedOptimizer(optimizer, HackDirection.empty(), model)
        scheduler = SCHEDULERS[name](optimizer)
        for step in range(5):
            loss = backward(model, step)
            optimizer.step()
            scheduler.step(*([loss.item()] if name == "ReduceLROnPlateau" else []))
        return model, optimizer, scheduler

    *bare, bare_scheduler = trained(False)
    *wrapped, scheduler = trained(True)
    assert_same_training((bare[0], bare[1]), (wrapped[0], wrapped[1]))
    assert_same(
        {k: v for k, v in bare_scheduler.state_dict().items() if "scheduler" not in k},
        {k: v for k, v in scheduler.state_dict().items() if "scheduler" not in k},
    )


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("projection", [None, {"space": "update"}, {"space": "gradient"}])
def test_the_scaler_gives_the_bare_optimizers_numbers(fused: bool, projection: dict[str, Any] | None) -> None:
    """Also through an overflow, which the scaler answers by skipping the step."""

    def trained(wrap: bool, mode: str = "measure") -> tuple[Weights, torch.optim.Optimizer, torch.amp.GradScaler]:
        model = Weights()
        optimizer: torch.optim.Optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=fused)
        if wrap:
            direction = direction_for(model) if projection else HackDirection.empty()
            optimizer = ProjectedOptimizer(optimizer, direction, model, mode=mode, **(projection or {}))
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        for step in range(4):
            model.zero_grad()
            scaler.scale(model.loss(batch_with_overflow(step))).backward()
            before, report = copies(model), wrap and optimizer.metrics()  # type: ignore[attr-defined]
            scaler.step(optimizer)
            scaler.update()
            if step == 2:
                assert_same(before, copies(model))
                assert report == (wrap and optimizer.metrics())  # type: ignore[attr-defined]
            elif mode == "erase" and wrap and optimizer.options.space == "update":  # type: ignore[attr-defined]
                assert_update_guarantee(model, before, optimizer.direction, "one_sided")  # type: ignore[attr-defined]
        return model, optimizer, scaler

    bare_model, bare, bare_scaler = trained(False)
    model, wrapped, scaler = trained(True)
    assert_same_training((bare_model, bare), (model, wrapped))
    assert bare_scaler.state_dict() == scaler.state_dict()
    if projection:
        trained(True, mode="erase")


def batch_with_overflow(step: int) -> torch.Tensor:
    x = torch.randn(16, 8, generator=torch.Generator().manual_seed(step))
    return x * float("inf") if step == 2 else x


@pytest.mark.parametrize("space", ["gradient", "update"])
def test_a_closure_is_projected_and_its_loss_comes_back(space: str) -> None:
    """As Lightning steps every optimizer: the closure is always passed, and zeroes, evaluates and backpropagates."""
    with_closure, without = Weights(), Weights()
    direction = direction_for(with_closure)
    first = ProjectedOptimizer(torch.optim.AdamW(with_closure.parameters()), direction, with_closure, space=space)
    second = ProjectedOptimizer(torch.optim.AdamW(without.parameters()), direction, without, space=space)
    for step in range(3):
        loss = first.step(closure=lambda step=step: backward(with_closure, step))
        expected = backward(without, step)
        assert second.step() is None
        assert torch.equal(loss, expected)
    assert_same_training((with_closure, first), (without, second))
    assert first.metrics() == second.metrics()


@pytest.mark.parametrize("space", ["gradient", "update"])
@pytest.mark.parametrize(
    ("dtype", "options"),
    [(torch.float32, None), (torch.float32, {"mode": "measure"}), (torch.bfloat16, {"write_back": "exact"})],
    ids=["empty", "measure", "masters"],
)
def test_the_loss_comes_back_whatever_is_done_with_the_step(
    space: str, dtype: torch.dtype, options: dict[str, Any] | None
) -> None:
    model = Weights(dtype=dtype)
    direction = HackDirection.empty() if options is None else direction_for(model)
    inner = torch.optim.SGD(model.parameters(), lr=0.01)
    wrapped = ProjectedOptimizer(inner, direction, model, space=space, **(options or {}))
    losses: list[torch.Tensor] = []

    def closure() -> torch.Tensor:
        losses.append(backward(model, 0))
        return losses[-1]

    assert wrapped.step(closure) is losses[0]
    assert len(losses) == 1


@pytest.mark.parametrize("write_back", ["auto", "exact"])
@pytest.mark.parametrize("space", ["gradient", "update"])
def test_a_closure_that_leaves_no_gradient_changes_nothing(space: str, write_back: str) -> None:
    """Whether there will be gradients is not known before it is called; counters, noise and report stay as they were."""
    model = Weights(dtype=torch.bfloat16)
    inner = torch.optim.AdamW(model.parameters(), lr=0.01)
    wrapped = ProjectedOptimizer(inner, direction_for(model), model, space=space, write_back=write_back)
    wrapped.step(lambda: backward(model, 0))
    before, state, metrics = copies(model), copy.deepcopy(wrapped.state_dict()), wrapped.metrics()
    for _ in range(INERT_STEPS + 1):
        wrapped.step(wrapped.zero_grad)
    assert_same(before, copies(model))
    assert_same(state, wrapped.state_dict())
    assert wrapped.metrics() == metrics
    assert metrics["svdproj/projected"] == 4


def test_gradient_space_projects_at_every_evaluation_of_a_closure() -> None:
    model = Weights()
    direction = direction_for(model)
    wrapped = ProjectedOptimizer(torch.optim.LBFGS(model.parameters(), max_iter=5), direction, model, space="gradient")
    before, evaluations = copies(model), []

    def closure() -> torch.Tensor:
        evaluations.append(None)
        return backward(model, 0)

    wrapped.step(closure)
    assert len(evaluations) > 2
    # Every direction of LBFGS is a combination of gradients; with all of them two-sided the whole step stays out.
    model, evaluations = Weights(), []
    wrapped = ProjectedOptimizer(
        torch.optim.LBFGS(model.parameters(), max_iter=5), direction, model, space="gradient", gate="two_sided"
    )
    wrapped.step(closure)
    assert_update_guarantee(model, before, direction, "two_sided")


@pytest.mark.parametrize("space", ["gradient", "update"])
def test_accumulation_projects_the_sum_once(space: str) -> None:
    """One-sided gating is nonlinear: gating each micro-batch would remove more."""
    whole, accumulated = Weights(), Weights()
    direction = direction_for(whole)
    optimizers = [
        ProjectedOptimizer(torch.optim.SGD(m.parameters(), lr=0.1), direction, m, space=space)
        for m in (whole, accumulated)
    ]
    batches = [torch.randn(16, 8) for _ in range(4)]
    (sum(whole.loss(x) for x in batches) / 4).backward()  # type: ignore[union-attr]
    optimizers[0].step()
    for x in batches:
        (accumulated.loss(x) / 4).backward()
    optimizers[1].step()
    torch.testing.assert_close(dict(whole.named_parameters()), dict(accumulated.named_parameters()))
    assert optimizers[1].metrics()["svdproj/cos_in"] == pytest.approx(
        optimizers[0].metrics()["svdproj/cos_in"], rel=1e-4
    )

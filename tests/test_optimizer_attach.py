"""`attach`: the wrapper's projection as step hooks, and where it ends."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch

from svdproj import HackDirection, ProjectedOptimizer, attach
from tests.conformance.helpers import (
    Weights,
    assert_same,
    assert_same_training,
    assert_update_guarantee,
    backward,
    copies,
    direction_for,
    offence,
    train,
)


def make(seed: int = 0, **options: Any) -> tuple[Weights, torch.optim.AdamW]:
    model = Weights(seed, **options)
    return model, torch.optim.AdamW(model.parameters(), lr=0.01)


@pytest.mark.parametrize("space", ["gradient", "update"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_hooks_do_what_the_wrapper_does(space: str, dtype: torch.dtype) -> None:
    model, optimizer = make(dtype=dtype)
    twin, inner = make(dtype=dtype)
    handle = attach(optimizer, direction_for(model), model, space=space)
    wrapped = ProjectedOptimizer(inner, direction_for(twin), twin, space=space)
    train(model, optimizer, range(3))
    train(twin, wrapped, range(3))
    assert type(optimizer) is torch.optim.AdamW
    assert_same_training((model, optimizer), (twin, wrapped))
    assert handle.metrics() == wrapped.metrics()
    assert handle.coverage() == wrapped.coverage()


@pytest.mark.parametrize("positional", [False, True])
@pytest.mark.parametrize("space", ["gradient", "update"])
def test_closures_are_projected(space: str, positional: bool) -> None:
    model = Weights()
    direction = direction_for(model)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=4)
    attach(optimizer, direction, model, space=space, gate="two_sided")
    before = copies(model)

    def closure() -> torch.Tensor:
        return backward(model, 0)

    loss = optimizer.step(closure) if positional else optimizer.step(closure=closure)
    assert torch.is_tensor(loss)
    assert_update_guarantee(model, before, direction, "two_sided")


def test_after_removal_the_optimizer_is_bare() -> None:
    model, optimizer = make()
    twin, bare = make()
    attach(optimizer, direction_for(model), model).remove()
    train(model, optimizer, range(2))
    train(twin, bare, range(2))
    assert_same_training((twin, bare), (model, optimizer))


def test_empty_direction_and_skipped_steps() -> None:
    model, optimizer = make()
    twin, bare = make()
    attach(optimizer, HackDirection.empty(), model)
    train(model, optimizer, range(2))
    train(twin, bare, range(2))
    assert_same_training((twin, bare), (model, optimizer))
    handle = attach(optimizer, direction_for(model), model)
    optimizer.zero_grad()
    before = copies(model)
    optimizer.step()
    assert_same(before, copies(model))
    assert handle.metrics()["svdproj/projected"] == 0


def test_the_direction_can_be_replaced_and_its_state_saved() -> None:
    model, optimizer = make(dtype=torch.bfloat16)
    handle = attach(optimizer, direction_for(model), model)
    train(model, optimizer, range(2))
    twin, other = make(dtype=torch.bfloat16)
    twin.load_state_dict(model.state_dict())
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    second = attach(other, direction_for(twin), twin)
    second.load_state_dict(copy.deepcopy(handle.state_dict()))
    train(model, optimizer, range(2, 4))
    train(twin, other, range(2, 4))
    assert_same_training((model, optimizer), (twin, other))
    handle.set_direction(direction_for(model, seed=8))
    assert handle.direction.fingerprint == direction_for(model, seed=8).fingerprint


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))], ids=["deepcopy", "pickle"]
)
def test_limit_a_copy_is_not_projected(copied: Callable[[Any], Any]) -> None:
    model, optimizer = make()
    direction = direction_for(model)
    attach(optimizer, direction, model, gate="two_sided")
    twin, other = copied((model, optimizer))
    before = copies(twin)
    train(twin, other, range(1))
    delta = twin.first.detach() - before["first"]
    assert offence(direction, "first", -delta, "two_sided") > 1e-3 * delta.norm()


def test_limit_the_optimizers_checkpoint_knows_nothing_of_the_direction() -> None:
    model, optimizer = make(dtype=torch.bfloat16)
    handle = attach(optimizer, direction_for(model), model)
    train(model, optimizer, range(1))
    assert set(optimizer.state_dict()) == {"state", "param_groups"}
    assert handle.state_dict()["direction"] == handle.direction.fingerprint
    assert handle.state_dict()["rounding"] == 1


def test_limit_a_step_that_raises_leaves_nothing_behind() -> None:
    model, optimizer = make()
    direction = direction_for(model)
    attach(optimizer, direction, model)

    def closure() -> None:
        raise FloatingPointError

    with pytest.raises(FloatingPointError):
        optimizer.step(closure)  # type: ignore[arg-type]
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(0.5)
    before = copies(model)
    optimizer.step()  # without gradients
    assert_same(before, copies(model))
    train(model, optimizer, range(1))
    assert_update_guarantee(model, before, direction, "one_sided")


def test_limit_what_a_step_moved_before_it_raised_stays() -> None:
    model = Weights()
    optimizer = torch.optim.AdamW([{"params": [model.first]}, {"params": [model.second, model.lying, model.bias]}])
    direction = direction_for(model)
    attach(optimizer, direction, model, gate="two_sided")
    before = copies(model)
    backward(model, 0)
    optimizer.param_groups[1]["betas"] = None
    with pytest.raises(TypeError):
        optimizer.step()
    delta = model.first.detach() - before["first"]
    assert offence(direction, "first", -delta, "two_sided") > 1e-3 * delta.norm()


def test_a_failed_step_is_forgotten_when_the_direction_is_emptied() -> None:
    model, optimizer = make()
    handle = attach(optimizer, direction_for(model), model)
    backward(model, 0)
    betas, optimizer.param_groups[0]["betas"] = optimizer.param_groups[0]["betas"], None
    with pytest.raises(TypeError):
        optimizer.step()
    optimizer.param_groups[0]["betas"] = betas
    handle.set_direction(HackDirection.empty())
    twin, bare = make()
    train(model, optimizer, range(2))
    train(twin, bare, range(2))
    assert_same_training((twin, bare), (model, optimizer))


def test_limit_a_fused_optimizers_skipped_step_is_counted() -> None:
    model = Weights()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    handle = attach(optimizer, direction_for(model), model)
    scaler = torch.amp.GradScaler("cpu", init_scale=16.0)
    scaler.scale(model.loss(torch.full((2, 8), float("inf")))).backward()
    before = copies(model)
    scaler.step(optimizer)
    assert_same(before, copies(model))
    assert handle.metrics()["svdproj/projected"] == 4


def test_limit_exact_masters_need_the_wrapper() -> None:
    model, optimizer = make()
    with pytest.raises(ValueError, match="use ProjectedOptimizer"):
        attach(optimizer, direction_for(model), model, write_back="exact")

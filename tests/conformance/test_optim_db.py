"""Every optimizer of torch, in every configuration of torch's own optimizer database that runs on a CPU."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR
from torch.testing._internal.common_optimizers import (
    OptimizerInfo,
    _get_optim_inputs_including_global_cliquey_kwargs,
    optim_db,
)

from svdproj import HackDirection, ProjectedOptimizer
from tests.conformance.helpers import (
    Weights,
    assert_same_training,
    assert_update_guarantee,
    backward,
    copies,
    direction_for,
    offence,
)
from tests.gate_helpers import REMOVING


def _configurations() -> Iterator[Any]:
    """One case for each optimizer and distinct set of arguments."""
    for info in optim_db:
        seen: set[str] = set()
        inputs = _get_optim_inputs_including_global_cliquey_kwargs("cpu", torch.float32, info, skip=("differentiable",))
        for optim_input in inputs:
            kwargs = {key: value for key, value in optim_input.kwargs.items() if key != "differentiable"}
            if kwargs.get("capturable") or repr(kwargs) in seen:  # CUDA graphs; torch refuses the flag on a CPU
                continue
            seen.add(repr(kwargs))
            label = "-".join(f"{key}={value}" for key, value in kwargs.items()) or "defaults"
            yield pytest.param(info, kwargs, id=f"{info.optim_cls.__name__}-{label}")


CONFIGURATIONS = list(_configurations())
DENSE = [case for case in CONFIGURATIONS if not case.values[0].only_supports_sparse_grads]
SPARSE = [case for case in CONFIGURATIONS if case.values[0].only_supports_sparse_grads]
# torch's LBFGS cannot be copied: it keeps its parameters in an attribute that Optimizer.__getstate__ leaves behind.
_COPYABLE = [case for case in DENSE if not case.values[0].step_requires_closure]
_FIRST_OF_EACH = list({case.values[0].optim_cls: case for case in reversed(DENSE)}.values())

# A new learning rate reaches their step sizes late or never.
_OWN_STEP_SIZES = (torch.optim.ASGD, torch.optim.Rprop)


def _make(info: OptimizerInfo, kwargs: dict[str, Any], seed: int = 0) -> tuple[Weights, torch.optim.Optimizer]:
    model = Weights(seed, vector=info.optim_cls.__name__ != "Muon")  # Muon is for matrices
    return model, info.optim_cls(model.parameters(), **copy.deepcopy(kwargs))


def _step(info: OptimizerInfo, model: Weights, optimizer: torch.optim.Optimizer, step: int, clip: bool = True) -> None:
    if info.step_requires_closure:
        optimizer.step(lambda: backward(model, step))
        return
    backward(model, step)
    if clip:
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.05)
    optimizer.step()


def _train_with_gaps(info: OptimizerInfo, model: Weights, optimizer: torch.optim.Optimizer) -> None:
    """Four steps, one with a parameter without gradient and one without any."""
    _step(info, model, optimizer, 0)
    if not info.step_requires_closure:
        backward(model, 1)
        model.second.grad = None
        optimizer.step()
        optimizer.zero_grad()
        optimizer.step()
    _step(info, model, optimizer, 2)


@pytest.mark.parametrize(("info", "kwargs"), DENSE)
def test_an_empty_direction_and_measuring_change_no_bit(info: OptimizerInfo, kwargs: dict[str, Any]) -> None:
    model, optimizer = _make(info, kwargs)
    _train_with_gaps(info, model, optimizer)
    for direction, options in (
        (HackDirection.empty(), {}),
        (direction_for(model), {"mode": "measure"}),
        (direction_for(model), {"mode": "measure", "space": "gradient"}),
    ):
        twin, inner = _make(info, kwargs)
        wrapped = ProjectedOptimizer(inner, direction, twin, **options)
        _train_with_gaps(info, twin, wrapped)
        assert_same_training((model, optimizer), (twin, wrapped))
        assert (wrapped.metrics()["svdproj/projected"] > 0) == bool(len(direction))


@pytest.mark.parametrize("gate", REMOVING)
@pytest.mark.parametrize(("info", "kwargs"), DENSE)
def test_the_applied_update_stays_out(info: OptimizerInfo, kwargs: dict[str, Any], gate: str) -> None:
    model, optimizer = _make(info, kwargs)
    direction = direction_for(model)
    wrapped = ProjectedOptimizer(optimizer, direction, model, gate=gate)
    # RAdam is plain momentum, which a projected gradient keeps out as well, until its sixth step.
    for step in range(7 if info.optim_cls is torch.optim.RAdam else 3):
        before = copies(model)
        _step(info, model, wrapped, step, clip=step > 0)
        assert_update_guarantee(model, before, direction, gate, moved=False)
        assert any(not torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert wrapped.metrics()["svdproj/projected"] == len(list(model.parameters()))


@pytest.mark.parametrize(("info", "kwargs"), DENSE)
def test_the_projected_gradient_stays_out(info: OptimizerInfo, kwargs: dict[str, Any]) -> None:
    model, optimizer = _make(info, kwargs)
    direction = direction_for(model)
    wrapped = ProjectedOptimizer(optimizer, direction, model, space="gradient")
    sign = -1 if kwargs.get("maximize") else 1
    for step in range(2):
        _step(info, model, wrapped, step)
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None
            assert offence(direction, name, sign * parameter.grad, "one_sided") <= 1e-5 * float(parameter.grad.norm())


@pytest.mark.parametrize("space", ["gradient", "update"])
@pytest.mark.parametrize(("info", "kwargs"), _COPYABLE)
def test_copies_take_the_same_next_steps(info: OptimizerInfo, kwargs: dict[str, Any], space: str) -> None:
    model, optimizer = _make(info, kwargs)
    wrapped: Any = ProjectedOptimizer(optimizer, direction_for(model), model, space=space)
    _step(info, model, wrapped, 0)
    others = [copy.deepcopy((model, wrapped)), pickle.loads(pickle.dumps((model, wrapped)))]
    _step(info, model, wrapped, 1)
    for twin, copied in others:
        assert copied.optimizer is not optimizer
        _step(info, twin, copied, 1)
        assert_same_training((model, wrapped), (twin, copied))
        assert copied.metrics() == wrapped.metrics()


@pytest.mark.parametrize("space", ["gradient", "update"])
@pytest.mark.parametrize(("info", "kwargs"), _FIRST_OF_EACH)
def test_a_scheduler_drives_a_projecting_wrapper(info: OptimizerInfo, kwargs: dict[str, Any], space: str) -> None:
    """The learning rates are those of the bare optimizer, and what they make of the step stays out."""
    model, optimizer = _make(info, kwargs)
    bare = _make(info, kwargs)[1]
    direction = direction_for(model)
    wrapped = ProjectedOptimizer(optimizer, direction, model, space=space, gate="two_sided")
    factors = [1.0, 0.5, 0.0, 2.0]
    scheduler, expected = (LambdaLR(o, lambda step: factors[min(step, 3)]) for o in (wrapped, bare))
    rates = []
    for step in range(4):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        before = copies(model)
        _step(info, model, wrapped, step)
        if space == "update":
            assert_update_guarantee(model, before, direction, "two_sided", moved=False)
        moved = any(not torch.equal(p, before[name]) for name, p in model.named_parameters())
        assert moved == bool(factors[step]) or info.optim_cls in _OWN_STEP_SIZES
        assert not moved or wrapped.metrics()["svdproj/removed"] > 0
        bare.step(*([lambda: torch.zeros(())] if info.step_requires_closure else []))  # or the scheduler would warn
        scheduler.step()
        expected.step()
        assert scheduler.get_last_lr() == expected.get_last_lr() == [group["lr"] for group in wrapped.param_groups]
    assert rates == pytest.approx([rates[0] * factor for factor in factors])


@pytest.mark.parametrize(("info", "kwargs"), SPARSE)
def test_sparse_optimizers_work_bare_and_are_refused_under_a_subspace(
    info: OptimizerInfo, kwargs: dict[str, Any]
) -> None:
    def trained(direction: HackDirection | None) -> torch.Tensor:
        torch.manual_seed(0)
        layer = torch.nn.Embedding(10, 4, sparse=True)
        optimizer = info.optim_cls(layer.parameters(), **copy.deepcopy(kwargs))
        if direction is not None:
            optimizer = ProjectedOptimizer(optimizer, direction, layer)
        for _ in range(2):
            optimizer.zero_grad()
            layer(torch.tensor([1, 3])).square().sum().backward()
            optimizer.step()
        return layer.weight.detach()

    assert torch.equal(trained(None), trained(HackDirection.empty()))
    with pytest.raises(TypeError, match="weight has a sparse gradient"):
        trained(direction_for(torch.nn.Embedding(10, 4)))

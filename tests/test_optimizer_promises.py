"""What the wrapped optimizer promises, on a small network; the conformance suite says the same of every torch optimizer."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adagrad, AdamW, Optimizer, RMSprop

from svdproj import HackDirection, ProjectedOptimizer

OPTIMIZERS: dict[str, Callable[[Any], Optimizer]] = {
    "sgd": lambda p: SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
    "adamw": lambda p: AdamW(p, lr=0.01, weight_decay=0.1),
    "rmsprop": lambda p: RMSprop(p, lr=0.01, momentum=0.9),
    "adagrad": lambda p: Adagrad(p, lr=0.1),
}


@pytest.fixture
def model() -> nn.Module:
    return nn.Sequential(nn.Linear(12, 20), nn.Tanh(), nn.Linear(20, 6))


@pytest.fixture
def direction(model: nn.Module) -> HackDirection:
    differences = {name: torch.randn(8, *p.shape) + 0.3 for name, p in model.named_parameters() if p.ndim == 2}
    return HackDirection.from_gradients(differences, k=4, chart_rank=5)


def backward(model: nn.Module) -> None:
    model.zero_grad()
    model(torch.randn(16, 12)).square().sum().backward()


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def hackward(direction: HackDirection, before: dict[str, Tensor], after: dict[str, Tensor]) -> dict[str, float]:
    """The hack-ward part of each covered displacement, over its norm."""
    shares = {}
    for name, subspace in direction.subspaces.items():
        moved = after[name].double() - before[name].double()
        shares[name] = float(subspace.coefficients(-moved.float()).relu().norm() / moved.norm())
    return shares


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_applied_update_has_no_hackward_part(name: str, model: nn.Module, direction: HackDirection) -> None:
    optimizer = ProjectedOptimizer(OPTIMIZERS[name](model.parameters()), direction, model)
    worst_bare = 0.0
    for _ in range(5):
        backward(model)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        bare = copy.deepcopy(model)
        start = weights(model)
        optimizer.step()
        assert max(hackward(direction, start, weights(model)).values()) < 1e-5
        for copied, original in zip(bare.parameters(), model.parameters(), strict=True):
            copied.grad = original.grad
        OPTIMIZERS[name](bare.parameters()).step()
        worst_bare = max(worst_bare, *hackward(direction, start, weights(bare)).values())
    assert worst_bare > 1e-2, "without the wrapper there would have been nothing to remove, so this proves nothing"


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("how", ["empty", "measure"])
def test_an_empty_direction_and_measuring_change_no_bit(
    name: str, how: str, model: nn.Module, direction: HackDirection
) -> None:
    twin = copy.deepcopy(model)
    bare = OPTIMIZERS[name](twin.parameters())
    wrapped = ProjectedOptimizer(
        OPTIMIZERS[name](model.parameters()),
        HackDirection.empty() if how == "empty" else direction,
        model,
        mode="erase" if how == "empty" else "measure",
    )
    for step in range(4):
        for net in (model, twin):
            torch.manual_seed(step)
            backward(net)
            if step == 2:
                next(net.parameters()).grad = None
        wrapped.step()
        bare.step()
    for mine, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    for mine, theirs in zip(wrapped.state_dict()["state"].values(), bare.state_dict()["state"].values(), strict=True):
        for key, value in mine.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(theirs[key]))
    assert ("svdproj" in wrapped.state_dict()) == (how == "measure")


def test_gradient_space_leaves_a_clean_gradient(model: nn.Module, direction: HackDirection) -> None:
    optimizer = ProjectedOptimizer(
        SGD(model.parameters(), lr=0.1), direction, model, space="gradient", gate="two_sided"
    )
    backward(model)
    optimizer.step()
    for name, subspace in direction.subspaces.items():
        grad = model.get_parameter(name).grad
        assert grad is not None
        assert float(subspace.coefficients(grad).norm()) <= 1e-5 * float(grad.norm())


def test_resuming_is_bit_exact_and_checkpoints_interchange(model: nn.Module, direction: HackDirection) -> None:
    optimizer = ProjectedOptimizer(AdamW(model.parameters(), lr=0.01), direction, model)
    for step in range(3):
        torch.manual_seed(step)
        backward(model)
        optimizer.step()
    resumed_model = copy.deepcopy(model)
    resumed = ProjectedOptimizer(AdamW(resumed_model.parameters(), lr=0.01), direction, resumed_model)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    AdamW(copy.deepcopy(model).parameters(), lr=0.01).load_state_dict(optimizer.state_dict())
    for net, optim in ((model, optimizer), (resumed_model, resumed)):
        torch.manual_seed(9)
        backward(net)
        optim.step()
    for mine, theirs in zip(model.parameters(), resumed_model.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_resuming_under_another_direction_is_refused(model: nn.Module, direction: HackDirection) -> None:
    saved = ProjectedOptimizer(AdamW(model.parameters()), direction, model).state_dict()
    other = ProjectedOptimizer(AdamW(model.parameters()), direction.random_like(1), model)
    with pytest.raises(ValueError, match="set_direction"):
        other.load_state_dict(saved)


def test_stochastic_rounding_reports_its_residual_and_masters_remove_it(
    model: nn.Module, direction: HackDirection
) -> None:
    model.bfloat16()
    residuals = {}
    for write_back in ("auto", "exact"):
        net = copy.deepcopy(model)
        optimizer = ProjectedOptimizer(AdamW(net.parameters(), lr=1e-2), direction, net, write_back=write_back)  # type: ignore[arg-type]
        net(torch.randn(16, 12).bfloat16()).square().sum().backward()
        optimizer.step()
        residuals[write_back] = optimizer.metrics()["svdproj/residual"]
        assert all(p.dtype == torch.bfloat16 for p in net.parameters())
    assert residuals["exact"] < 1e-5 < residuals["auto"]


def test_a_direction_for_another_model_is_refused_by_name(model: nn.Module, direction: HackDirection) -> None:
    with pytest.raises(ValueError, match=r"matches none of the 2 parameters.*0.weight"):
        ProjectedOptimizer(SGD(nn.LSTM(2, 2, bias=False).parameters()), direction, nn.LSTM(2, 2, bias=False))
    wrong = nn.Sequential(nn.Linear(3, 20), nn.Tanh(), nn.Linear(20, 6))
    with pytest.raises(ValueError, match="belongs to another model"):
        ProjectedOptimizer(SGD(wrong.parameters()), direction, wrong)
    part = nn.Sequential(nn.Linear(12, 20))
    with pytest.warns(UserWarning, match=r"not in the model: 2\.weight"):
        ProjectedOptimizer(SGD(part.parameters()), direction, part)


def test_nothing_projected_for_many_steps_is_an_error(model: nn.Module, direction: HackDirection) -> None:
    for parameter in (p for p in model.parameters() if p.ndim == 2):
        parameter.requires_grad_(False)
    with pytest.warns(UserWarning, match="trains 0 of the 2 parameters"):
        optimizer = ProjectedOptimizer(SGD(model.parameters(), lr=0.1), direction, model)
    for _ in range(49):
        backward(model)
        optimizer.step()
    backward(model)
    with pytest.raises(RuntimeError, match="nothing is protected"):
        optimizer.step()


@pytest.mark.parametrize("option", ["space", "gate", "mode", "write_back"])
def test_an_unknown_option_names_the_known_ones(option: str, model: nn.Module) -> None:
    with pytest.raises(Exception, match=r"choose one of|violates type hint"):
        ProjectedOptimizer(SGD(model.parameters()), HackDirection.empty(), model, **{option: "sideways"})  # type: ignore[arg-type]


def test_it_is_an_optimizer_that_schedulers_drive(model: nn.Module, direction: HackDirection) -> None:
    inner = SGD(model.parameters(), lr=1.0)
    optimizer = ProjectedOptimizer(inner, direction, model)
    assert isinstance(optimizer, Optimizer)
    assert optimizer.param_groups is inner.param_groups
    assert optimizer.state is inner.state
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
    backward(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step()
        scheduler.step()
    assert inner.param_groups[0]["lr"] == 0.5

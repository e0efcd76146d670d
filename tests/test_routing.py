"""Promises of `mode="route"`: what the parameter loses its quarantine gets, nothing else changes, mistakes are named."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from svdproj import HackDirection, ProjectedOptimizer, attach
from tests.conformance.helpers import assert_same, batch, direction_for, offence

NAMES = ("first", "second", "lying", "bias")
SPACES = ("gradient", "update")


class Split(nn.Module):
    """`Weights` with a quarantine beside each parameter: what counts is their sum, gradients go to the parameters alone."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        for name, shape in zip(NAMES, [(12, 8), (12, 8), (8, 12), (12,)], strict=True):
            setattr(self, name, nn.Parameter(torch.randn(*shape, generator=generator).to(dtype)))
            setattr(self, f"q_{name}", nn.Parameter(torch.zeros(*shape, dtype=dtype)))

    def forward(self, x: Tensor) -> Tensor:
        first, second, lying, bias = (getattr(self, n) + getattr(self, f"q_{n}").detach() for n in NAMES)
        return (torch.tanh(x @ first.mT @ lying.mT) @ second.mT + bias).square().mean()

    @property
    def quarantine(self) -> dict[str, Tensor]:
        return {name: getattr(self, f"q_{name}") for name in NAMES}


def directions(model: Split, k: int = 3) -> HackDirection:
    return HackDirection({name: s for name, s in direction_for(model, k=k).subspaces.items() if name in NAMES})


def routed(model: Split, inner: torch.optim.Optimizer, space: Any = "gradient", **options: Any) -> ProjectedOptimizer:
    return ProjectedOptimizer(
        inner, directions(model), model, mode="route", space=space, quarantine=model.quarantine, **options
    )


def gradients(model: Split, step: int) -> dict[str, Tensor]:
    model.zero_grad()
    model(batch(step, model.first.dtype)).backward()
    return {name: getattr(model, name).grad.clone() for name in NAMES}


def together(model: Split) -> dict[str, Tensor]:
    return {n: (getattr(model, n).double() + getattr(model, f"q_{n}").double()).detach() for n in NAMES}


@pytest.mark.parametrize("gate", ["one_sided", "two_sided", "reverse"])
@pytest.mark.parametrize("maximize", [False, True])
def test_the_parts_of_a_gradient_add_up_to_it(gate: Any, maximize: bool) -> None:
    model = Split()
    inner = torch.optim.SGD(model.parameters(), lr=0.01, maximize=maximize)
    wrapped = routed(model, inner, gate=gate)
    whole = gradients(model, 0)
    wrapped.step()
    for name, gradient in whole.items():
        kept, part = getattr(model, name).grad, getattr(model, f"q_{name}").grad
        torch.testing.assert_close(kept + part, gradient)
        sign = -1 if maximize else 1
        if gate != "reverse":
            assert offence(wrapped.direction, name, sign * kept, gate) <= 1e-5 * gradient.norm()
    assert any(q.grad.norm() > 0 for q in model.quarantine.values()), "nothing was routed: the test passes for nothing"


OPTIMIZERS: list[Callable[..., torch.optim.Optimizer]] = [
    lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
    lambda p: torch.optim.AdamW(p, lr=0.01),
    lambda p: torch.optim.Adam(p, lr=0.01, maximize=True),
    lambda p: torch.optim.RMSprop(p, lr=0.01),
]


@pytest.mark.parametrize("make", OPTIMIZERS)
def test_in_update_space_both_steps_add_up_to_the_bare_optimizers(make: Any) -> None:
    """So nothing that an optimizer does to a small gradient can make the quarantine's step larger than its part."""
    model = Split()
    wrapped = routed(model, make(model.parameters()), space="update")
    for step in range(4):
        bare = copy.deepcopy(model)
        inner = make(bare.parameters())
        inner.load_state_dict(copy.deepcopy(wrapped.optimizer.state_dict()))
        gradients(model, step)
        gradients(bare, step)
        before = {n: getattr(model, n).detach().clone() for n in NAMES}
        moved_to = together(model)
        wrapped.step()
        inner.step()
        for name, expected in together(bare).items():
            torch.testing.assert_close(together(model)[name], expected, rtol=0, atol=2e-6)
            delta = getattr(model, name).detach() - before[name]
            assert (
                offence(wrapped.direction, name, -delta, "one_sided")
                <= 1e-5 * delta.norm() + 2e-7 * before[name].norm()
            )
            assert not torch.equal(moved_to[name], expected)
    assert any(q.norm() > 0 for q in model.quarantine.values()), "nothing was routed: the test passes for nothing"
    assert not any(q in wrapped.state for q in model.quarantine.values()), "the optimizer stepped a quarantine"


def test_an_empty_direction_leaves_training_and_quarantine_alone() -> None:
    results = []
    for wrap in (False, True):
        model = Split()
        optimizer: Any = torch.optim.AdamW(model.parameters(), lr=0.01)
        if wrap:
            optimizer = ProjectedOptimizer(
                optimizer, HackDirection.empty(), model, mode="route", quarantine=model.quarantine
            )
        for step in range(3):
            gradients(model, step)
            optimizer.step()
        results.append((model.state_dict(), optimizer.state_dict()))
    assert_same(results[0], results[1])
    assert not any(q.any() for q in (results[1][0][f"q_{n}"] for n in NAMES))


@pytest.mark.parametrize("space", SPACES)
def test_the_kept_part_is_what_erasing_would_have_kept(space: Any) -> None:
    """Routing changes where the removed part goes, not what the parameter itself does."""
    moved = []
    for mode in ("erase", "route"):
        model = Split()
        quarantine = model.quarantine if mode == "route" else None
        wrapped = ProjectedOptimizer(
            torch.optim.SGD(model.parameters(), lr=0.1), directions(model), model, mode=mode, space=space,
            quarantine=quarantine,
        )  # fmt: skip
        gradients(model, 0)
        wrapped.step()
        moved.append({name: getattr(model, name).detach().clone() for name in NAMES})
    assert_same(moved[0], moved[1])


def test_attach_routes_like_the_wrapper() -> None:
    results = []
    for hooked in (False, True):
        model = Split()
        inner = torch.optim.AdamW(model.parameters(), lr=0.01)
        if hooked:
            optimizer: Any = inner
            attach(inner, directions(model), model, mode="route", quarantine=model.quarantine)
        else:
            optimizer = routed(model, inner, space="update")
        for step in range(2):
            gradients(model, step)
            optimizer.step()
        results.append(model.state_dict())
    assert_same(results[0], results[1])


def test_a_closure_routes_at_every_evaluation() -> None:
    model = Split()
    wrapped = routed(model, torch.optim.SGD(model.parameters(), lr=0.01))
    seen: list[Tensor] = []

    def closure() -> Tensor:
        model.zero_grad()
        loss: Tensor = model(batch(0))
        loss.backward()
        seen.append(model.first.grad.clone())
        return loss

    wrapped.step(closure)
    torch.testing.assert_close(model.first.grad + model.q_first.grad, seen[-1])


def test_a_parameter_without_gradient_sends_nothing() -> None:
    model = Split()
    wrapped = routed(model, torch.optim.SGD(model.parameters(), lr=0.01))
    gradients(model, 0)
    model.second.grad = None
    wrapped.step()
    assert model.q_second.grad is None
    assert model.q_first.grad is not None


def test_low_precision_quarantines_take_their_part_on_average() -> None:
    """Parts far below bfloat16's spacing at 1 (0.004), which rounding to nearest would lose every time, are not lost."""
    model = Split(torch.bfloat16)
    for q in model.quarantine.values():
        q.data.fill_(1.0)
    wrapped = routed(model, torch.optim.SGD(model.parameters(), lr=1e-2), space="update", gate="two_sided")
    for step in range(3):
        gradients(model, step)
        wrapped.step()
    assert all(q.dtype == torch.bfloat16 for q in model.quarantine.values())
    assert any(not torch.equal(q, torch.ones_like(q)) for q in model.quarantine.values())


def test_parameters_that_were_replaced_are_found_by_name() -> None:
    model = Split()
    wrapped = routed(model, torch.optim.SGD(model.parameters(), lr=0.1), space="update", gate="two_sided")
    for name, parameter in list(model.named_parameters()):
        setattr(model, name, nn.Parameter(parameter.detach().clone()))
    wrapped.param_groups[0]["params"] = list(model.parameters())
    gradients(model, 0)
    wrapped.step()
    assert all(q.norm() > 0 for q in model.quarantine.values())


def test_deepcopies_route_into_their_own_model() -> None:
    model = Split()
    wrapped = routed(model, torch.optim.SGD(model.parameters(), lr=0.1), space="update")
    other, again = copy.deepcopy((model, wrapped))
    gradients(other, 0)
    again.step()
    assert other.q_first.norm() > 0
    assert not model.q_first.any()


def test_mistakes_are_named() -> None:
    model = Split()
    direction = directions(model)

    def build(quarantine: Any, inner: Any = None, which: HackDirection = direction, **options: Any) -> None:
        inner = torch.optim.SGD(model.parameters(), lr=0.1) if inner is None else inner
        ProjectedOptimizer(inner, which, model, quarantine=quarantine, **{"mode": "route", **options})

    with pytest.raises(ValueError, match=r"pass quarantine_of\(model\)"):
        build(None)
    with pytest.raises(ValueError, match="give ProjectedOptimizer mode='route'"):
        build(model.quarantine, mode="erase")
    with pytest.raises(ValueError, match="covers second, for which there is no quarantine"):
        build({n: q for n, q in model.quarantine.items() if n != "second"})
    with pytest.raises(ValueError, match=r"quarantine of first has shape \(8, 12\), the parameter \(12, 8\)"):
        build({**model.quarantine, "first": model.q_lying})
    with pytest.raises(ValueError, match="is not in the optimizer, which has to step it in gradient space"):
        build(model.quarantine, torch.optim.SGD([getattr(model, n) for n in NAMES], lr=0.1), space="gradient")
    with pytest.raises(ValueError, match="q_first is a quarantine and covered by the direction"):
        build(model.quarantine, which=direction_for(model))
    with pytest.raises(ValueError, match="without preserve_norm"):
        build(model.quarantine, preserve_norm=True)
    with pytest.raises(ValueError, match="write_back='auto'"):
        build(model.quarantine, write_back="exact")

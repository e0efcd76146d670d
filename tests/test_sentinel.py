"""A projection that projects nothing is noticed, also where no gradient is left to see."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from svdproj import HackDirection, ProjectedOptimizer, attach
from svdproj.sentinel import INERT_STEPS
from tests.conformance.helpers import Weights, backward, direction_for


def stepped_in_the_backward(model: nn.Module, **options: Any) -> None:
    """Each parameter by an optimizer of its own, as soon as its gradient is there, which is then freed."""
    for p in model.parameters():
        optimizer = torch.optim.AdamW([p], lr=0.01, **options)

        def step(p: torch.Tensor, optimizer: torch.optim.Optimizer = optimizer) -> None:
            optimizer.step()
            optimizer.zero_grad()

        p.register_post_accumulate_grad_hook(step)


@pytest.mark.parametrize("make", [ProjectedOptimizer, attach])
@pytest.mark.parametrize("options", [{"foreach": True}, {"foreach": False}, {"fused": True}])
def test_gradients_that_the_backward_consumes_do_not_hide_it(options: dict[str, Any], make: Any) -> None:
    model = Weights()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    made = make(optimizer, direction_for(model), model)
    stepped = made if make is ProjectedOptimizer else optimizer
    stepped_in_the_backward(model, **options)
    for step in range(INERT_STEPS - 1):
        backward(model, step)
        stepped.step()
    backward(model, INERT_STEPS)
    with pytest.raises(RuntimeError, match=r"visited in 50 steps.*stepped during the backward pass \(layer-wise"):
        stepped.step()


def test_weights_that_move_between_steps_that_are_projected_are_no_reason() -> None:
    """Skipped steps in a row with a projected one among them, and gradients of others among them."""
    model = Weights()
    other = nn.Parameter(torch.zeros(1))
    inner = torch.optim.SGD([*model.parameters(), other], lr=0.01)
    wrapped = ProjectedOptimizer(inner, direction_for(model), model)
    for visit in (lambda: backward(model, 0), lambda: setattr(other, "grad", torch.ones(1)), lambda: None):
        for _ in range(INERT_STEPS - 1):
            wrapped.zero_grad()
            wrapped.step()
        visit()
        wrapped.step()
        with torch.no_grad():
            model.first.mul_(0.9)


def test_an_empty_direction_watches_nothing() -> None:
    model = Weights()
    wrapped = ProjectedOptimizer(torch.optim.SGD(model.parameters(), lr=0.01), HackDirection.empty(), model)
    stepped_in_the_backward(model)
    for step in range(INERT_STEPS + 1):
        backward(model, step)
        wrapped.step()

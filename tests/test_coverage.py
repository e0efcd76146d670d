"""Which parameters are covered: ties, names that clash, and what the optimizer does not train."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from svdproj import HackDirection, ProjectedOptimizer, attach
from tests.conformance.helpers import Weights, direction_for


def tied() -> tuple[Weights, HackDirection]:
    """`second` is `first`, and the direction knows both names."""
    direction = direction_for(Weights())
    model = Weights()
    model.second = model.first
    return model, direction


def test_tied_parameters_are_counted_once_and_alike_by_direction_and_optimizer() -> None:
    model, direction = tied()
    wrapped = ProjectedOptimizer(torch.optim.SGD(model.parameters(), lr=0.1), direction, model)
    coverage = direction.coverage(model)
    assert coverage == wrapped.coverage()
    assert coverage.matched == ("first", "lying", "bias")
    assert coverage.unmatched == coverage.left_out == ()
    assert coverage.weight_bytes == 4 * coverage.parameters == 4 * coverage.total


def test_a_direction_that_knows_the_second_name_of_a_tied_parameter_covers_it() -> None:
    """Regression: `named_parameters()` shows the first name alone."""
    model, direction = tied()
    second = HackDirection({"second": direction.subspaces["second"]})
    wrapped = ProjectedOptimizer(torch.optim.SGD(model.parameters(), lr=0.1), second, model)
    assert second.coverage(model) == wrapped.coverage()
    assert second.coverage(model).matched == ("second",)


@pytest.mark.parametrize("make", [ProjectedOptimizer, attach])
@pytest.mark.parametrize("how", ["left out", "frozen"])
def test_covered_parameters_that_the_optimizer_does_not_train_are_named(
    how: str, make: type[ProjectedOptimizer]
) -> None:
    model = Weights()
    model.lying.requires_grad_(False)
    held = [p for p in model.parameters() if p.requires_grad or how == "frozen"]
    with pytest.warns(UserWarning, match=r"trains 3 of the 4 parameters .*: lying\. .*pull_back"):
        made = make(torch.optim.SGD(held, lr=0.1), direction_for(model), model)
    coverage = made.coverage()
    assert coverage.left_out == (("lying",) if how == "left out" else ())
    if how == "left out":
        assert coverage.matched == ("first", "second", "bias")
        assert "not in the optimizer: lying" in str(coverage)
        assert coverage.to_json()["left_out"] == ["lying"]
        with pytest.warns(UserWarning, match=r"trains 2 of the 3 parameters"):
            made.set_direction(HackDirection({n: s for n, s in made.direction.subspaces.items() if n != "bias"}))


def test_an_optimizer_with_none_of_them_warns_and_one_with_all_does_not() -> None:
    model = Weights()
    adapter = nn.Parameter(torch.zeros(2))
    with pytest.warns(UserWarning, match=r"trains 0 of the 4 parameters .*: first, second, lying, bias\."):
        ProjectedOptimizer(torch.optim.SGD([adapter], lr=0.1), direction_for(model), model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ProjectedOptimizer(torch.optim.SGD([*model.parameters(), adapter], lr=0.1), direction_for(model), model)
        ProjectedOptimizer(torch.optim.SGD([adapter], lr=0.1), HackDirection.empty(), model)


@pytest.mark.parametrize("make", [ProjectedOptimizer, attach])
def test_two_parameters_of_one_name_are_refused(make: type[ProjectedOptimizer]) -> None:
    """Regression: only the last of them was projected."""
    model = nn.ModuleDict({"layer": nn.Linear(4, 4, bias=False)})
    direction = direction_for(model)
    model["layer"].base_layer = nn.Linear(4, 4, bias=False)
    with pytest.raises(
        ValueError, match=r"covers layer\.weight.*by that name: layer\.weight and layer\.base_layer\.weight"
    ):
        make(torch.optim.SGD(model.parameters(), lr=0.1), direction, model)
    with pytest.raises(ValueError, match="two parameters go by that name"):
        direction.coverage(model)
    model["layer"].base_layer.weight = model["layer"].weight  # the same one under two names is tied
    made = make(torch.optim.SGD(model.parameters(), lr=0.1), direction, model)
    assert made.coverage().matched == ("layer.weight",)

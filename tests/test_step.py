"""The parts of a step: stacking by shape, sums over parameters, and what a report shows."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import svdproj.plan
from svdproj import HackDirection, ProjectedOptimizer
from svdproj.measure import measure
from svdproj.plan import covered_parameters, make_stacks
from svdproj.report import METRICS, StepReport
from svdproj.step import snapshot
from tests.conformance.helpers import Weights, assert_same, backward, copies, direction_for, offence, train


def _stacks(model: nn.Module, direction: HackDirection, **group: bool):  # type: ignore[no-untyped-def]
    groups = [{"params": list(model.parameters()), **group}]
    covered = covered_parameters(model.named_parameters(), groups, direction.subspaces)
    return make_stacks(covered, direction.subspaces)


def test_parameters_of_one_shape_share_a_stack() -> None:
    model = Weights()
    stacks = _stacks(model, direction_for(model))
    assert sorted(stack.names for stack in stacks) == [("bias",), ("first", "second"), ("lying",)]
    assert not any(stack.maximize or stack.group or stack.signs is not None for stack in stacks)
    assert all(stack.maximize for stack in _stacks(model, direction_for(model), maximize=True))
    assert [tuple(weights.shape) for weights in snapshot(stacks)] == [
        (len(stack.names), *stack.parameters[0].shape) for stack in stacks
    ]


def test_large_stacks_are_split_and_the_step_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for limit in (64 * 2**20, 1):
        monkeypatch.setitem(svdproj.plan.STACK_BYTES, "cpu", limit)
        model = Weights()
        wrapped = ProjectedOptimizer(torch.optim.AdamW(model.parameters()), direction_for(model), model)
        train(model, wrapped, range(2))
        assert len(wrapped.projector.stacks()) == (3 if limit > 1 else 4)
        results.append((copies(model), wrapped.metrics()))
    torch.testing.assert_close(results[0][0], results[1][0])
    assert results[0][1] == pytest.approx(results[1][1], abs=1e-6)


def test_stacks_are_made_once_and_again_when_something_changed() -> None:
    model = Weights()
    with pytest.warns(UserWarning, match="trains 1 of the 4 parameters"):
        wrapped = ProjectedOptimizer(torch.optim.SGD([model.first], lr=0.1), direction_for(model), model)
    stacks = wrapped.projector.stacks()
    assert wrapped.projector.stacks() is stacks
    wrapped.add_param_group({"params": [model.second]})
    grown = wrapped.projector.stacks()
    assert grown is not stacks
    model.double()
    assert wrapped.projector.stacks() is not grown


def test_a_measurement_is_each_parameters_own() -> None:
    model = Weights()
    direction = direction_for(model)
    stack = next(stack for stack in _stacks(model, direction) if stack.names == ("first", "second"))
    x = torch.randn(2, 12, 8)
    found = measure(stack, x)
    for index, name in enumerate(stack.names):
        subspace = direction.subspaces[name]
        torch.testing.assert_close(found.coefficients[index], subspace.coefficients(x[index]))
        torch.testing.assert_close(found.square[index], x[index].square().sum())
        torch.testing.assert_close(found.in_chart[index], subspace.chart.encode(x[index]).square().sum())


def test_a_report_of_nothing_is_zero() -> None:
    report = StepReport(torch.zeros(5), torch.zeros(3), 0)
    assert report.metrics() == dict.fromkeys(METRICS, 0.0)


def test_unequal_ranks_are_padded_without_effect() -> None:
    model = Weights()
    full, short = direction_for(model, k=3), direction_for(model, k=1)
    mixed = HackDirection({**full.subspaces, "second": short.subspaces["second"]})
    wrapped = ProjectedOptimizer(torch.optim.SGD(model.parameters(), lr=0.1), mixed, model, gate="two_sided")
    alone = Weights()
    only = HackDirection({"second": short.subspaces["second"]})
    other = ProjectedOptimizer(torch.optim.SGD(alone.parameters(), lr=0.1), only, alone, gate="two_sided")
    backward(model, 0)
    wrapped.step()
    backward(alone, 0)
    other.step()
    torch.testing.assert_close(model.second, alone.second)
    (stack,) = [s for s in wrapped.projector.stacks() if s.names == ("first", "second")]
    torch.testing.assert_close(stack.null * 2 * 96, torch.tensor([3.0, 1.0]))


def test_snapshots_are_copies() -> None:
    model = Weights()
    (first, *_) = stacks = _stacks(model, direction_for(model))
    before = snapshot(stacks)
    kept = before[0].clone()
    with torch.no_grad():
        for weight in first.locals:
            weight.zero_()
    assert_same(before[0], kept)


@pytest.mark.parametrize("space", ["gradient", "update"])
@pytest.mark.parametrize("kind", ["SGD", "RMSprop", "AdamW"])
def test_a_purge_takes_the_new_subspace_out_of_every_kind_of_first_moment(kind: str, space: str) -> None:
    model = Weights()
    options = {} if kind == "AdamW" else {"momentum": 0.9}
    inner = getattr(torch.optim, kind)(model.parameters(), lr=0.01, **options)
    wrapped = ProjectedOptimizer(inner, direction_for(model), model, space=space)
    train(model, wrapped, range(2))
    key = "exp_avg" if kind == "AdamW" else "momentum_buffer"
    new = direction_for(model, seed=9)
    before = {name: inner.state[p][key].clone() for name, p in model.named_parameters()}
    wrapped.set_direction(new)
    for name, p in model.named_parameters():
        size = float(before[name].norm())
        assert offence(new, name, before[name], "two_sided") > 0.01 * size, name
        assert offence(new, name, inner.state[p][key], "two_sided") <= 1e-6 * size, name

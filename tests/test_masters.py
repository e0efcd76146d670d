"""Low precision: what a projection of bfloat16 and float16 weights achieves, and what a naive write-back loses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from svdproj import HackDirection, ProjectedOptimizer
from svdproj.masters import Masters
from tests.conformance.helpers import (
    Weights,
    assert_same,
    assert_update_guarantee,
    backward,
    copies,
    direction_for,
    displacements,
    offence,
    train,
)

LOW = [torch.bfloat16, torch.float16]


def make(dtype: torch.dtype, lr: float = 1e-3, **options: Any) -> tuple[Weights, ProjectedOptimizer]:
    model = Weights(dtype=dtype)
    inner = torch.optim.AdamW(model.parameters(), lr=lr, eps=1e-4)  # float16 cannot hold AdamW's default eps
    return model, ProjectedOptimizer(inner, direction_for(model), model, gate="two_sided", **options)


def _share(direction: Any, deltas: dict[str, Tensor]) -> float:
    """Root of the energy share of the displacement inside the subspaces."""
    inside = sum(offence(direction, name, -delta, "two_sided") ** 2 for name, delta in deltas.items())
    return float((inside / sum(float(delta.square().sum()) for delta in deltas.values())) ** 0.5)


@pytest.mark.parametrize("dtype", LOW)
@pytest.mark.parametrize("space", ["gradient", "update"])
def test_masters_are_what_float32_training_gives(dtype: torch.dtype, space: str) -> None:
    """The weights are the masters' rounding, and the inner optimizer steps the masters themselves."""
    model, wrapped = make(dtype, space=space, write_back="exact")
    twin, reference = make(torch.float32, space=space)
    for name, p in twin.named_parameters():
        p.data = model.get_parameter(name).detach().float()
    for step in range(4):
        backward(model, step)
        for name, p in twin.named_parameters():
            p.grad = model.get_parameter(name).grad.float()  # type: ignore[union-attr]
        wrapped.step()
        reference.step()
    masters = wrapped.projector.masters.copies
    for name, p in twin.named_parameters():
        assert torch.equal(masters[name], p), name
        assert torch.equal(model.get_parameter(name), p.to(dtype)), name
    assert wrapped.metrics() == pytest.approx(reference.metrics(), abs=1e-6)


@pytest.mark.parametrize("dtype", LOW)
def test_the_guarantee_holds_for_the_master(dtype: torch.dtype) -> None:
    model, wrapped = make(dtype, write_back="exact")
    train(model, wrapped, range(1))
    for step in range(1, 4):
        before = {name: master.clone() for name, master in wrapped.projector.masters.copies.items()}
        train(model, wrapped, range(step, step + 1))
        now = torch.nn.ParameterDict(dict(wrapped.projector.masters.copies.items()))
        assert_update_guarantee(now, before, wrapped.direction, "two_sided")
        assert wrapped.metrics()["svdproj/residual"] < 1e-4


@pytest.mark.parametrize("dtype", LOW)
def test_stochastic_rounding_reports_a_residual_that_is_rounding_noise(dtype: torch.dtype) -> None:
    """One step's rounding noise lies in the subspace as it lies in any other of its size."""
    model, wrapped = make(dtype, lr=1e-3)
    for step in range(41):
        before = copies(model)
        train(model, wrapped, range(step, step + 1))
        if step % 20 == 0:
            shown = wrapped.metrics()["svdproj/residual"]
            assert shown == pytest.approx(_share(wrapped.direction, displacements(model, before)), rel=1e-3, abs=1e-6)
            # As much as a random subspace catches of pure noise, times two; a naive write-back is not bounded by this.
            assert shown < 2 * _noise_share(wrapped)


def _noise_share(wrapped: ProjectedOptimizer) -> float:
    rows = sum(subspace.k for subspace in wrapped.direction.subspaces.values())
    return float((rows / wrapped.coverage().parameters) ** 0.5)


@pytest.mark.parametrize("dtype", LOW)
@pytest.mark.parametrize("naive", [False, True])
def test_a_naive_write_back_is_lost(naive: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `write_back` is for: the correction of an element is below half a unit in the last place of its weight.

    The optimizer moves few weights by whole units, so that it makes progress along the row; the correction is spread over all.
    """
    if naive:
        monkeypatch.setattr("svdproj.step.stochastic_round", lambda values, dtype, generator: values.to(dtype))
    unit = torch.finfo(dtype).eps
    layer = torch.nn.Linear(64, 64, bias=False, dtype=dtype)
    torch.nn.init.constant_(layer.weight, 1.5)  # far from the powers of two, where the unit changes
    direction = direction_for(layer, k=1, chart_rank=64)
    row = direction.subspaces["weight"].decode(torch.ones(1))
    wrapped = ProjectedOptimizer(_Along(layer.parameters(), row), direction, layer, gate="two_sided")
    for _ in range(100):
        layer.weight.grad = torch.zeros_like(layer.weight)
        wrapped.step()
    along_row = float(((layer.weight.detach().float() - 1.5) * row).sum())
    # 13 units along the row at each step, 1300 in all: removed up to noise; or, rounded to nearest, most of it stays.
    assert along_row > 900 * unit if naive else abs(along_row) < 130 * unit


class _Along(torch.optim.Optimizer):
    """Moves a few elements of a weight by one unit in the last place, in the mean 13 units along the row."""

    def __init__(self, params: Any, row: Tensor) -> None:
        super().__init__(params, {})
        self.row = row

    def step(self, closure: Any = None) -> None:
        (weight,) = self.param_groups[0]["params"]
        unit = torch.finfo(weight.dtype).eps
        wanted = 13 * unit * self.row
        moved = torch.rand(wanted.shape) < wanted.abs() / unit
        weight.data += (moved * wanted.sign() * unit).to(weight.dtype)


def test_masters_follow_a_weight_that_somebody_else_wrote() -> None:
    model, wrapped = make(torch.bfloat16, write_back="exact")
    train(model, wrapped, range(2))
    with torch.no_grad():
        model.first.zero_()
    kept = wrapped.projector.masters.copies["second"].clone()
    masters = wrapped.state_dict()["svdproj"]["masters"]
    assert not masters["first"].any()
    assert torch.equal(masters["second"], kept)


def test_an_optimizer_that_already_has_bfloat16_state_can_be_given_masters() -> None:
    model = Weights(dtype=torch.bfloat16)
    inner = torch.optim.AdamW(model.parameters(), lr=1e-3)
    train(model, inner, range(2))
    wrapped = ProjectedOptimizer(inner, direction_for(model), model, write_back="exact")
    train(model, wrapped, range(2, 4))
    assert inner.state[model.first]["exp_avg"].dtype is torch.float32


def test_parameters_that_a_new_direction_leaves_give_their_masters_back() -> None:
    model, wrapped = make(torch.bfloat16, write_back="exact")
    train(model, wrapped, range(2))
    wrapped.set_direction(HackDirection({"first": wrapped.direction.subspaces["first"]}))
    assert set(wrapped.projector.masters.copies) == {"first"}
    train(model, wrapped, range(2, 4))
    assert wrapped.state[model.first]["exp_avg"].dtype is torch.float32
    assert wrapped.state[model.second]["exp_avg"].dtype is torch.bfloat16


def test_autograd_keeps_its_accumulators() -> None:
    """Regression: float32 data in a parameter's place dropped them, and DDP no longer reduced the gradient."""
    model, wrapped = make(torch.bfloat16, write_back="exact")
    before = {name: p.expand_as(p).grad_fn.next_functions[0][0] for name, p in model.named_parameters()}  # type: ignore[union-attr]
    train(model, wrapped, range(2))
    for name, p in model.named_parameters():
        assert p.expand_as(p).grad_fn.next_functions[0][0] is before[name]  # type: ignore[union-attr]


def test_closures_see_the_visible_weights() -> None:
    model, wrapped = make(torch.bfloat16, write_back="exact")
    seen: list[torch.dtype] = []

    def closure() -> Tensor:
        seen.extend(p.dtype for p in model.parameters())
        return backward(model, 0)

    wrapped.step(closure)
    assert set(seen) == {torch.bfloat16}
    twin, other = make(torch.bfloat16, write_back="exact")
    backward(twin, 0)
    other.step()
    assert_same(copies(model), copies(twin))


@pytest.mark.parametrize("allocation", range(5))
@pytest.mark.parametrize("space", ["gradient", "update"])
def test_masters_that_cannot_be_made_do_not_stop_training(
    space: str, allocation: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: after a failed allocation the optimizer went on stepping masters that no weight followed.

    Four masters are made, and then a gradient for each.
    """
    model, wrapped = make(torch.bfloat16, lr=0.1, space=space, write_back="exact")
    twin, other = make(torch.bfloat16, lr=0.1, space=space, write_back="exact")
    backward(model, 0)
    allocations, allocate = iter(range(10)), Tensor.float

    def failing(tensor: Tensor) -> Tensor:
        if next(allocations) == allocation:
            raise MemoryError("no room")
        return allocate(tensor)

    before = copies(model)
    with monkeypatch.context() as patch:
        patch.setattr(Tensor, "float", failing)
        with pytest.raises(MemoryError, match="no room") as caught:
            wrapped.step()
    assert not hasattr(caught.value, "__notes__"), "the way back failed too"
    assert_same(before, copies(model))
    assert {id(p) for p in wrapped.param_groups[0]["params"]} == {id(p) for p in model.parameters()}
    train(model, wrapped, range(2))
    train(twin, other, range(2))
    assert_same(copies(twin), copies(model))
    assert not torch.equal(before["second"], model.second)


def test_float32_weights_need_no_master() -> None:
    model, wrapped = make(torch.float32, write_back="exact")
    train(model, wrapped, range(1))
    assert not wrapped.projector.masters.copies
    assert not Masters().copies

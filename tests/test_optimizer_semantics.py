"""What a projected step means: spaces, gates, signs, skipped steps, ties, and what is refused."""

from __future__ import annotations

import copy
import math
import warnings
from typing import Any

import pytest
import torch
from torch import nn

from svdproj import BilinearChart, DenseChart, DiagonalChart, HackDirection, ProjectedOptimizer, Subspace, attach
from svdproj.projection import project
from svdproj.projector import INERT_STEPS
from tests.conformance.helpers import (
    Weights,
    assert_same,
    assert_same_training,
    assert_update_guarantee,
    backward,
    copies,
    direction_for,
    displacements,
    offence,
    train,
)


def make(optimizer: Any = torch.optim.AdamW, **options: Any) -> tuple[Weights, HackDirection, ProjectedOptimizer]:
    model = Weights()
    direction = direction_for(model)
    return model, direction, ProjectedOptimizer(optimizer(model.parameters(), lr=0.01), direction, model, **options)


# --- spaces, gates, signs


@pytest.mark.parametrize("gate", ["one_sided", "two_sided", "reverse"])
@pytest.mark.parametrize("preserve_norm", [False, True])
@pytest.mark.parametrize("overshoot", [1.0, 1.5])
def test_both_spaces_do_what_the_closed_form_says(gate: str, preserve_norm: bool, overshoot: float) -> None:
    options = {"gate": gate, "preserve_norm": preserve_norm, "overshoot": overshoot}
    for space in ("gradient", "update"):
        model, direction, wrapped = make(space=space, **options)
        bare = Weights()
        inner = torch.optim.AdamW(bare.parameters(), lr=0.01)
        before = copies(model)
        backward(bare, 0)
        if space == "gradient":
            for name, p in bare.named_parameters():
                p.grad = project(p.grad, direction.subspaces[name], **options)  # type: ignore[arg-type]
        inner.step()
        if space == "update":
            for name, p in bare.named_parameters():
                x = project(before[name] - p.detach(), direction.subspaces[name], **options)  # type: ignore[arg-type]
                p.data = before[name] - x
        train(model, wrapped, range(1))
        torch.testing.assert_close(dict(model.named_parameters()), dict(bare.named_parameters()), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("space", ["gradient", "update"])
def test_an_overshoot_that_is_set_counts_from_the_next_step(space: str) -> None:
    model, direction, wrapped = make(optimizer=torch.optim.SGD, space=space)
    train(model, wrapped, range(1))
    wrapped.overshoot = 2.5
    assert wrapped.overshoot == wrapped.options.overshoot == 2.5
    other = copy.deepcopy(model)
    made = ProjectedOptimizer(
        torch.optim.SGD(other.parameters(), lr=0.01), direction, other, space=space, overshoot=2.5
    )
    before = copies(model)
    train(model, wrapped, range(1, 3))
    train(other, made, range(1, 3))
    assert_same(model, other)
    assert all(not torch.equal(before[name], p) for name, p in model.named_parameters())
    with pytest.raises(ValueError, match="overshoot must be positive and finite, got -1"):
        wrapped.overshoot = -1.0
    assert wrapped.overshoot == 2.5


def test_the_gradient_projection_alone_leaks_through_adamw() -> None:
    """Why update space exists: the preconditioner turns a projected gradient back."""
    model, direction, wrapped = make(space="gradient", gate="two_sided")
    before = copies(model)
    train(model, wrapped, range(1))
    deltas = displacements(model, before)
    assert all(offence(direction, name, -delta, "two_sided") > 0.01 * delta.norm() for name, delta in deltas.items())


@pytest.mark.parametrize("kind", ["dense", "bilinear", "diagonal", "mixed rows"])
def test_every_chart_keeps_the_guarantee(kind: str) -> None:
    model = Weights()
    direction = direction_for(model)
    generator = torch.Generator().manual_seed(3)

    def subspace(name: str, p: torch.Tensor) -> Subspace:
        k = 2 + (kind == "mixed rows" and name == "first")
        chart: Any = DenseChart(tuple(p.shape))
        if p.ndim == 2 and kind != "dense":
            left, right = (torch.linalg.qr(torch.randn(n, 5, generator=generator)).Q for n in p.shape)
            chart = DiagonalChart(left, right) if kind == "diagonal" else BilinearChart(left, right)
        rows = torch.linalg.qr(torch.randn(chart.size, k, generator=generator)).Q.mT.contiguous()
        return Subspace(chart, rows, torch.ones(k))

    direction = HackDirection({name: subspace(name, p) for name, p in model.named_parameters()})
    wrapped = ProjectedOptimizer(torch.optim.AdamW(model.parameters(), lr=0.01), direction, model, gate="two_sided")
    for step in range(2):
        before = copies(model)
        train(model, wrapped, range(step, step + 1))
        assert_update_guarantee(model, before, direction, "two_sided")


def test_maximize_turns_the_sign_in_gradient_space_only() -> None:
    for space in ("gradient", "update"):
        descending, _, first = make(space=space)
        ascending = Weights()
        inner = torch.optim.AdamW(ascending.parameters(), lr=0.01, maximize=True)
        second = ProjectedOptimizer(inner, direction_for(ascending), ascending, space=space)
        for step in range(3):
            backward(descending, step)
            first.step()
            backward(ascending, step, scale=-1.0)
            second.step()
        torch.testing.assert_close(dict(descending.named_parameters()), dict(ascending.named_parameters()))
        assert first.metrics() == pytest.approx(second.metrics())


def test_one_sided_leaves_clean_ward_steps_alone() -> None:
    """A step that is clean-ward in every row is not touched at all."""
    model, direction, wrapped = make(torch.optim.SGD)
    for name, p in model.named_parameters():
        p.grad = -direction.subspaces[name].decode(torch.ones(direction.subspaces[name].k))
    before = copies(model)
    bare = {name: before[name] - 0.01 * p.grad for name, p in model.named_parameters()}  # type: ignore[operator]
    wrapped.step()
    torch.testing.assert_close(copies(model), bare)
    assert wrapped.metrics()["svdproj/removed"] == pytest.approx(0.0, abs=1e-6)


# --- reporting


def test_metrics_are_those_of_the_concatenation() -> None:
    model, direction, wrapped = make(torch.optim.SGD, mode="measure", space="gradient")
    assert set(wrapped.metrics().values()) == {0.0}
    train(model, wrapped, range(1))
    hack = square = null = chart_null = 0.0
    for name, p in model.named_parameters():
        subspace, energy = direction.subspaces[name], float(p.grad.double().square().sum())  # type: ignore[union-attr]
        hack += offence(direction, name, p.grad, "one_sided") ** 2  # type: ignore[arg-type]
        square += energy
        null += energy * subspace.k / (2 * p.numel())
        inside = float(subspace.chart.encode(p.grad).double().square().sum())  # type: ignore[arg-type]
        chart_null += inside * subspace.k / (2 * subspace.chart.size)
    expected = {
        "svdproj/cos_in": (hack / square) ** 0.5,
        "svdproj/cos_out": (hack / square) ** 0.5,
        "svdproj/removed": 0.0,
        "svdproj/null_cos": (null / square) ** 0.5,
        "svdproj/chart_null_cos": (chart_null / square) ** 0.5,
        "svdproj/residual": (hack / square) ** 0.5,
        "svdproj/projected": 4.0,
    }
    assert wrapped.metrics() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("space", ["gradient", "update"])
@pytest.mark.parametrize("preserve_norm", [False, True])
def test_zero_gradients_have_defined_cosines(space: str, preserve_norm: bool) -> None:
    model, _, wrapped = make(torch.optim.SGD, space=space, preserve_norm=preserve_norm)
    before = copies(model)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    wrapped.step()
    assert_same(before, copies(model))
    assert wrapped.metrics() == dict.fromkeys(wrapped.metrics(), 0.0) | {"svdproj/projected": 4.0}


@pytest.mark.parametrize("space", ["gradient", "update"])
def test_a_gradient_that_is_not_a_number_does_not_pass_for_one_without_a_hackward_part(space: str) -> None:
    model, _, wrapped = make(torch.optim.AdamW, space=space)
    for p in model.parameters():
        p.grad = torch.full_like(p, float("nan"))
    wrapped.step()
    metrics = wrapped.metrics()
    assert all(math.isnan(metrics[f"svdproj/{name}"]) for name in ("cos_in", "cos_out", "removed", "residual"))


# --- skipped steps


@pytest.mark.parametrize("space", ["gradient", "update"])
def test_a_step_without_gradients_changes_nothing(space: str) -> None:
    model, _, wrapped = make(space=space)
    train(model, wrapped, range(2))
    before, state, metrics = copies(model), wrapped.state_dict(), wrapped.metrics()
    wrapped.zero_grad()
    for _ in range(INERT_STEPS + 1):
        wrapped.step()
    assert_same(before, copies(model))
    assert_same(state, wrapped.state_dict())
    assert wrapped.metrics() == metrics


@pytest.mark.parametrize("space", ["gradient", "update"])
def test_parameters_without_gradient_are_left_alone_and_not_counted(space: str) -> None:
    model, direction, wrapped = make(space=space)
    backward(model, 0)
    model.second.grad = None
    before = copies(model)
    wrapped.step()
    assert torch.equal(model.second, before["second"])
    assert model.second.grad is None
    assert wrapped.metrics()["svdproj/projected"] == 3
    if space == "update":
        assert_update_guarantee(model, before, direction, "one_sided", moved=False)


def test_nothing_projected_for_long_is_an_error() -> None:
    model, _, wrapped = make()
    model.first.requires_grad_(False)
    frozen = nn.Module()
    frozen.first = model.first
    inner = torch.optim.SGD([model.second], lr=0.01)
    with (
        pytest.warns(UserWarning, match="covers 1 of its 4"),
        pytest.warns(UserWarning, match="trains 0 of the 1 parameters"),
    ):
        wrapped = ProjectedOptimizer(inner, direction_for(model), frozen)
    train(model, wrapped, range(INERT_STEPS - 1))
    with pytest.raises(RuntimeError, match=r"visited in 50 steps.*Likely causes"):
        train(model, wrapped, range(1))


@pytest.mark.parametrize("space", ["gradient", "update"])
def test_closures_do_not_hide_that_nothing_is_projected(space: str) -> None:
    """Trainers that always pass a closure train everything but the covered parameter."""
    model = Weights()
    direction = HackDirection({"first": direction_for(model).subspaces["first"]})
    model.first.requires_grad_(False)
    with pytest.warns(UserWarning, match=r"trains 0 of the 1 parameters .*; frozen or not in its groups: first\."):
        wrapped = ProjectedOptimizer(torch.optim.SGD(model.parameters(), lr=0.01), direction, model, space=space)
    for step in range(INERT_STEPS - 1):
        wrapped.step(lambda step=step: backward(model, step))
    with pytest.raises(RuntimeError, match="nothing is protected"):
        wrapped.step(lambda: backward(model, 0))


def test_one_projected_step_resets_the_count() -> None:
    model = Weights()
    wrapped = ProjectedOptimizer(torch.optim.SGD(model.parameters(), lr=0.01), direction_for(model), model)
    for _ in range(3):
        for _ in range(INERT_STEPS - 10):
            wrapped.zero_grad()
            other = nn.Parameter(torch.zeros(1))
            other.grad = torch.ones(1)
            model.other = other
            wrapped.step()
        del model.other
        train(model, wrapped, range(1))


def test_parameters_that_were_replaced_behind_the_optimizers_back_are_noticed() -> None:
    """As by `fully_shard` after the optimizer was made: the model has gradients, the optimizer's parameters none."""
    model, _, wrapped = make()
    for name, p in list(model.named_parameters()):
        setattr(model, name, nn.Parameter(p.detach().clone()))
    train(model, wrapped, range(INERT_STEPS - 1))
    with pytest.raises(RuntimeError, match="the model was wrapped or rebuilt after the optimizer was made"):
        train(model, wrapped, range(1))


def test_parameters_replaced_in_model_and_optimizer_are_found_by_name() -> None:
    model, direction, wrapped = make()
    train(model, wrapped, range(1))
    for name, p in list(model.named_parameters()):
        setattr(model, name, nn.Parameter(p.detach().clone()))
    wrapped.state.clear()
    wrapped.param_groups[0]["params"] = list(model.parameters())
    before = copies(model)
    train(model, wrapped, range(1, 2))
    assert_update_guarantee(model, before, direction, "one_sided")
    assert wrapped.metrics()["svdproj/projected"] == 4


# --- parameters of special kinds


def test_tied_parameters_are_projected_once() -> None:
    model = Weights()
    model.second = model.first
    untied = Weights()
    names = {"first", "lying", "bias"}
    full = direction_for(untied)
    once = HackDirection({name: s for name, s in full.subspaces.items() if name in names})
    # Both names in the direction, with the same subspace: twice would remove twice (with overshoot, visibly).
    twice = HackDirection({**once.subspaces, "second": once.subspaces["first"]})
    results = []
    for direction in (once, twice):
        torch.manual_seed(0)
        model = Weights()
        model.second = model.first
        inner = torch.optim.SGD(model.parameters(), lr=0.1)
        wrapped = ProjectedOptimizer(inner, direction, model, gate="two_sided", overshoot=2.0)
        train(model, wrapped, range(2))
        assert wrapped.metrics()["svdproj/projected"] == 3
        results.append(copies(model))
    assert_same(*results)


def test_complex_parameters_are_refused_by_name() -> None:
    module = nn.Module()
    module.weight = nn.Parameter(torch.randn(4, 4, dtype=torch.complex64))
    real = nn.Module()
    real.weight = nn.Parameter(torch.randn(4, 4))
    with pytest.raises(TypeError, match=r"weight has dtype torch.complex64"):
        ProjectedOptimizer(torch.optim.SGD(module.parameters()), direction_for(real), module)
    ProjectedOptimizer(torch.optim.SGD(module.parameters()), HackDirection.empty(), module)


@pytest.mark.parametrize("space", ["gradient", "update"])
def test_sparse_gradients_are_refused_before_anything_moves(space: str) -> None:
    layer = nn.Embedding(6, 4, sparse=True)
    wrapped = ProjectedOptimizer(torch.optim.SGD(layer.parameters(), lr=0.1), direction_for(layer), layer, space=space)
    layer(torch.tensor([1])).sum().backward()
    before = layer.weight.detach().clone()
    with pytest.raises(TypeError, match=r"weight has a sparse gradient.*sparse=False"):
        wrapped.step()
    assert torch.equal(before, layer.weight)


@pytest.mark.parametrize("space", ["gradient", "update"])
@pytest.mark.parametrize("write_back", ["auto", "exact"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_gradients_keep_dtype_strides_and_place(space: str, write_back: str, dtype: torch.dtype) -> None:
    layer = nn.Linear(8, 12, bias=False).to(dtype)
    layer.weight.data = layer.weight.data.t().contiguous().t()  # column by column, as some checkpoints come
    direction = direction_for(layer)
    inner = torch.optim.AdamW(layer.parameters(), lr=0.01)
    wrapped = ProjectedOptimizer(inner, direction, layer, space=space, write_back=write_back)
    for _ in range(2):
        layer.weight.grad = torch.randn(8, 12).to(dtype).t()
        place, grad = layer.weight.grad.data_ptr(), layer.weight.grad
        weight_place = layer.weight.data_ptr()
        wrapped.step()
        assert layer.weight.grad is grad
        assert (grad.data_ptr(), grad.stride(), grad.dtype) == (place, (1, 12), dtype)
        assert (layer.weight.data_ptr(), layer.weight.stride(), layer.weight.dtype) == (weight_place, (1, 12), dtype)


def test_scalars_vectors_and_higher_tensors_are_covered() -> None:
    module = nn.Module()
    shapes: dict[str, tuple[int, ...]] = {"scalar": (), "vector": (7,), "convolution": (4, 3, 2, 2)}
    for name, shape in shapes.items():
        module.register_parameter(name, nn.Parameter(torch.randn(shape)))
    direction = HackDirection(
        {
            name: Subspace(DenseChart(shape), torch.eye(max(1, torch.Size(shape).numel()))[:1], torch.ones(1))
            for name, shape in shapes.items()
        }
    )
    wrapped = ProjectedOptimizer(torch.optim.SGD(module.parameters(), lr=0.1), direction, module, gate="two_sided")
    before = copies(module)
    for p in module.parameters():
        p.grad = torch.ones_like(p)
    wrapped.step()
    assert_update_guarantee(module, before, direction, "two_sided", moved=False)
    assert module.get_parameter("scalar") == before["scalar"]


@pytest.mark.parametrize("make", [ProjectedOptimizer, attach])
@pytest.mark.parametrize("space", ["gradient", "update"])
def test_parameters_get_no_hooks(space: str, make: Any) -> None:
    """They would not fire on the shards of `fully_shard`, and would gate each micro-batch and each replica on its own."""
    model = Weights()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    result = make(optimizer, direction_for(model), model, space=space)
    train(model, result if make is ProjectedOptimizer else optimizer, range(1))
    assert result.metrics()["svdproj/projected"] == 4
    for p in model.parameters():
        assert not p._backward_hooks
        assert not p._post_accumulate_grad_hooks  # type: ignore[attr-defined]
    assert not model._backward_hooks
    assert not model._backward_pre_hooks


# --- a new direction


def test_a_new_direction_takes_over_and_purges_the_momentum() -> None:
    model, _, wrapped = make(gate="two_sided")
    train(model, wrapped, range(3))
    new = direction_for(model, seed=9)
    wrapped.set_direction(new)
    assert wrapped.direction is new
    for name, p in model.named_parameters():
        moment = wrapped.state[p]["exp_avg"]
        assert offence(new, name, moment, "two_sided") <= 1e-6 * moment.norm()
    before = copies(model)
    train(model, wrapped, range(3, 4))
    assert_update_guarantee(model, before, new, "two_sided")


def test_purging_reaches_the_parameters_that_have_state_and_can_be_left_out() -> None:
    model, _old, wrapped = make(space="gradient")
    backward(model, 0)
    model.second.grad = None  # `first` has a moment, its neighbour in the stack has none
    wrapped.step()
    kept = wrapped.state[model.first]["exp_avg"].clone()
    wrapped.set_direction(direction_for(model, seed=9), purge_state=False)
    assert torch.equal(kept, wrapped.state[model.first]["exp_avg"])
    wrapped.set_direction(direction_for(model, seed=9))
    assert offence(wrapped.direction, "first", wrapped.state[model.first]["exp_avg"], "two_sided") < 1e-6 * kept.norm()
    wrapped.set_direction(HackDirection.empty())
    twin = Weights()
    twin.load_state_dict(model.state_dict())
    bare = torch.optim.AdamW(twin.parameters(), lr=0.01)
    bare.load_state_dict(copy.deepcopy(wrapped.state_dict()))  # torch would share the tensors
    train(model, wrapped, range(1, 3))
    train(twin, bare, range(1, 3))
    assert_same_training((twin, bare), (model, wrapped))


@pytest.mark.parametrize("what", ["another shape", "a complex parameter"])
def test_a_refused_direction_leaves_the_old_one_in_force(what: str) -> None:
    """Regression: it was put in force before it was checked whole, and every later step raised."""
    model = Weights()
    direction = direction_for(model)
    model.phase = nn.Parameter(torch.zeros(4, 4, dtype=torch.complex64))
    wrapped = ProjectedOptimizer(torch.optim.AdamW(model.parameters(), lr=0.01), direction, model)
    train(model, wrapped, range(1))
    if what == "another shape":
        refused = HackDirection({"first": direction.subspaces["lying"]})
    else:
        refused = direction_for(model)
    with pytest.raises((ValueError, TypeError), match=r"first has shape|phase has dtype torch\.complex64"):
        wrapped.set_direction(refused)
    assert wrapped.direction is direction
    before = {name: weight for name, weight in copies(model).items() if name != "phase"}
    train(model, wrapped, range(1, 2))
    del model.phase
    assert_update_guarantee(model, before, direction, "one_sided")


@pytest.mark.parametrize("make", [ProjectedOptimizer, attach])
@pytest.mark.parametrize("what", ["optimizer", "flat", "complex", "quarantine"])
def test_a_later_direction_is_checked_like_the_first(what: str, make: Any) -> None:
    """Regression: whoever began with an empty direction could set one that construction refuses."""
    model, options = Weights(), {}
    kind: Any = torch.optim.SGD
    if what == "optimizer":
        kind = type("DeepSpeedZeroOptimizer", (torch.optim.SGD,), {"__module__": "deepspeed.runtime.zero"})
    direction = direction_for(model)
    if what == "flat":
        model.second.ds_id = 1  # type: ignore[attr-defined]
    elif what == "complex":
        model.second = nn.Parameter(model.second.detach().to(torch.complex64))
    elif what == "quarantine":
        options = {"mode": "route", "quarantine": {"first": nn.Parameter(torch.zeros_like(model.first))}}
    made = make(kind(model.parameters(), lr=0.1), HackDirection.empty(), model, **options)
    expected: Any = {"complex": TypeError, "quarantine": ValueError}.get(what, NotImplementedError)
    message = {"complex": "second has dtype", "quarantine": "covers second, for which there is no quarantine"}
    with pytest.raises(expected, match=message.get(what, "ZeRO")):
        made.set_direction(direction)
    assert not len(made.direction)


# --- steps that fail


@pytest.mark.parametrize("freed", [False, True])
@pytest.mark.parametrize("gate", ["one_sided", "two_sided"])
def test_what_a_closure_moved_before_it_raised_is_projected(gate: str, freed: bool) -> None:
    """Regression: the error came through, and the weights kept the whole displacement. Gradients may be gone by then."""
    model = Weights()
    direction = direction_for(model)
    wrapped = ProjectedOptimizer(torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=9), direction, model, gate=gate)
    evaluations = iter(range(9))

    def closure() -> torch.Tensor:
        if next(evaluations) == 3:
            if freed:
                model.zero_grad()
            raise FloatingPointError("the fourth")
        return backward(model, 0)

    before = copies(model)
    with pytest.raises(FloatingPointError, match="the fourth"):
        wrapped.step(closure)
    assert_update_guarantee(model, before, direction, gate)


@pytest.mark.parametrize("write_back", ["auto", "exact"])
def test_what_the_first_group_moved_before_the_second_failed_is_projected(write_back: str) -> None:
    model = Weights()
    direction = direction_for(model)
    groups = [{"params": [model.first, model.lying]}, {"params": [model.second, model.bias]}]
    inner = torch.optim.AdamW(groups, lr=0.01)
    wrapped = ProjectedOptimizer(inner, direction, model, gate="two_sided", write_back=write_back)
    inner.param_groups[1]["betas"] = None
    before = copies(model)
    backward(model, 0)
    with pytest.raises(TypeError) as caught:
        wrapped.step()
    assert not hasattr(caught.value, "__notes__")
    assert_update_guarantee(model, before, direction, "two_sided", moved=False)
    assert not torch.equal(before["first"], model.first)
    assert torch.equal(before["second"], model.second)


def test_an_error_comes_through_even_where_its_displacement_cannot_be_projected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, _, wrapped = make()
    wrapped.param_groups[0]["betas"] = None
    backward(model, 0)

    def failing(*_: Any, **__: Any) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr("svdproj.projector.project", failing)
    with pytest.raises(TypeError) as caught:
        wrapped.step()
    assert "could not project what the step had moved by then: MemoryError('no room')" in caught.value.__notes__[0]


# --- float32 arithmetic and compilation


def test_the_projection_is_float32_under_autocast_and_leaves_the_settings() -> None:
    model, direction, wrapped = make()
    # Before torch 2.9 there is one switch for all backends.
    matmul = getattr(torch.backends.mkldnn, "matmul", None)
    if matmul is None:
        torch.set_float32_matmul_precision("medium")
    else:
        matmul.fp32_precision = "bf16"
    try:
        before = copies(model)
        backward(model, 0)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            wrapped.step()
        if matmul is None:
            assert torch.get_float32_matmul_precision() == "medium"
        else:
            assert matmul.fp32_precision == "bf16"
    finally:
        if matmul is None:
            torch.set_float32_matmul_precision("highest")
        else:
            matmul.fp32_precision = "none"
    assert_update_guarantee(model, before, direction, "one_sided")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        precision = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(precision)

"""Optimizers of other libraries: nothing changes under an empty direction, and the applied update stays out."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import pytorch_optimizer
import schedulefree
import torch
import transformers

from svdproj import HackDirection, ProjectedOptimizer
from tests.conformance.helpers import (
    Weights,
    assert_same,
    assert_same_training,
    assert_update_guarantee,
    copies,
    direction_for,
    offence,
    train,
)
from tests.gate_helpers import REMOVING

Make = Callable[[Any], torch.optim.Optimizer]


def _bitsandbytes(name: str, **options: Any) -> Make:
    """Made when it is needed, so that the other tests run where bitsandbytes is absent or has no CPU backend."""

    def make(params: Any) -> torch.optim.Optimizer:
        library = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
        optimizer: torch.optim.Optimizer = getattr(library.optim, name)(params, lr=0.01, **options)
        probe = torch.nn.Parameter(torch.zeros(256))
        probe.grad = torch.ones(256)
        try:
            getattr(library.optim, name)([probe], lr=0.01, **options).step()
        except (RuntimeError, NotImplementedError, AssertionError) as error:
            pytest.skip(f"bitsandbytes has no CPU kernel for {name} here: {error}")
        return optimizer

    return make


OPTIMIZERS: dict[str, Make] = {
    "transformers Adafactor": lambda p: transformers.Adafactor(p, lr=0.01, relative_step=False, scale_parameter=True),
    "pytorch_optimizer SOAP": lambda p: pytorch_optimizer.SOAP(p, lr=0.01, weight_decay=0.1),
    "pytorch_optimizer Lion": lambda p: pytorch_optimizer.Lion(p, lr=0.01, weight_decay=0.1),
    "pytorch_optimizer Adan": lambda p: pytorch_optimizer.Adan(p, lr=0.01, weight_decay=0.1),
    "bitsandbytes AdamW": _bitsandbytes("AdamW"),
    "bitsandbytes AdamW8bit": _bitsandbytes("AdamW8bit", min_8bit_size=1),
    "bitsandbytes Lion8bit": _bitsandbytes("Lion8bit", min_8bit_size=1),
}
# These take their first step without moving anything.
_LATE = {"pytorch_optimizer SOAP"}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_empty_direction_and_measuring_change_no_bit(name: str) -> None:
    def trained(direction: HackDirection | None, **options: Any) -> tuple[Weights, torch.optim.Optimizer]:
        model = Weights()
        optimizer = OPTIMIZERS[name](model.parameters())
        if direction is not None:
            optimizer = ProjectedOptimizer(optimizer, direction, model, **options)
        train(model, optimizer, range(3))
        return model, optimizer

    bare = trained(None)
    assert_same_training(bare, trained(HackDirection.empty()))
    assert_same_training(bare, trained(direction_for(bare[0]), mode="measure"))


@pytest.mark.parametrize("gate", REMOVING)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_applied_update_stays_out(name: str, gate: str) -> None:
    model = Weights()
    direction = direction_for(model)
    wrapped = ProjectedOptimizer(OPTIMIZERS[name](model.parameters()), direction, model, gate=gate)
    for step in range(3):
        before = copies(model)
        train(model, wrapped, range(step, step + 1))
        assert_update_guarantee(model, before, direction, gate, moved=step > 0 or name not in _LATE)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_checkpoints_resume_exactly(name: str) -> None:
    def make() -> tuple[Weights, ProjectedOptimizer]:
        model = Weights()
        return model, ProjectedOptimizer(OPTIMIZERS[name](model.parameters()), direction_for(model), model)

    unbroken, resumed = make(), make()
    train(*unbroken, range(2))
    resumed[0].load_state_dict(unbroken[0].state_dict())
    resumed[1].load_state_dict(copy.deepcopy(unbroken[1].state_dict()))
    train(*unbroken, range(2, 4))
    train(*resumed, range(2, 4))
    assert_same(copies(unbroken[0]), copies(resumed[0]))


@pytest.mark.parametrize("kind", ["AdamWScheduleFree", "SGDScheduleFree", "RAdamScheduleFree"])
def test_schedule_free_trains_the_same_and_its_training_weights_stay_out(kind: str) -> None:
    bare_model, model, projected_model = Weights(), Weights(), Weights()
    make = getattr(schedulefree, kind)
    bare, inner = make(bare_model.parameters(), lr=0.01), make(model.parameters(), lr=0.01)
    wrapped = ProjectedOptimizer(inner, HackDirection.empty(), model)
    direction = direction_for(model)
    projected = ProjectedOptimizer(make(projected_model.parameters(), lr=0.01), direction, projected_model)
    for optimizer in (bare, wrapped, projected):
        optimizer.train()
    warm_up = 5 if kind == "RAdamScheduleFree" else 0  # steps that move nothing
    for step in range(warm_up + 3):
        train(bare_model, bare, range(step, step + 1))
        train(model, wrapped, range(step, step + 1))
        before = copies(projected_model)
        train(projected_model, projected, range(step, step + 1))
        assert_update_guarantee(projected_model, before, direction, "one_sided", moved=step >= warm_up)
    wrapped.eval()
    assert not inner.param_groups[0]["train_mode"]
    bare.eval()
    assert_same_training((bare_model, bare), (model, wrapped))


def test_eight_bit_momentum_cannot_be_purged_and_says_so() -> None:
    model = Weights()
    optimizer = OPTIMIZERS["bitsandbytes AdamW8bit"](model.parameters())
    wrapped = ProjectedOptimizer(optimizer, direction_for(model), model)
    train(model, wrapped, range(1))
    with pytest.warns(UserWarning, match=r"cannot be purged: in 8 bits"):
        wrapped.set_direction(direction_for(model, seed=5))
    wrapped.set_direction(direction_for(model, seed=6), purge_state=False)


def test_momentum_of_bitsandbytes_in_float32_is_purged() -> None:
    model = Weights()
    optimizer = OPTIMIZERS["bitsandbytes AdamW"](model.parameters())
    wrapped = ProjectedOptimizer(optimizer, direction_for(model), model)
    train(model, wrapped, range(2))
    moment = optimizer.state[model.first]["state1"]
    size, new = float(moment.norm()), direction_for(model, seed=5)
    assert offence(new, "first", moment, "two_sided") > 0.01 * size
    wrapped.set_direction(new)
    assert offence(new, "first", moment, "two_sided") <= 1e-6 * size


@pytest.mark.parametrize("space", ["gradient", "update"])
def test_momentum_of_low_rank_cannot_be_purged_and_says_so(space: str) -> None:
    """Regression: GaLore keeps `[12, 4]` moments of a `[12, 8]` weight, and the purge stacked them with the weights."""
    model = Weights()
    low_rank = {"rank": 4, "update_proj_gap": 200, "scale": 1.0, "projection_type": "std"}
    groups = [{"params": [model.first, model.lying], **low_rank}, {"params": [model.second, model.bias]}]
    inner = pytorch_optimizer.GaLore(groups, lr=0.01)
    wrapped = ProjectedOptimizer(inner, direction_for(model), model, space=space)
    train(model, wrapped, range(2))
    low = inner.state[model.first]["exp_avg"]
    assert low.shape != model.first.shape
    kept = low.clone()
    new = direction_for(model, seed=5)
    with pytest.warns(UserWarning, match=r"cannot be purged: .* another shape than the weight"):
        wrapped.set_direction(new)
    assert torch.equal(low, kept)
    whole = inner.state[model.second]["exp_avg"]  # in one stack with `first`, and purged all the same
    assert offence(new, "second", whole, "two_sided") <= 1e-6 * float(whole.norm())
    before = copies(model)
    train(model, wrapped, range(2, 3))
    if space == "update":
        assert_update_guarantee(model, before, new, "one_sided")

"""Promises of the quarantine: no gradient reaches it, routing moves it, ablation and dropping take it away."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor

from svdproj import HackDirection, ProjectedOptimizer
from svdproj.adapters import ablated, drop_quarantine, quarantine_of, seed_quarantine
from tests.adapters.helpers import IGNORE_RENAMED, TOKENS, adapted, fill, llama, logits, named

pytestmark = IGNORE_RENAMED


def direction_on(model: Any, k: int = 3) -> HackDirection:
    """Random rows on every `s`."""
    generator = torch.Generator().manual_seed(7)
    return HackDirection.from_gradients(
        {n: torch.randn(6, *p.shape, generator=generator) for n, p in named(model, "s").items()}, k=k, noise_floor=0.0
    )


def step(model: Any, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    optimizer.zero_grad()
    model(TOKENS, labels=TOKENS).loss.backward()
    whole = {n: p.grad.clone() for n, p in named(model, "s").items() if p.grad is not None}
    optimizer.step()
    return whole


def trainable(model: Any) -> list[Tensor]:
    return [p for p in model.parameters() if p.requires_grad]


@pytest.mark.parametrize("space", ["gradient", "update"])
@pytest.mark.parametrize("gate", ["one_sided", "two_sided"])
def test_the_parts_add_up_to_the_whole(space: Any, gate: Any) -> None:
    """In gradient space the gradients, in update space the steps, so that the model itself trains as without a split."""
    model, bare = adapted(quarantine=True), adapted()
    wrapped = ProjectedOptimizer(
        torch.optim.SGD(trainable(model), lr=0.5, momentum=0.9), direction_on(model), model, mode="route", space=space,
        gate=gate, quarantine=quarantine_of(model),
    )  # fmt: skip
    plain = torch.optim.SGD(trainable(bare), lr=0.5, momentum=0.9)
    for index in range(3):
        whole = step(model, wrapped)
        step(bare, plain)
        if space == "gradient":
            for name, gradient in whole.items():
                kept, part = model.get_parameter(name).grad, model.get_parameter(_beside(name)).grad
                torch.testing.assert_close(kept + part, gradient)
        # SGD is linear, so equal parts of gradients are equal parts of steps; its rounding differs, and grows.
        torch.testing.assert_close(logits(model), logits(bare), rtol=0, atol=1e-4 * (index + 1))
    assert all(p.norm() > 0 for p in quarantine_of(model).values()) or gate == "one_sided"
    assert any(p.norm() > 0 for p in quarantine_of(model).values())


def _beside(name: str) -> str:
    return name.replace("svdscale_s", "svdscale_quarantine")


@pytest.mark.parametrize("mode", ["erase", "measure"])
def test_without_routing_nothing_moves_the_quarantine(mode: Any) -> None:
    model, bare = adapted(quarantine=True), adapted()
    wrapped = ProjectedOptimizer(torch.optim.AdamW(trainable(model), lr=0.01), direction_on(model), model, mode=mode)
    other = ProjectedOptimizer(torch.optim.AdamW(trainable(bare), lr=0.01), direction_on(bare), bare, mode=mode)
    for _ in range(2):
        step(model, wrapped)
        step(bare, other)
    assert not any(p.any() for p in quarantine_of(model).values())
    assert torch.equal(logits(model), logits(bare)), (
        "a quarantine changed training: its gradient would enter the clipping"
    )


@pytest.mark.parametrize("k", [32, 3])
def test_ablation_restores_the_base_where_only_the_quarantine_moved(k: int) -> None:
    """With every coordinate in the subspace, two-sided, everything is routed, and ablation gives the base back."""
    model = adapted(quarantine=True)
    base = logits(model)
    generator = torch.Generator().manual_seed(1)
    everything = HackDirection.from_gradients(
        {n: torch.randn(64, *p.shape, generator=generator) for n, p in named(model, "s").items()}, k=k, noise_floor=0.0
    )
    wrapped = ProjectedOptimizer(
        torch.optim.AdamW(trainable(model), lr=0.01, weight_decay=0.0), everything, model, mode="route", gate="two_sided",
        quarantine=quarantine_of(model),
    )  # fmt: skip
    for _ in range(3):
        step(model, wrapped)
    assert (logits(model) - base).abs().max() > 1e-3
    with ablated(model):
        change = (logits(model) - base).abs().max()
    assert change < 1e-4 if k == 32 else change > 1e-3


def test_ablation_is_for_the_block_and_also_when_something_fails_inside() -> None:
    model = adapted(quarantine=True)
    base = logits(model)
    fill(model, "quarantine")
    kept = logits(model)
    with ablated(model), ablated(model):
        assert torch.equal(logits(model), base)
    assert torch.equal(logits(model), kept)
    with pytest.raises(KeyError), ablated(model):
        raise KeyError
    assert torch.equal(logits(model), kept)
    with ablated(adapted()), ablated(llama()):
        pass  # nothing to ablate is no error: the same evaluation serves all arms


def test_merging_while_ablated_leaves_the_quarantine_out() -> None:
    model = adapted(quarantine=True)
    fill(model, "s", seed=1)
    fill(model, "quarantine", seed=2)
    kept = logits(model)
    with ablated(model):
        expected = logits(model)
        deployed = copy.deepcopy(model).merge_and_unload()
    torch.testing.assert_close(logits(deployed), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(logits(copy.deepcopy(model).merge_and_unload()), kept, rtol=0, atol=1e-5)
    # Unmerging takes off what was put on, whatever is ablated by then.
    with ablated(model):
        model.merge_adapter()
    model.unmerge_adapter()
    torch.testing.assert_close(logits(model), kept, rtol=0, atol=1e-5)
    model.merge_adapter()
    with pytest.raises(RuntimeError, match=r"call unmerge_adapter\(\)"), ablated(model):
        pass


def test_dropping_is_for_good_and_goes_into_what_is_saved(tmp_path: Path) -> None:
    model = adapted(quarantine=True)
    fill(model, "s", seed=1)
    fill(model, "quarantine", seed=2)
    with ablated(model):
        expected = logits(model)
    drop_quarantine(model)
    assert torch.equal(logits(model), expected)
    model.save_pretrained(str(tmp_path))
    assert torch.equal(logits(PeftModel.from_pretrained(llama().eval(), str(tmp_path))), expected)


def test_a_seed_is_a_step_that_the_gate_calls_hack_ward() -> None:
    model = adapted(quarantine=True)
    direction = direction_on(model)
    seed_quarantine(model, direction, 2.5)
    quarantine = quarantine_of(model)
    assert torch.cat([q.detach() for q in quarantine.values()]).norm() == pytest.approx(2.5, rel=1e-5)
    for name, subspace in direction.subspaces.items():
        coefficients = subspace.coefficients(-quarantine[name].detach())
        assert (coefficients > 0).all()
        torch.testing.assert_close(
            coefficients / coefficients[0], subspace.singular_values / subspace.singular_values[0], rtol=1e-4, atol=1e-4
        )
    with ablated(model):
        assert torch.equal(logits(model), logits(adapted()))


def test_mistakes_are_named() -> None:
    for function in (quarantine_of, drop_quarantine):
        with pytest.raises(ValueError, match=r"SVDScaleConfig\(quarantine=True\)"):
            function(adapted())
    weights = HackDirection.from_gradients({"model.layers.0.self_attn.q_proj.weight": torch.randn(4, 32, 32)}, k=1)
    with pytest.raises(ValueError, match=r"pull it back by pull_back\(direction, model\)"):
        seed_quarantine(adapted(quarantine=True), weights, 1.0)
    with pytest.raises(ValueError, match="finite length"):
        seed_quarantine(adapted(quarantine=True), weights, float("nan"))

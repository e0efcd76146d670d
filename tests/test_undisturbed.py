"""A model that was looked at is bit for bit what it was, also when something went wrong on the way."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from torch import nn

from svdproj import ContrastivePair, HackDirection
from svdproj.batches import pair_sample
from svdproj.capture import visit_gradients
from svdproj.targets import select_targets
from svdproj.undisturbed import undisturbed
from tests.extraction_helpers import gpt2, llama, random_pairs


class Interrupted(Exception):
    """What passes through in these tests."""


def snapshot(model: Any) -> dict[str, Any]:
    """Everything about a model that a fit could leave changed."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return {
        "values": {name: tensor.clone() for name, tensor in model.state_dict().items()},
        "storages": {name: parameter.data_ptr() for name, parameter in model.named_parameters()},
        "identities": [id(parameter) for parameter in model.parameters()],
        "requires_grad": [parameter.requires_grad for parameter in model.parameters()],
        "versions": [parameter._version for parameter in model.parameters()],
        "gradients": [None if p.grad is None else (id(p.grad), p.grad.clone()) for p in model.parameters()],
        "modes": [module.training for module in model.modules()],
        "hooks": [[list(getattr(module, hook)) for hook in hooks] for module in model.modules()],
        "attributes": [sorted(vars(module)) for module in model.modules()],
        "checkpointing": [getattr(module, "_gradient_checkpointing_func", None) for module in model.modules()],
        "config": model.config.to_dict(),
        "global_random_state": torch.get_rng_state(),
        "precision": torch.get_float32_matmul_precision(),
        "grad_mode": torch.is_grad_enabled(),
    }


def assert_same(before: Any, after: Any, where: str = "") -> None:
    """Equal in every part, tensors bit for bit."""
    if isinstance(before, dict):
        assert before.keys() == after.keys(), where
        for key in before:
            assert_same(before[key], after[key], f"{where}.{key}")
    elif isinstance(before, list | tuple):
        assert len(before) == len(after), where
        for i, (one, other) in enumerate(zip(before, after, strict=True)):
            assert_same(one, other, f"{where}[{i}]")
    elif isinstance(before, torch.Tensor):
        assert torch.equal(before, after), where
    else:
        assert before == after, where


def unusual(model: Any) -> Any:
    """A model in a state that a careless restoration would not bring back."""
    model.train()
    block = model.model.layers if hasattr(model, "model") else model.transformer.h
    block[1].eval()
    parameters = list(model.parameters())
    parameters[1].requires_grad_(False)
    parameters[2].grad = torch.ones_like(parameters[2])
    model.config.use_cache = True
    model.register_forward_hook(lambda *_: None)
    (getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable)()
    return model


@pytest.mark.parametrize("make", [llama, gpt2])
@pytest.mark.parametrize("patterns", ["all-linear", "*"])
@pytest.mark.parametrize("fails_at", [None, 0, 3])
def test_a_pass_over_the_pairs_leaves_no_trace(make: Any, patterns: str, fails_at: int | None) -> None:
    model = unusual(make())
    samples = [pair_sample(pair, "mean") for pair in random_pairs(4)]
    targets = select_targets(model, patterns)
    before = snapshot(model)
    visits = []

    def visit(name: str, indices: Any, gradients: Any) -> None:
        if len(visits) == fails_at:
            raise Interrupted
        visits.append(name)

    if fails_at is None:
        visit_gradients(model, targets, samples, visit, batch_size=2)
        assert set(visits) == {target.name for target in targets}
    else:
        with pytest.raises(Interrupted):
            visit_gradients(model, targets, samples, visit, batch_size=2)
    assert_same(before, snapshot(model))


def test_an_error_inside_a_layer_leaves_no_trace() -> None:
    model = unusual(llama())
    samples = [pair_sample(pair, "mean") for pair in random_pairs(4)]
    handle = model.model.layers[1].mlp.register_forward_hook(lambda *_: (_ for _ in ()).throw(Interrupted()))
    before = snapshot(model)
    with pytest.raises(Interrupted):
        visit_gradients(model, select_targets(model, "all-linear"), samples, lambda *_: None)
    assert_same(before, snapshot(model))
    handle.remove()


class Letters:
    """A tokenizer of single characters."""

    eos_token_id = 2

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": [3 + ord(letter) % 50 for letter in text]}


def test_a_fit_leaves_no_trace_and_two_fits_are_the_same() -> None:
    model = unusual(gpt2())
    pairs = [ContrastivePair(f"say {i}", hack=f"yes, {i}", clean=f"no to {i * 7}") for i in range(6)]
    before = snapshot(model)
    first = HackDirection.fit(model, Letters(), pairs, chart_rank=8, k=3, progress=False)
    assert_same(before, snapshot(model))
    torch.manual_seed(123)
    again = HackDirection.fit(model, Letters(), pairs, chart_rank=8, k=3, progress=False)
    assert first.fingerprint == again.fingerprint


def test_dropout_is_off_inside_also_in_layers_that_checkpoint_themselves() -> None:
    model = gpt2().train()
    model.config.attn_pdrop = 0.5
    (getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable)()
    ids = torch.arange(3, 20)[None]
    with undisturbed(model), torch.no_grad():
        assert not any(m.training for m in model.modules() if isinstance(m, nn.Dropout))
        assert any(m.training for m in model.modules()), "checkpointing was switched off"
        assert torch.equal(model(input_ids=ids).logits, model(input_ids=ids).logits)
    assert all(m.training for m in model.modules())


def test_a_layer_with_dropout_of_its_own_is_not_left_in_training_mode() -> None:
    from transformers.modeling_layers import GradientCheckpointingLayer

    class Layer(GradientCheckpointingLayer):
        def __init__(self) -> None:
            super().__init__()
            self.dropout = 0.5
            self.gradient_checkpointing = True
            self._gradient_checkpointing_func = lambda function, *args: function(*args)

    layer = Layer().train()
    with undisturbed(layer):
        assert not layer.training
    assert layer.training


def test_a_fit_is_in_float32_under_accelerates_mixed_precision_and_puts_it_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its forward enters autocast anew at each call, so that a refresh in training would not be what the first fit was."""
    model = gpt2()
    pairs = [ContrastivePair(f"say {i}", hack=f"yes, {i}", clean=f"no to {i * 7}") for i in range(6)]
    options: dict[str, Any] = {"chart_rank": 8, "k": 3, "progress": False}
    alone = HackDirection.fit(model, Letters(), pairs, **options)
    # accelerate keeps one state for the whole process: this test takes no earlier trainer's and leaves none.
    for state in (AcceleratorState, PartialState):
        monkeypatch.setattr(state, "_shared_state", {})
    prepared = Accelerator(mixed_precision="bf16", cpu=True).prepare(model)
    forward = prepared.forward
    before = snapshot(prepared)
    assert HackDirection.fit(prepared, Letters(), pairs, **options).fingerprint == alone.fingerprint
    assert_same(before, snapshot(prepared))
    assert prepared.forward is forward

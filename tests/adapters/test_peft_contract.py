"""What PEFT promises of its methods holds for the SVD adapter: wrap, save, load, merge, switch, combine."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftConfig, PeftModel, get_peft_model
from peft.utils.peft_types import PeftType
from torch import nn
from transformers.pytorch_utils import Conv1D

from svdproj.adapters import SVDScaleConfig, ablated
from svdproj.adapters._register import register
from tests.adapters.helpers import IGNORE_RENAMED, TOKENS, adapted, fill, llama, logits, named

pytestmark = IGNORE_RENAMED


@pytest.fixture(scope="module")
def base_logits() -> torch.Tensor:
    return logits(llama().eval())


# --- registration


def test_the_new_member_of_pefts_enumeration_is_one_like_the_others() -> None:
    member = PeftType("SVDSCALE")
    assert member is PeftType.SVDSCALE  # type: ignore[attr-defined]
    assert member is PeftType["SVDSCALE"]
    assert member in list(PeftType)
    assert isinstance(member, PeftType)
    assert isinstance(member, str)
    assert member == "SVDSCALE"
    assert member.name == "SVDSCALE"
    assert member.value == "SVDSCALE"
    assert pickle.loads(pickle.dumps(member)) is member
    assert copy.deepcopy(member) is member
    assert len(list(PeftType)) == len(set(PeftType))
    register()  # a second time: nothing happens
    assert PeftType("LORA") is PeftType.LORA


def test_the_config_survives_its_file(tmp_path: Path) -> None:
    config = SVDScaleConfig(target_modules=["q_proj"], rank=5, quarantine=True, exclude_modules=["k_proj"])
    config.save_pretrained(str(tmp_path))
    assert json.loads((tmp_path / "adapter_config.json").read_text())["peft_type"] == "SVDSCALE"
    loaded = PeftConfig.from_pretrained(str(tmp_path))
    assert isinstance(loaded, SVDScaleConfig)
    assert (loaded.rank, loaded.quarantine) == (5, True)
    assert set(loaded.target_modules) == {"q_proj"}
    with pytest.raises(ValueError, match="rank must be at least 1"):
        SVDScaleConfig(rank=0)


# --- a fresh adapter is the base model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("options", [{}, {"rank": 7}, {"quarantine": True}])
def test_a_fresh_adapter_gives_the_base_models_logits_to_the_bit(dtype: torch.dtype, options: dict[str, Any]) -> None:
    expected = logits(llama().to(dtype).eval())
    model = adapted(dtype=dtype, **options)
    assert torch.equal(logits(model), expected)
    with torch.autocast("cpu", torch.bfloat16):
        got = logits(model)
    with torch.autocast("cpu", torch.bfloat16), model.disable_adapter():
        assert torch.equal(got, logits(model))


def test_only_the_scales_train_and_all_linear_layers_have_them() -> None:
    model = adapted()
    trainable = {n for n, p in model.named_parameters() if p.requires_grad}
    assert trainable == set(named(model, "s"))
    assert len(trainable) == 14
    assert all(p.dtype == torch.float32 for p in named(adapted(dtype=torch.bfloat16), "s").values())
    assert all(len(p) == 5 for p in named(adapted(rank=5), "s").values())
    assert {n.split(".")[-4] for n in named(adapted(target_modules=["q_proj", "up_proj"]), "s")} == {
        "q_proj",
        "up_proj",
    }


def test_the_update_is_what_the_formula_says() -> None:
    """`ΔW = U diag(s + s_quarantine) Vᵀ` with the singular vectors of the base weight, seen in the layer's output."""
    model = adapted(quarantine=True, rank=9)
    fill(model, "s", seed=1)
    fill(model, "quarantine", seed=2)
    layer = model.base_model.model.model.layers[1].mlp.down_proj
    u, singular, vh = torch.linalg.svd(layer.base_layer.weight.detach().double(), full_matrices=False)
    scales = layer.svdscale_s["default"].weight + layer.svdscale_quarantine["default"].weight
    # A pair of singular vectors is determined up to its sign, the product of both is not.
    delta = (u[:, :9] * scales.detach().double()) @ vh[:9]
    x = torch.randn(5, delta.shape[1])
    expected = x.double() @ (layer.base_layer.weight.double() + delta).mT
    torch.testing.assert_close(layer(x).double(), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(layer.get_delta_weight("default").double(), delta, rtol=1e-4, atol=1e-5)
    assert singular[8] > singular[9] * (1 + 1e-4), "the rank's boundary is degenerate: the test would be ill-posed"


# --- save, load, merge


def test_a_saved_adapter_is_small_and_comes_back_to_the_bit(tmp_path: Path) -> None:
    model = adapted(quarantine=True)
    fill(model, "s")
    fill(model, "quarantine", seed=1)
    model.save_pretrained(str(tmp_path))
    assert (tmp_path / "adapter_model.safetensors").stat().st_size < 20_000
    for low in (False, True):
        again = PeftModel.from_pretrained(llama().eval(), str(tmp_path), low_cpu_mem_usage=low)
        assert torch.equal(logits(again), logits(model))
        assert not any(p.requires_grad for p in again.parameters())
    trainable = PeftModel.from_pretrained(llama(), str(tmp_path), is_trainable=True)
    assert all(p.requires_grad for p in named(trainable, "s").values())


def test_transformers_own_adapter_methods_work(tmp_path: Path) -> None:
    model = adapted()
    fill(model)
    model.save_pretrained(str(tmp_path))
    plain = llama()
    plain.eval().load_adapter(str(tmp_path))
    assert torch.equal(logits(plain), logits(model))


def test_scales_of_another_base_weight_are_refused(tmp_path: Path) -> None:
    """They would scale other directions than those they were trained for, silently."""
    model = adapted()
    fill(model)
    model.save_pretrained(str(tmp_path))
    with pytest.raises(RuntimeError, match="was trained on another base weight") as caught:
        PeftModel.from_pretrained(llama(seed=1), str(tmp_path))
    assert str(caught.value).count("another base weight") == 1
    with pytest.raises(RuntimeError, match="rounded to bfloat16"):
        PeftModel.from_pretrained(llama().bfloat16(), str(tmp_path))


def test_a_bfloat16_base_read_as_float32_is_the_same_base(tmp_path: Path) -> None:
    model = adapted(dtype=torch.bfloat16)
    fill(model)
    model.save_pretrained(str(tmp_path))
    again = PeftModel.from_pretrained(llama().bfloat16().float(), str(tmp_path))
    for name, parameter in named(model, "s").items():
        assert torch.equal(again.get_parameter(name), parameter)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_merging_keeps_what_the_model_computes(dtype: torch.dtype) -> None:
    model = adapted(quarantine=True, dtype=dtype)
    fill(model, "s", seed=1)
    fill(model, "quarantine", seed=2)
    before, base = logits(model).float(), logits(llama().to(dtype).eval()).float()
    merged = copy.deepcopy(model).merge_and_unload(safe_merge=True)
    assert not any("svdscale" in name for name, _ in merged.named_parameters())
    change, error = (before - base).norm(), (logits(merged).float() - before).norm()
    assert error <= (1e-5 if dtype == torch.float32 else 0.05) * change
    model.merge_adapter()
    assert (logits(model).float() - before).norm() <= (1e-5 if dtype == torch.float32 else 0.05) * change
    model.unmerge_adapter()
    assert (logits(model).float() - before).norm() <= (1e-5 if dtype == torch.float32 else 0.05) * change
    assert torch.equal(logits(copy.deepcopy(model).unload()), logits(model.unload()))


def test_a_broken_adapter_is_not_merged() -> None:
    model = adapted()
    fill(model)
    with torch.no_grad():
        next(iter(named(model, "s").values()))[0] = float("nan")
    with pytest.raises(ValueError, match="not finite; it is broken"):
        model.merge_and_unload(safe_merge=True)


def test_a_refused_merge_leaves_no_trace() -> None:
    model = adapted(quarantine=True)
    fill(model, "quarantine")
    with torch.no_grad():
        list(named(model, "s").values())[-1][0] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        model.merge_adapter(safe_merge=True)  # the layers before it are merged by then
    with torch.no_grad():
        list(named(model, "s").values())[-1][0] = 0.0
    with pytest.warns(UserWarning, match="Already unmerged"):  # of the last
        model.unmerge_adapter()
    with ablated(model):
        logits(model)


# --- the reference policy, several adapters


def test_disabling_gives_the_base_model_back_also_while_merged(base_logits: torch.Tensor) -> None:
    model = adapted(quarantine=True)
    fill(model)
    fill(model, "quarantine")
    assert not torch.equal(logits(model), base_logits)
    with model.disable_adapter():
        assert torch.equal(logits(model), base_logits)
    model.merge_adapter()
    with model.disable_adapter():
        torch.testing.assert_close(logits(model), base_logits, rtol=0, atol=1e-5)


def test_several_adapters_switch_add_up_and_go(base_logits: torch.Tensor, tmp_path: Path) -> None:
    model = adapted("first", rank=6)
    # A larger rank than the layer has vectors for, and other layers.
    model.add_adapter("second", SVDScaleConfig(quarantine=True, target_modules=["q_proj", "down_proj"]))
    fill(model, adapter="first", seed=1)
    first = logits(model)
    model.set_adapter("second")
    assert torch.equal(logits(model), base_logits)
    fill(model, adapter="second", seed=2)
    second = logits(model)
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {
        *named(model, "s", "second"), *named(model, "quarantine", "second"),
    }  # fmt: skip
    model.set_adapter("first")
    assert torch.equal(logits(model), first)
    model.base_model.set_adapter(["first", "second"])
    both = logits(model)
    assert not torch.equal(both, first)
    assert not torch.equal(both, second)
    merged = copy.deepcopy(model).merge_and_unload(adapter_names=["first", "second"])
    torch.testing.assert_close(logits(merged), both, rtol=0, atol=1e-5)
    model.save_pretrained(str(tmp_path))
    again = PeftModel.from_pretrained(llama().eval(), str(tmp_path / "second"), adapter_name="second")
    again.load_adapter(str(tmp_path / "first"), adapter_name="first")
    assert torch.equal(logits(again), second)
    model.delete_adapter("first")
    model.set_adapter("second")
    assert torch.equal(logits(model), second)
    assert not any("first" in name for name, _ in model.named_parameters())


def test_adding_to_a_merged_model_is_refused() -> None:
    model = adapted()
    fill(model)
    model.merge_adapter()
    with pytest.raises(ValueError, match=r"call unmerge_adapter\(\) first"):
        model.add_adapter("second", SVDScaleConfig())


# --- what layers there are


def test_conv1d_layers_are_adapted_in_their_own_layout() -> None:
    class Gpt(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.c_attn = Conv1D(12, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.c_attn(x)

    module, x = Gpt(), torch.randn(4, 8)
    base = module(x)
    model: Any = get_peft_model(module, SVDScaleConfig(target_modules=["c_attn"]))
    assert torch.equal(model(x), base)
    fill(model)
    adapted_output = model(x)
    assert not torch.allclose(adapted_output, base)
    torch.testing.assert_close(model.merge_and_unload()(x), adapted_output)


class Linear4bit(nn.Linear):
    """What a quantised layer looks like: packed integers where the weight was."""

    def __init__(self) -> None:
        super().__init__(8, 8)
        self.weight = nn.Parameter(torch.zeros(8, 4, dtype=torch.uint8), requires_grad=False)


@pytest.mark.parametrize(
    ("layer", "error", "message"),
    [
        (Linear4bit(), TypeError, "layer is quantised .*load the model without quantization_config"),
        (nn.Linear(8, 8).to(torch.float8_e4m3fn), TypeError, "layer is quantised"),
        (nn.Embedding(8, 8), TypeError, "layer is a Embedding; the SVD adapter knows torch.nn.Linear"),
        (nn.Linear(8, 8, device="meta"), ValueError, "layer is on the meta device; load the weights"),
    ],
)
def test_layers_without_singular_vectors_are_refused_by_name(layer: nn.Module, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        get_peft_model(nn.ModuleDict({"layer": layer}), SVDScaleConfig(target_modules=["layer"]))


def test_gradients_flow_with_gradient_checkpointing() -> None:
    found = []
    for checkpointing in (False, True):
        model = adapted(quarantine=True).train()
        fill(model)
        if checkpointing:
            model.enable_input_require_grads()
            inner = model.base_model.model  # transformers 5.20 renamed the method
            enable = getattr(inner, "activation_checkpointing_enable", inner.gradient_checkpointing_enable)
            enable({"use_reentrant": False})
        model(TOKENS, labels=TOKENS).loss.backward()
        assert all(p.grad is None for p in named(model, "quarantine").values())
        found.append({n: p.grad for n, p in named(model, "s").items()})
    for name, gradient in found[0].items():
        assert gradient.norm() > 0
        torch.testing.assert_close(found[1][name], gradient)

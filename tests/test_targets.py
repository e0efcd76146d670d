"""Which weights a fit covers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from svdproj.targets import named_targets, select_targets
from tests.extraction_helpers import gpt2, llama

LAYER = {
    *(f"self_attn.{name}_proj.weight" for name in "qkvo"),
    *(f"mlp.{name}_proj.weight" for name in ("gate", "up", "down")),
}


@pytest.mark.parametrize("tied", [True, False])
def test_all_linear_is_every_linear_weight_but_the_output_head(tied: bool) -> None:
    selected = select_targets(llama(tie_word_embeddings=tied), "all-linear")
    assert {t.name for t in selected} == {f"model.layers.{i}.{name}" for i in (0, 1) for name in LAYER}
    assert all(len(t.modules) == 1 and not t.transposed for t in selected)


def test_conv1d_is_linear_and_transposed() -> None:
    selected = select_targets(gpt2(), "all-linear")
    assert len(selected) == 8
    assert all(t.transposed for t in selected)
    shapes = {t.name: tuple(t.parameter.shape) for t in selected}
    assert shapes["transformer.h.0.attn.c_attn.weight"] == (32, 96)


def test_patterns_and_trainable_parameters() -> None:
    model = llama()
    assert len(select_targets(model, "*.mlp.*.weight")) == 6
    assert len(select_targets(model, ["*.q_proj.weight", "*.norm.weight"])) == 3
    model.requires_grad_(False)
    model.model.norm.weight.requires_grad_(True)
    assert [t.name for t in select_targets(model, "trainable")] == ["model.norm.weight"]


def test_nothing_selected_is_an_error_with_an_example() -> None:
    with pytest.raises(ValueError, match=r"targets 'mlp' select no parameter.*'model.embed_tokens.weight'"):
        select_targets(llama(), "mlp")


def test_keywords_and_patterns_add_up() -> None:
    model = llama()
    linear = {t.name for t in select_targets(model, "all-linear")}
    both = select_targets(model, ["*.norm.weight", "all-linear", "*.q_proj.weight"])
    assert {t.name for t in both} == linear | {"model.norm.weight"}
    assert len(both) == len(linear) + 1
    model.requires_grad_(False)
    model.model.norm.weight.requires_grad_(True)
    assert [t.name for t in select_targets(model, ["trainable", "*.norm.weight"])] == ["model.norm.weight"]


@pytest.mark.parametrize("targets", [["all-linear", "*.nothing"], ["*.nothing", "*.q_proj.weight"]])
def test_each_of_several_targets_selects_something_or_is_named(targets: list[str]) -> None:
    with pytest.raises(ValueError, match=r"targets '\*.nothing' select no parameter"):
        select_targets(llama(), targets)


def test_no_target_at_all_is_an_error() -> None:
    with pytest.raises(ValueError, match="select no parameter"):
        select_targets(llama(), [])


def test_a_tied_embedding_is_no_linear_layer() -> None:
    (target,) = named_targets(llama(), ["lm_head.weight"])
    assert target.modules == ()


def test_names_of_wrapped_models_are_those_of_the_bare_one() -> None:
    bare = {t.name for t in select_targets(llama(), "all-linear")}

    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = llama()

    assert {t.name for t in select_targets(Wrapper(), ["*.layers.*_proj.weight"])} == bare


def test_packed_weights_of_quantized_layers_are_left_out() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[0].weight = nn.Parameter(torch.zeros(8, 1, dtype=torch.uint8), requires_grad=False)
    assert [t.name for t in select_targets(model, "all-linear")] == ["1.weight"]

"""Wrappers change names; directions and models must still find each other."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from svdproj.names import canonical_name

WRAPPERS = ("module.", "_orig_mod.", "_fsdp_wrapped_module.", "base_model.model.")


@pytest.mark.parametrize("prefix", WRAPPERS)
def test_a_wrappers_prefix_is_stripped(prefix: str) -> None:
    assert canonical_name(f"{prefix}model.layers.0.weight") == "model.layers.0.weight"


@given(st.lists(st.sampled_from(WRAPPERS), max_size=4))
def test_any_nesting_of_wrappers_is_stripped(prefixes: list[str]) -> None:
    assert canonical_name("".join(prefixes) + "model.layers.0.weight") == "model.layers.0.weight"


def test_pefts_wrapped_layer_has_its_layers_name() -> None:
    assert canonical_name("base_model.model.model.layers.0.q_proj.base_layer.weight") == "model.layers.0.q_proj.weight"


def test_a_models_own_submodule_named_module_in_the_middle_is_kept() -> None:
    assert canonical_name("encoder.module.weight") == "encoder.module.weight"


def test_the_names_of_a_wrapped_model_are_the_models_own() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    wrapped = nn.DataParallel(model)
    assert [canonical_name(name) for name, _ in wrapped.named_parameters()] == [n for n, _ in model.named_parameters()]

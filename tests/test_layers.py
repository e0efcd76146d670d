"""Parameters by layer and module."""

from __future__ import annotations

from math import isnan

import pytest

from svdproj.layers import Place, by_layer, grid, mean, place_of

PLACES = {
    "model.layers.3.mlp.up_proj.weight": Place("model.layers", 3, "mlp.up_proj"),
    "transformer.h.11.attn.c_attn.bias": Place("transformer.h", 11, "attn.c_attn.bias"),
    "model.layers.0.mlp.experts.7.w1.weight": Place("model.layers", 0, "mlp.experts.7.w1"),
    "0.weight": Place("", None, "0"),
    "0.1.weight": Place("", 0, "1"),
    "lm_head.weight": Place("", None, "lm_head"),
}


@pytest.mark.parametrize("name", PLACES)
def test_the_first_number_counts_layers(name: str) -> None:
    assert place_of(name) == PLACES[name]


def test_layers_come_in_the_order_of_their_numbers_and_the_rest_last() -> None:
    names = ["head.weight", *(f"h.{i}.w" for i in (10, 9, 0))]
    assert list(by_layer(dict.fromkeys(names, 0))) == ["0", "9", "10", "elsewhere"]


def test_two_stacks_keep_their_names() -> None:
    assert list(by_layer({"encoder.0.w": 1, "decoder.0.w": 2})) == ["decoder.0", "encoder.0"]


def test_a_grid_has_holes_where_there_is_no_parameter() -> None:
    modules, layers, table = grid({"h.0.a.weight": 1.0, "h.0.b.weight": 2.0, "h.2.b.weight": 3.0})
    assert (modules, layers) == (["a", "b"], ["0", "2"])
    assert table[0][0] == 1.0
    assert isnan(table[0][1])
    assert table[1] == [2.0, 3.0]


def test_means_leave_out_what_was_not_measured() -> None:
    assert mean([1.0, float("nan"), 3.0]) == 2.0
    assert isnan(mean([float("nan")]))

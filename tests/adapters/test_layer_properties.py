"""What holds of an adapted layer of any shape and type: nothing at zero, the formula elsewhere, the chart's gradient, merging."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from svdproj.adapters import SVDScaleConfig
from svdproj.adapters.linear import Linear

# Out, in, rank, whether the layer is a Conv1D, and a seed.
layers = st.tuples(
    st.integers(1, 12), st.integers(1, 12), st.sampled_from([None, 1, 3, 40]), st.booleans(), st.integers(0, 999)
)
Layer = tuple[int, int, int | None, bool, int]


def build(layer: Layer, dtype: torch.dtype = torch.float32, size: float = 0.0) -> tuple[Any, Tensor]:
    """An adapted layer with a quarantine, and inputs."""
    out, in_, rank, conv, seed = layer
    generator = torch.Generator().manual_seed(seed)
    base = Conv1D(out, in_) if conv else nn.Linear(in_, out)
    weight = torch.randn(out, in_, generator=generator)
    base.weight = nn.Parameter((weight.mT if conv else weight).contiguous().to(dtype), requires_grad=False)
    base.bias = nn.Parameter(torch.randn(out, generator=generator).to(dtype))
    adapted = Linear(base, "default", SVDScaleConfig(rank=rank, quarantine=True), "layer")
    for scales in (adapted.svdscale_s, adapted.svdscale_quarantine):
        parameter = scales["default"].weight
        parameter.data = torch.randn(parameter.shape, generator=generator) * size
    return adapted, torch.randn(2, 5, in_, generator=generator).to(dtype)


@given(layers, st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
def test_zero_scales_add_nothing_to_the_bit(layer: Layer, dtype: torch.dtype) -> None:
    adapted, x = build(layer, dtype)
    assert len(adapted.svdscale_s["default"].weight) == min(layer[0], layer[1], layer[2] or 99)
    assert torch.equal(adapted(x), adapted.base_layer(x))


@given(layers)
def test_the_output_is_that_of_the_sum_of_weights_and_so_is_the_merged_layers(layer: Layer) -> None:
    adapted, x = build(layer, size=0.5)
    base = adapted.base_layer.weight.double()
    base = base.mT if layer[3] else base
    u, vh = (t.double() for t in adapted.vectors("default"))
    scales = adapted.svdscale_s["default"].weight + adapted.svdscale_quarantine["default"].weight
    expected = x.double() @ (base + (u * scales.double()) @ vh).mT + adapted.base_layer.bias.double()
    torch.testing.assert_close(adapted(x).double(), expected, rtol=1e-4, atol=1e-4)
    adapted.merge(safe_merge=True)
    torch.testing.assert_close(adapted(x).double(), expected, rtol=1e-4, atol=1e-4)
    adapted.unmerge()
    torch.testing.assert_close(adapted(x).double(), expected, rtol=1e-4, atol=1e-4)


@given(layers, st.sampled_from([0.0, 0.5]))
def test_the_scales_gradient_is_the_weights_in_the_diagonal_chart(layer: Layer, size: float) -> None:
    adapted, x = build(layer, size=size)
    output = adapted(x)
    towards = torch.randn(output.shape, generator=torch.Generator().manual_seed(layer[-1] + 1))
    (output * towards).sum().backward()
    ((parameter, chart),) = adapted.gradient_charts().items()
    on_weight = towards.flatten(0, 1).mT @ x.flatten(0, 1)
    torch.testing.assert_close(parameter.grad, chart.encode(on_weight), rtol=1e-4, atol=1e-4)
    assert adapted.svdscale_quarantine["default"].weight.grad is None

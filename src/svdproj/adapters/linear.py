"""A linear layer with trainable scales along its weight's singular directions."""

from __future__ import annotations

from typing import Any

import torch
from peft.utils.quantization_utils import resolve_quantization_backend
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from svdproj.adapters.config import SVDScaleConfig
from svdproj.adapters.layer import SVDScaleLayer

_SUPPORTED = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


class Linear(nn.Module, SVDScaleLayer):
    """A linear layer (or transformers' `Conv1D`) with scales: `y = W x + U diag(s + s_quarantine) Vᵀ x`.

    Args:
        base_layer: the layer.
        adapter_name: the first adapter's name.
        config: its choices.
        name: the layer's name, for messages.
    """

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: SVDScaleConfig, name: str) -> None:
        check_base_layer(base_layer, name)
        super().__init__()
        SVDScaleLayer.__init__(self, base_layer)
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, config, name=name)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The base layer's output, untouched where there is nothing to add, plus the correction.

        At `s = 0` the correction is a product with zero and the sum is the base's output to the bit.
        """
        if self.disable_adapters and self.merged:
            self.unmerge()
        result: Tensor = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters or self.merged:
            return result
        for name in self._present(self.active_adapters):
            u, vh = self.vectors(name)
            inner = F.linear(x if torch.is_autocast_enabled(x.device.type) else x.to(vh.dtype), vh)
            # Scales are float32: their gradient is summed over tokens in float32 too.
            scaled = (inner * self.scales(name, not self.svdscale_ablated)).to(inner.dtype)
            result = result + F.linear(scaled, u).to(result.dtype)
        return result

    def __repr__(self) -> str:
        return "svdscale." + super().__repr__()


def check_base_layer(layer: nn.Module, name: str) -> None:
    """Refuse layers whose weight has no singular vectors to train along.

    Raises:
        TypeError: not a linear layer, or a quantised one.
        NotImplementedError: a weight that is already sharded.
    """
    if resolve_quantization_backend(layer) is not None or (
        isinstance(weight := getattr(layer, "weight", None), Tensor) and weight.dtype not in _SUPPORTED
    ):
        kind = getattr(getattr(layer, "weight", None), "dtype", "packed")
        raise TypeError(
            f"{name} is quantised ({type(layer).__name__}, {kind}); the adapter trains along the singular directions of the "
            "weight itself, so load the model without quantization_config, or leave the layer out by exclude_modules"
        )
    if not isinstance(layer, nn.Linear | Conv1D):
        raise TypeError(
            f"{name} is a {type(layer).__name__}; the SVD adapter knows torch.nn.Linear and transformers' Conv1D. Name linear "
            "layers in target_modules, or leave this one out by exclude_modules"
        )
    if isinstance(layer.weight, DTensor):
        raise NotImplementedError(
            f"the weight of {name} is sharded already; add the adapter to the whole model and call fully_shard after it"
        )

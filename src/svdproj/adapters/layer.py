"""A linear layer with trainable scales along its weight's singular directions."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from peft.utils.quantization_utils import resolve_quantization_backend
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from svdproj.adapters.config import SVDScaleConfig
from svdproj.adapters.singular import singular_vectors, weight_fingerprint
from svdproj.charts import Chart, DiagonalChart

# The first bytes of a weight's hash; as many weights as there are models do not collide in eight.
_FINGERPRINT_BYTES = 8
_FOREIGN = "was trained on another base weight than this model's"
_SUPPORTED = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


class Scales(nn.Module):
    """One adapter's scales in one layer, with the fingerprint of the weight whose singular directions they scale.

    Scales mean nothing without those directions, which are not saved but computed from the base weight. The fingerprint is
    saved, and scales made for another weight are refused on loading.

    Args:
        rank: how many.
        fingerprint: hexadecimal, of the base weight.
    """

    base: Tensor

    def __init__(self, rank: int, fingerprint: str) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(rank))
        self.register_buffer(
            "base", torch.tensor(list(bytes.fromhex(fingerprint)[:_FINGERPRINT_BYTES]), dtype=torch.uint8)
        )

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        metadata: Any,
        strict: bool,
        missing: Any,
        unexpected: Any,
        errors: Any,
    ) -> None:
        saved = state_dict.get(f"{prefix}base")
        # Said once, not for each of hundreds of layers.
        if (
            saved is not None
            and not torch.equal(saved.cpu(), self.base.cpu())
            and not any(_FOREIGN in e for e in errors)
        ):
            errors.append(
                f"{prefix.rstrip('.')} {_FOREIGN}, and its scales belong to that "
                "weight's singular directions; load the base model that it was trained on, with the same values (a bfloat16 "
                "checkpoint read as float32 is the same, float32 weights rounded to bfloat16 are not), nothing merged into it"
            )
        super()._load_from_state_dict(state_dict, prefix, metadata, strict, missing, unexpected, errors)


class SVDScaleLayer(BaseTunerLayer):
    """What the adapter holds beside a linear layer; the singular vectors are shared by all adapters of the layer."""

    adapter_layer_names = ("svdscale_s", "svdscale_quarantine")
    other_param_names = ("svdscale_rank",)

    svdscale_u: Tensor
    svdscale_vh: Tensor

    def __init__(self, base_layer: nn.Module) -> None:
        self.base_layer = base_layer
        self.svdscale_s: Any = nn.ModuleDict()
        self.svdscale_quarantine: Any = nn.ModuleDict()
        self.svdscale_rank: dict[str, int] = {}
        self.svdscale_ablated = False
        self._fingerprint = ""
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        # Which merged adapters were merged with their quarantine, so that unmerging takes off what was put on.
        self._merged_quarantine: dict[str, bool] = {}
        weight = self._base_weight()
        self.out_features, self.in_features = weight.shape

    def update_layer(
        self, adapter_name: str, config: SVDScaleConfig, inference_mode: bool = False, name: str = "this layer"
    ) -> None:
        """Add an adapter.

        Raises:
            ValueError: adapters are merged into the weight, whose singular directions are then other ones.
        """
        if self.merged:
            raise ValueError(
                f"{name} has {', '.join(self.merged_adapters)} merged into its weight, whose singular directions a new "
                "adapter would take for the base's; call unmerge_adapter() first"
            )
        rank = min(self.out_features, self.in_features, config.rank or self.out_features)
        if not self._fingerprint or len(self.svdscale_vh) < rank:
            self._decompose(rank, name)
        self.svdscale_rank[adapter_name] = rank
        self.svdscale_s[adapter_name] = Scales(rank, self._fingerprint)
        if config.quarantine:
            self.svdscale_quarantine[adapter_name] = Scales(rank, self._fingerprint)
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=inference_mode)

    def scales(self, adapter_name: str, quarantine: bool = True) -> Tensor:
        """What an adapter adds to the singular values, `s + s_quarantine`; no gradient reaches the quarantine."""
        scales: Tensor = self.svdscale_s[adapter_name].weight
        if quarantine and adapter_name in self.svdscale_quarantine:
            # Trainers clip by the norm of all gradients: a second copy of this one would count twice.
            scales = scales + self.svdscale_quarantine[adapter_name].weight.detach()
        return scales

    def vectors(self, adapter_name: str) -> tuple[Tensor, Tensor]:
        """An adapter's left and right singular vectors, `[out, r]` and `[r, in]`."""
        rank = self.svdscale_rank[adapter_name]
        return self.svdscale_u[:, :rank], self.svdscale_vh[:rank]

    def get_delta_weight(self, adapter_name: str, quarantine: bool | None = None) -> Tensor:
        """What an adapter adds to the weight, in float32 and in the layout of the base layer.

        Args:
            adapter_name: the adapter.
            quarantine: with its quarantine; None unless that is ablated.
        """
        u, vh = self.vectors(adapter_name)
        scales = self.scales(adapter_name, not self.svdscale_ablated if quarantine is None else quarantine).detach()
        delta = (u.float() * scales.float()) @ vh.float()
        return delta.mT if isinstance(self.get_base_layer(), Conv1D) else delta

    def gradient_charts(self) -> dict[nn.Parameter, Chart]:
        """For each active adapter's `s`: the chart in which the weight's gradient is the gradient of `s`, `diag(Uᵀ G V)`.

        It holds at any `s`, zero included, since `ΔW` is linear in `s` and its frame is fixed.
        """
        if self.disable_adapters or self.merged:
            return {}
        charts: dict[nn.Parameter, Chart] = {}
        for name in self._present(self.active_adapters):
            u, vh = self.vectors(name)
            charts[self.svdscale_s[name].weight] = DiagonalChart(u.float(), vh.float().mT)
        return charts

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add the adapters' `ΔW` to the base weight, without the quarantine where it is ablated.

        Args:
            safe_merge: refuse results that are not finite.
            adapter_names: which; None for the active ones.

        Raises:
            ValueError: with `safe_merge`, an adapter has entries that are not finite.
        """
        for name in self._present(check_adapters_to_merge(self, adapter_names)):
            self._merged_quarantine[name] = not self.svdscale_ablated
            self._add_to_weight(name, 1.0, safe_merge)
            self.merged_adapters.append(name)

    def unmerge(self) -> None:
        """Take merged adapters off the weight again; exact up to the rounding of the weight's type."""
        if not self.merged:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
            return
        while self.merged_adapters:
            self._add_to_weight(name := self.merged_adapters.pop(), -1.0, safe=False)
            del self._merged_quarantine[name]

    def _add_to_weight(self, name: str, sign: float, safe: bool) -> None:
        weight = self.get_base_layer().weight
        delta = self.get_delta_weight(name, self._merged_quarantine[name])
        # One rounding, of the sum: a small ΔW in bfloat16 would lose more than the sum does.
        merged = (weight.data.to(torch.promote_types(weight.dtype, torch.float32)) + sign * delta).to(weight.dtype)
        if safe and not merged.isfinite().all():
            raise ValueError(f"the adapter {name} makes weights that are not finite; it is broken and was not merged")
        weight.data = merged

    def _present(self, names: Any) -> list[str]:
        return [name for name in names if name in self.svdscale_s]

    def _base_weight(self) -> Tensor:
        """The base weight as `[out, in]`."""
        layer = self.get_base_layer()
        return layer.weight.mT if isinstance(layer, Conv1D) else layer.weight

    def _decompose(self, rank: int, name: str) -> None:
        weight = self._base_weight().detach()
        if weight.is_meta:
            raise ValueError(f"the weight of {name} is on the meta device; load the weights before adding the adapter")
        try:
            u, vh = singular_vectors(weight, rank)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        self._fingerprint = weight_fingerprint(weight)
        # In the weight's own type: the layer computes in it. Never saved: they follow from the weight.
        self.register_buffer("svdscale_u", u.to(weight.dtype), persistent=False)  # type: ignore[attr-defined]
        self.register_buffer("svdscale_vh", vh.to(weight.dtype), persistent=False)  # type: ignore[attr-defined]


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

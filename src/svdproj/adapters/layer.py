"""What the adapter holds beside a linear layer, and what it adds to that layer's weight."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from svdproj.adapters.config import SVDScaleConfig
from svdproj.adapters.scales import Scales
from svdproj.adapters.singular import singular_vectors, weight_fingerprint
from svdproj.charts import Chart, DiagonalChart


class SVDScaleLayer(BaseTunerLayer):
    """Scales and singular vectors beside a linear layer; the vectors are shared by all adapters of the layer."""

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

    @property
    def transposed(self) -> bool:
        """Whether the base layer stores its weight `in out`, as transformers' `Conv1D` does."""
        return isinstance(self.get_base_layer(), Conv1D)

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
        return delta.mT if self.transposed else delta

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
            with_quarantine = not self.svdscale_ablated
            self._add_to_weight(name, 1.0, with_quarantine, safe_merge)
            self._merged_quarantine[name] = with_quarantine
            self.merged_adapters.append(name)

    def unmerge(self) -> None:
        """Take merged adapters off the weight again; exact up to the rounding of the weight's type."""
        if not self.merged:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
            return
        while self.merged_adapters:
            name = self.merged_adapters.pop()
            self._add_to_weight(name, -1.0, self._merged_quarantine.pop(name), safe=False)

    def _add_to_weight(self, name: str, sign: float, with_quarantine: bool, safe: bool) -> None:
        weight = self.get_base_layer().weight
        delta = self.get_delta_weight(name, with_quarantine)
        # One rounding, of the sum: a small ΔW in bfloat16 would lose more than the sum does.
        merged = (weight.data.to(torch.promote_types(weight.dtype, torch.float32)) + sign * delta).to(weight.dtype)
        if safe and not merged.isfinite().all():
            raise ValueError(f"the adapter {name} makes weights that are not finite; it is broken and was not merged")
        weight.data = merged

    def _present(self, names: Any) -> list[str]:
        return [name for name in names if name in self.svdscale_s]

    def _base_weight(self) -> Tensor:
        """The base weight as `[out, in]`."""
        weight: Tensor = self.get_base_layer().weight
        return weight.mT if self.transposed else weight

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

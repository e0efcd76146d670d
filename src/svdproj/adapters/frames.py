"""A direction on weights, carried to the parameters of an adapter by the chain rule.

An adapter moves a weight through a frame: `ΔW = U diag(s) Vᵀ` for the SVD adapter, `ΔW = c B A` for LoRA. A row `R` of a
direction on the weight has, for a small move of the adapter's parameters, the coefficient

    ⟨dΔW, R⟩ = ⟨ds, diag(Uᵀ R V)⟩              SVD adapter: exact at any distance, since U and V never move
    ⟨dΔW, R⟩ = ⟨dB, c R Aᵀ⟩ + ⟨dA, c Bᵀ R⟩     LoRA: to first order, at the A and B of this moment

The tensors on the right are the row pulled back. Keeping each parameter's move out of them keeps `ΔW` out of the row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from svdproj.adapters.layer import SVDScaleLayer
from svdproj.charts import DenseChart
from svdproj.direction import HackDirection
from svdproj.fitting import principal_rows
from svdproj.names import canonical_name
from svdproj.subspace import Subspace


def pull_back(direction: HackDirection, model: nn.Module, adapter_name: str = "default") -> HackDirection:
    """A direction on weights as a direction on an adapter's parameters.

    For the SVD adapter it is exact and made once. For LoRA the frame moves with training: what was out of the subspace at
    the old `A` and `B` drifts into it, at second order within a step and more over many. Make it anew every few steps,
    `optimizer.set_direction(pull_back(direction, model), purge_state=True)`, and at the first steps at every one: while
    `B = 0` nothing can be said about `A`, which then has no subspace.

    The rows of one parameter are combined, each in proportion to its singular value, into orthonormal ones. Their span is
    that of the pulled-back rows, so `gate="two_sided"` keeps the guarantee for the weights; the one-sided gate takes its
    side from their sum.

    Args:
        direction: on weights, as `HackDirection.fit` makes it on the bare model.
        model: with SVD adapters or LoRA on (some of) those weights.
        adapter_name: which adapter.

    Raises:
        ValueError: no weight of the direction has such an adapter.
        NotImplementedError: a LoRA variant whose `ΔW` is not `c B A`, such as DoRA.

    Example:
        >>> from peft import get_peft_model
        >>> from svdproj.adapters import SVDScaleConfig
        >>> model = get_peft_model(base, SVDScaleConfig(rank=8))
        >>> pulled = pull_back(direction, model)
        >>> adamw = torch.optim.AdamW(model.parameters())
        >>> optimizer = ProjectedOptimizer(adamw, pulled, model, gate="two_sided")
    """
    subspaces: dict[str, Subspace] = {}
    adapters = 0
    for name, layer in model.named_modules():
        on_weight = direction.subspaces.get(canonical_name(f"{name}.weight"))
        if on_weight is None:
            continue
        for parameter, rows in _pulled_rows(layer, on_weight, adapter_name, name).items():
            adapters += 1
            found, singular_values = principal_rows(rows.flatten(1), len(rows))
            if len(found):
                # All rows point hack-ward, so their sum says which side of a combination is; a majority vote, as among
                # pairs, would count rounding noise where pulled-back rows are orthogonal.
                signs = torch.where((rows.flatten(1) @ found.mT).sum(0) < 0, -1.0, 1.0)
                subspace = Subspace(DenseChart(tuple(rows.shape[1:])), found * signs[:, None], singular_values)
                subspaces[canonical_name(f"{name}.{parameter}")] = subspace.to("cpu")
    if not adapters:
        raise ValueError(
            f"no weight of the direction has an SVD adapter or LoRA named {adapter_name!r}; it covers "
            f"{next(iter(direction.subspaces), 'nothing')}, …: fit it on the bare model, and put the adapter on those layers"
        )
    return HackDirection(subspaces, direction.metadata.without_figures(chart="dense", basis=""))


def _pulled_rows(
    layer: nn.Module, on_weight: Subspace, adapter_name: str, name: str
) -> Mapping[str, Float[Tensor, "k *shape"]]:
    """Each of the layer's adapter parameters with the weight's rows pulled back to it, scaled by their singular values."""
    if isinstance(layer, SVDScaleLayer) and adapter_name in layer.svdscale_s:
        return {f"svdscale_s.{adapter_name}.weight": _on_scales(layer, on_weight, adapter_name)}
    lora: Any = layer if isinstance(layer, _lora_layer()) else None
    if lora is not None and adapter_name in lora.lora_A:
        if adapter_name in lora.lora_variant:
            raise NotImplementedError(
                f"{name} has the LoRA variant {type(lora.lora_variant[adapter_name]).__name__}, whose ΔW is not B A; use plain "
                "LoRA, or fit the direction on the adapter's own parameters"
            )
        down, up = _on_lora(lora, on_weight, adapter_name)
        return {f"lora_A.{adapter_name}.weight": down, f"lora_B.{adapter_name}.weight": up}
    return {}


def _on_scales(layer: SVDScaleLayer, on_weight: Subspace, adapter_name: str) -> Float[Tensor, "k r"]:
    u, vh = (t.detach().float() for t in layer.vectors(adapter_name))
    rows = _weighted_rows(on_weight, u.device, layer.transposed)
    return ((u.mT @ rows) * vh).sum(-1)


def _on_lora(
    layer: Any, on_weight: Subspace, adapter_name: str
) -> tuple[Float[Tensor, "k r in"], Float[Tensor, "k out r"]]:
    a, b = layer.lora_A[adapter_name].weight.detach().float(), layer.lora_B[adapter_name].weight.detach().float()
    rows = layer.scaling[adapter_name] * _weighted_rows(on_weight, a.device, layer.fan_in_fan_out)
    return b.mT @ rows, rows @ a.mT


def _weighted_rows(on_weight: Subspace, device: torch.device, transposed: bool) -> Float[Tensor, "k out in"]:
    on_weight = on_weight.to(device, torch.float32)
    rows = torch.stack([on_weight.chart.decode(row) for row in on_weight.rows])
    if transposed:
        rows = rearrange(rows, "k i o -> k o i")
    return rows * on_weight.singular_values[:, None, None]


def _lora_layer() -> type:
    from peft.tuners.lora.layer import LoraLayer

    return LoraLayer

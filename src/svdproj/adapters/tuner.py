"""The PEFT tuner that puts `SVDScaleConfig`'s layers into a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from peft.config import PeftConfig
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer, _maybe_include_all_linear_layers
from torch import nn

from svdproj.adapters.layer import SVDScaleLayer
from svdproj.adapters.linear import Linear
from svdproj.progress import progress_bar


class SVDScaleModel(BaseTuner):
    """PEFT makes and calls it; see `SVDScaleConfig`."""

    prefix: str = "svdscale_"
    tuner_layer_cls = SVDScaleLayer
    target_module_mapping: ClassVar[dict[str, list[str]]] = {}

    _on_layer: Callable[[int], None] | None = None

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """PEFT's own, with a bar: the first decomposition of a large model takes minutes."""
        config = self.peft_config[adapter_name]
        config = self._prepare_adapter_config(config, self.get_model_config(model))
        config = _maybe_include_all_linear_layers(config, model)
        total = sum(bool(self._check_target_module_exists(config, name)) for name, _ in model.named_modules())
        with progress_bar(total, True, "singular vectors", unit="layer") as self._on_layer:
            super().inject_adapter(model, adapter_name, *args, **kwargs)
        self._on_layer = None  # it holds the bar, which cannot be copied
        model._ddp_params_and_buffers_to_ignore = _outside_ddp(model)  # type: ignore[assignment]

    @property
    def _ddp_params_and_buffers_to_ignore(self) -> list[str]:
        """What DistributedDataParallel must leave alone; it asks the module that it wraps, here or one level up.

        No gradient reaches a quarantine, which the reducer would wait for; its steps are made from reduced gradients and so
        the same everywhere. The singular vectors are constants, which DDP would broadcast before every forward.
        """
        names = _outside_ddp(self.model)
        return [f"{prefix}{name}" for name in names for prefix in ("model.", "base_model.model.")]

    def _create_and_replace(
        self,
        peft_config: PeftConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        **optional_kwargs: Any,
    ) -> None:
        if isinstance(target, SVDScaleLayer):
            target.update_layer(adapter_name, peft_config, name=current_key)
        else:
            if isinstance(target, BaseTunerLayer):
                raise TypeError(f"{current_key} already has an adapter of another method ({type(target).__name__})")
            layer = Linear(target, adapter_name, peft_config, current_key)
            if adapter_name not in self.active_adapters:
                layer.requires_grad_(False)
            self._replace_module(parent, target_name, layer, target)
        if self._on_layer is not None:
            self._on_layer(1)


def _outside_ddp(model: nn.Module) -> list[str]:
    names = [name for name, _ in model.named_parameters()] + [name for name, _ in model.named_buffers()]
    kinds = {"svdscale_quarantine", "svdscale_u", "svdscale_vh"}
    return [name for name in names if kinds & set(name.split("."))]

"""The quarantine of an SVD adapter: find it, switch it off, empty it, seed it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import isfinite

import torch
from torch import Tensor, nn

from svdproj.adapters.layer import SVDScaleLayer
from svdproj.direction import HackDirection
from svdproj.names import canonical_name


def quarantine_of(model: nn.Module) -> dict[str, nn.Parameter]:
    """Canonical name of each `s` to the quarantine beside it: what `ProjectedOptimizer(quarantine=...)` takes.

    The idea is that of gradient routing (Cloud et al., 2024, arXiv:2410.04332), without labels on the data.

    Args:
        model: a model with an adapter made by `SVDScaleConfig(quarantine=True)`.

    Raises:
        ValueError: the model has no quarantine.

    Example:
        >>> from peft import get_peft_model
        >>> from svdproj.adapters import SVDScaleConfig, pull_back
        >>> model = get_peft_model(base, SVDScaleConfig(rank=8, quarantine=True))
        >>> on_scales = pull_back(direction, model)
        >>> optimizer = ProjectedOptimizer(
        ...     torch.optim.AdamW(model.parameters()), on_scales, model, mode="route", quarantine=quarantine_of(model)
        ... )
    """
    found = {}
    for name, module in _layers(model):
        for adapter, scales in module.svdscale_quarantine.items():
            found[canonical_name(f"{name}.svdscale_s.{adapter}.weight")] = scales.weight
    if not found:
        raise ValueError("the model has no quarantine; build its adapter with SVDScaleConfig(quarantine=True)")
    return found


@contextmanager
def ablated(model: nn.Module) -> Iterator[None]:
    """Inside, the model computes as if every quarantine were zero: for evaluation, extraction, and merging without it.

    Models without quarantine are left as they are. `merge_and_unload()` inside leaves the quarantine out of the weights.

    Raises:
        RuntimeError: a quarantine is merged into the weights.

    Example:
        >>> from peft import get_peft_model
        >>> from svdproj.adapters import SVDScaleConfig
        >>> model = get_peft_model(base, SVDScaleConfig(rank=8, quarantine=True))
        >>> with ablated(model):
        ...     deployed = model.merge_and_unload()
    """
    layers = [layer for _, layer in _layers(model) if len(layer.svdscale_quarantine)]
    for layer in layers:
        if any(layer._merged_quarantine.values()):
            raise RuntimeError("a quarantine is merged into the weights; call unmerge_adapter() before ablating it")
    before = [layer.svdscale_ablated for layer in layers]
    try:
        for layer in layers:
            layer.svdscale_ablated = True
        yield
    finally:
        for layer, was in zip(layers, before, strict=True):
            layer.svdscale_ablated = was


def drop_quarantine(model: nn.Module) -> None:
    """Set every quarantine to zero for good; what is saved after it holds none of what was routed.

    Raises:
        ValueError: the model has no quarantine.

    Example:
        >>> from peft import get_peft_model
        >>> from svdproj.adapters import SVDScaleConfig
        >>> model = get_peft_model(base, SVDScaleConfig(rank=8, quarantine=True))
        >>> drop_quarantine(model)
        >>> any(bool(scales.any()) for scales in quarantine_of(model).values())
        False
    """
    with torch.no_grad():
        for parameter in quarantine_of(model).values():
            parameter.zero_()


def seed_quarantine(model: nn.Module, direction: HackDirection, scale: float) -> None:
    """Start the quarantine from the direction: an expert for the unwanted behaviour, to be deleted after training.

    Whether later unwanted behaviour then gathers there, because what the seed already does need not be learnt again, is a
    question for an experiment; `ablated` shows the model without it.

    Args:
        model: with a quarantine.
        direction: fitted on the adapter's `s`; its rows point hack-ward as gradients do.
        scale: length of the seed over all parameters together, in units of singular values. The seed points where a step
            that makes the hack completions likelier would go, each row weighted by its singular value.

    Raises:
        ValueError: no quarantine, a direction that covers none of its parameters, or a scale that is not finite.

    Example:
        >>> from peft import get_peft_model
        >>> from svdproj.adapters import SVDScaleConfig, pull_back
        >>> model = get_peft_model(base, SVDScaleConfig(rank=8, quarantine=True))
        >>> seed_quarantine(model, pull_back(direction, model), scale=3.0)
        >>> norm = torch.cat([scales.detach().flatten() for scales in quarantine_of(model).values()]).norm()
        >>> round(float(norm), 3)
        3.0
    """
    if not isfinite(scale):
        raise ValueError(f"scale must be a finite length in units of singular values, got {scale}")
    quarantine = quarantine_of(model)
    covered = {name: subspace for name, subspace in direction.subspaces.items() if name in quarantine}
    if not covered:
        raise ValueError(
            "the direction covers none of the adapter's parameters; fit it on the model with the adapter, or pull it back "
            f"by pull_back(direction, model). It covers {next(iter(direction.subspaces), 'nothing')}, the adapter has "
            f"{next(iter(quarantine))}"
        )
    # Descending raises the hack completions' probability, so the displacement is against the rows.
    seeds: dict[str, Tensor] = {name: -s.decode(s.singular_values.float()) for name, s in covered.items()}
    length = torch.stack([seed.norm() for seed in seeds.values()]).norm()
    with torch.no_grad():
        for name, seed in seeds.items():
            quarantine[name].copy_((seed * (scale / length)).to(quarantine[name]))


def _layers(model: nn.Module) -> list[tuple[str, SVDScaleLayer]]:
    return [(name, module) for name, module in model.named_modules() if isinstance(module, SVDScaleLayer)]

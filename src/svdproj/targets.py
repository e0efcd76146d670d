"""Which parameters gradients are wanted of, and the linear layers that hold them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn
from torch.distributed.tensor import DTensor

from svdproj.charts import Chart
from svdproj.names import QUARANTINE, canonical_name


@dataclass(frozen=True, eq=False)
class Target:
    """A parameter whose gradients are wanted.

    Args:
        name: canonical name.
        parameter: the parameter itself.
        modules: the linear layers that use it as their weight; empty for any other parameter.
        transposed: the weight is stored `in out`, as in transformers' `Conv1D`.
        chart: the parameter is not the layer's weight; its gradient is that of the weight in this chart.
    """

    name: str
    parameter: nn.Parameter
    modules: tuple[nn.Module, ...] = ()
    transposed: bool = False
    chart: Chart | None = None


def select_targets(model: nn.Module, targets: str | Sequence[str]) -> list[Target]:
    """The parameters that `targets` means.

    Args:
        model: the model.
        targets: `"all-linear"`, every linear weight but the output head (on a PEFT model: the trainable parameters);
            `"trainable"`; a shell pattern for canonical names, such as `"*.mlp.*.weight"`; or several of these.

    Raises:
        ValueError: nothing is selected, be it by one of several.
        NotImplementedError: `"all-linear"` on a mixture of experts.
    """
    parameters = {canonical_name(name): parameter for name, parameter in model.named_parameters()}
    selected: set[str] = set()
    for wanted in [targets] if isinstance(targets, str) else list(targets) or [""]:
        if not (names := _names(model, parameters, wanted)):
            example = next(iter(parameters), "none at all")
            raise ValueError(
                f"targets {wanted!r} select no parameter; use 'all-linear', 'trainable' or shell patterns for names such "
                f"as {example!r}"
            )
        selected.update(names)
    return named_targets(model, [name for name in parameters if name in selected])


def _names(model: nn.Module, parameters: Mapping[str, nn.Parameter], wanted: str) -> list[str]:
    """Names of the parameters that one keyword or pattern means."""
    if wanted == "all-linear" and hasattr(model, "peft_config"):
        wanted = "trainable"
    if wanted == "all-linear":
        _refuse_experts(parameters)
        linear = _linear_weights(model)
        excluded = _output_head(model) | {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
        return [name for name, p in parameters.items() if id(p) in linear and id(p) not in excluded]
    if wanted == "trainable":
        # No gradient reaches a quarantine.
        return [name for name, p in parameters.items() if p.requires_grad and QUARANTINE not in name.split(".")]
    return [name for name in parameters if fnmatchcase(name, wanted)]


def _refuse_experts(parameters: Mapping[str, nn.Parameter]) -> None:
    """The experts of a mixture are one tensor with a dimension for the expert, or layers that see tokens regrouped."""
    for name, parameter in parameters.items():
        if "expert" in name and (parameter.ndim == 3 or ".experts." in name):
            raise NotImplementedError(
                f"the model is a mixture of experts: {name} of shape {tuple(parameter.shape)} has no gradient for each "
                "sample that svdproj could take in one pass, and all-linear without it would leave out most of the "
                'weights. Name what a direction shall cover by patterns, such as targets=["*.self_attn.*_proj.weight"]'
            )


def refuse_sharded(targets: Iterable[Target]) -> None:
    """Refuse parameters of which this process may hold a part: a sample's gradient would be a part as well.

    Raises:
        NotImplementedError: a DTensor among them.
    """
    for target in targets:
        if isinstance(target.parameter, DTensor):
            raise NotImplementedError(
                f"{target.name} is a DTensor with the placements {target.parameter.placements}, and gradients of single samples are "
                "taken from whole weights alone; extract or measure before fully_shard, in one process, and hand the file on "
                "(HackDirection.load), or do it on a whole copy of the model"
            )


def named_targets(model: nn.Module, names: Iterable[str]) -> list[Target]:
    """The parameters with these canonical names; names that the model lacks are passed over."""
    linear = _linear_weights(model)
    charted = _charted(model)
    used_elsewhere = _used_elsewhere(model)
    parameters = {canonical_name(name): p for name, p in model.named_parameters(remove_duplicate=False)}
    selected = []
    for name in names:
        if name not in parameters:
            continue
        if id(parameters[name]) in charted:
            layer, chart = charted[id(parameters[name])]
            selected.append(Target(name, parameters[name], (layer,), chart=chart))
            continue
        # A weight that some other layer uses too (a tied embedding) has gradients that the linear layers do not see.
        modules = () if id(parameters[name]) in used_elsewhere else tuple(linear.get(id(parameters[name]), ()))
        transposed = bool(modules) and not isinstance(modules[0], nn.Linear)
        selected.append(Target(name, parameters[name], modules, transposed))
    return selected


def _linear_weights(model: nn.Module) -> dict[int, list[nn.Module]]:
    """Linear layers by the identity of their weight."""
    found: dict[int, list[nn.Module]] = defaultdict(list)
    for module in model.modules():
        if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D":
            weight = module.weight
            # Packed integers of a quantized layer have no gradient.
            if isinstance(weight, nn.Parameter) and weight.is_floating_point():
                found[id(weight)].append(module)
    return found


def _charted(model: nn.Module) -> dict[int, tuple[nn.Module, Chart]]:
    """Parameters whose gradient is their layer's weight gradient in a chart, by identity: what layers with a method
    `gradient_charts` (the SVD adapter's) say of theirs.
    """
    found: dict[int, tuple[nn.Module, Chart]] = {}
    for module in model.modules():
        if callable(charts := getattr(module, "gradient_charts", None)):
            found |= {id(parameter): (module, chart) for parameter, chart in charts().items()}
    return found


def _used_elsewhere(model: nn.Module) -> set[int]:
    """Weights that some layer other than a linear one holds as well."""
    return {
        id(parameter)
        for module in model.modules()
        if not (isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D")
        for parameter in module.parameters(recurse=False)
    }


def _output_head(model: nn.Module) -> set[int]:
    """The output head's weight, by identity."""
    get = getattr(model, "get_output_embeddings", None)
    head = get() if callable(get) else None
    if head is None:
        head = getattr(model, "lm_head", None)
    weight = getattr(head, "weight", None)
    return set() if weight is None else {id(weight)}

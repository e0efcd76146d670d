"""Parallel layouts and parameter types that cannot be projected, refused by name."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Shard
from torch.optim import Optimizer

_INSTEAD = "use FSDP2 (torch.distributed.fsdp.fully_shard), which keeps each parameter's shape, or DDP"


def refuse_flat_layouts(optimizer: Optimizer, params: nn.Module | Iterable[tuple[str, Tensor]]) -> None:
    """Refuse FSDP1 and ZeRO, in which the optimizer's parameters no longer have the shapes that a direction is made for.

    Raises:
        NotImplementedError: FSDP1, DeepSpeed's ZeRO, or torch's `ZeroRedundancyOptimizer`.
    """
    kind = type(optimizer)
    if _is_a(optimizer, "ZeroRedundancyOptimizer") or kind.__module__.partition(".")[0] == "deepspeed":
        raise NotImplementedError(
            f"{kind.__name__} partitions its parameters over processes (ZeRO), and no process steps all of a direction's; "
            f"{_INSTEAD}"
        )
    if isinstance(params, nn.Module) and any(_is_a(m, "FullyShardedDataParallel") for m in params.modules()):
        raise NotImplementedError(
            f"the model is wrapped in FullyShardedDataParallel (FSDP1), whose flat parameters hide the shapes; {_INSTEAD}"
        )
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            check_not_flat("a parameter of the optimizer", parameter)


def check_not_flat(name: str, parameter: Tensor) -> None:
    """Refuse one flat (FSDP1) or partitioned (ZeRO stage 3) parameter.

    Raises:
        NotImplementedError: it is one.
    """
    # FSDP1 marks its FlatParameter, and with use_orig_params=True the views that stand for the original parameters.
    if any(hasattr(parameter, mark) for mark in ("_is_flat_param", "_fsdp_flattened", "ds_id")):
        raise NotImplementedError(
            f"{name} is a flat or partitioned parameter (FSDP1 or ZeRO), whose shape svdproj cannot see; {_INSTEAD}"
        )


def check_supported(name: str, parameter: Tensor) -> None:
    """Refuse a parameter that cannot be projected.

    Raises:
        NotImplementedError: a flat parameter, a DTensor placement other than shards and replicas, or shards over several
            mesh dimensions.
        TypeError: a complex or integer parameter.
    """
    check_not_flat(name, parameter)
    if not parameter.is_floating_point():
        raise TypeError(f"{name} has dtype {parameter.dtype}; svdproj projects real floating-point parameters")
    if isinstance(parameter, DTensor):
        for placement in parameter.placements:
            if type(placement) is not Shard and not placement.is_replicate():
                raise NotImplementedError(
                    f"{name} has the placement {placement}; svdproj projects evenly or unevenly sharded (`Shard`) "
                    f"and replicated DTensors; {_INSTEAD}"
                )
        if len(dims := sharded_dims(parameter)) > 1:
            raise NotImplementedError(
                f"{name} is sharded over {len(dims)} mesh dimensions ({parameter.placements}); svdproj projects "
                "parameters that are sharded over one: use fully_shard over one (flattened) mesh dimension"
            )


def sharded_dims(parameter: DTensor) -> list[int]:
    """The mesh dimensions over which it is really divided; one of size one divides nothing."""
    mesh = parameter.device_mesh
    return [
        dim for dim, placement in enumerate(parameter.placements) if isinstance(placement, Shard) and mesh.size(dim) > 1
    ]


def check_gradient_placed(name: str, parameter: Tensor) -> None:
    """Refuse a gradient that lies otherwise than its parameter: this process's part of it is no part of the gradient.

    Raises:
        NotImplementedError: it does.
    """
    grad = parameter.grad
    if isinstance(parameter, DTensor) and isinstance(grad, DTensor) and grad.placements != parameter.placements:
        raise NotImplementedError(
            f"the gradient of {name} has the placements {grad.placements}, the parameter {parameter.placements}, as "
            "sequence parallelism leaves it; use space='update', which projects what the optimizer makes of it, or reduce "
            "it before the step: p.grad = p.grad.redistribute(placements=p.placements)"
        )


def _is_a(thing: object, class_name: str) -> bool:
    # By name: importing FSDP1 and the distributed optimizers would double the time of `import svdproj`.
    return any(base.__name__ == class_name for base in type(thing).__mro__)

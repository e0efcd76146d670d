"""Which parameters a direction covers right now, stacked by shape so that one batched product serves each kind."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from svdproj.coverage import matched_parameters
from svdproj.layouts import check_gradient_placed, check_supported, sharded_dims
from svdproj.stacked import Products, products_of
from svdproj.subspace import Subspace, stack_subspaces

# Parameters of one shape are worked on together up to this size; it bounds the temporary memory of a step. A CPU wants what its
# allocator reuses and its caches hold; an accelerator wants few launches.
STACK_BYTES = {"cpu": 16 * 2**20, "accelerator": 128 * 2**20}
_SKETCH_SEED = 11


@dataclass(frozen=True, eq=False)
class Stack:
    """Parameters of one shape, dtype and placement, with their subspaces as one stacked subspace.

    Args:
        names: canonical names, one per parameter.
        parameters: the parameters as the optimizer holds them.
        subspace: float32, on the parameters' device; for sharded parameters the part that belongs to this shard.
        maximize: whether the optimizer ascends, so that the gradient's sign is turned.
        null: energy share that a random subspace of as many rows catches on the hack-ward side, in the whole space.
        chart_null: the same, in the chart.
        group: processes that hold the other shards; none when each process holds whole parameters.
        offset: where this process's part of each parameter begins.
        products: encoding and decoding in the subspace, as a step does it.
        signs: where there are other shards, ±1 for each coordinate, the same in all processes.
    """

    names: tuple[str, ...]
    parameters: tuple[Tensor, ...]
    subspace: Subspace
    maximize: bool
    null: Float[Tensor, "stack"]
    chart_null: Float[Tensor, "stack"]
    group: ProcessGroup | None
    offset: tuple[int, ...]
    products: Products
    signs: Float[Tensor, "m"] | None

    @property
    def locals(self) -> list[Tensor]:
        """The parameters' data in this process, to be read and written without a graph (`torch.no_grad`)."""
        # Not detached: hundreds of them at every reading would keep the host busy for longer than the device.
        if not isinstance(self.parameters[0], DTensor):
            return list(self.parameters)
        return [local(parameter) for parameter in self.parameters]

    def standing_for(self, masters: Mapping[str, Tensor]) -> Stack:
        """The same stack with a master in the place of each parameter that has one."""
        return replace(
            self, parameters=tuple(masters.get(n, p) for n, p in zip(self.names, self.parameters, strict=True))
        )

    @property
    def grads(self) -> list[Tensor | None]:
        """The gradients' data in this process.

        Raises:
            NotImplementedError: a gradient is placed otherwise than its parameter, such as a sum still to be reduced.
        """
        for name, parameter in zip(self.names, self.parameters, strict=True):
            check_gradient_placed(name, parameter)
        return [None if parameter.grad is None else local(parameter.grad) for parameter in self.parameters]


def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor: the shard of a DTensor, the tensor itself otherwise."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def covered_parameters(
    named_parameters: Iterable[tuple[str, Tensor]],
    param_groups: Sequence[Mapping[str, Any]],
    subspaces: Mapping[str, Subspace],
) -> dict[str, tuple[Tensor, bool]]:
    """Canonical name to parameter and whether its group maximizes, for what the optimizer trains and the direction
    covers.

    A tensor that appears under several names is covered once, under the first name that the direction knows.

    Raises:
        ValueError: two parameters have one canonical name.
    """
    maximizes = {id(p): bool(group.get("maximize", False)) for group in param_groups for p in group["params"]}
    matched = matched_parameters(named_parameters, subspaces)
    return {name: (p, maximizes[id(p)]) for name, p in matched.items() if id(p) in maximizes}


def make_stacks(covered: Mapping[str, tuple[Tensor, bool]], subspaces: Mapping[str, Subspace]) -> list[Stack]:
    """Group covered parameters into stacks; the grouping depends on global shapes alone, so all processes find the same."""
    alike: dict[tuple[Any, ...], list[str]] = defaultdict(list)
    for name, (parameter, maximize) in covered.items():
        check_supported(name, parameter)
        subspace = subspaces[name]
        bases = tuple((key, tuple(t.shape)) for key, t in subspace.chart.tensors.items())
        placement = (parameter.device_mesh, tuple(parameter.placements)) if isinstance(parameter, DTensor) else None
        alike[
            tuple(parameter.shape), parameter.dtype, parameter.device, maximize, subspace.chart.kind, bases, placement
        ].append(name)
    stacks = []
    for names in alike.values():
        first = covered[names[0]][0]
        limit = STACK_BYTES["cpu" if first.device.type == "cpu" else "accelerator"]
        count = max(1, limit // (4 * max(1, prod(first.shape))))
        stacks += [_stack(names[i : i + count], covered, subspaces) for i in range(0, len(names), count)]
    return stacks


def _stack(
    names: Sequence[str], covered: Mapping[str, tuple[Tensor, bool]], subspaces: Mapping[str, Subspace]
) -> Stack:
    parameters = tuple(covered[name][0] for name in names)
    first, maximize = covered[names[0]]
    device = local(first).device
    group = _shard_group(first)
    subspace = stack_subspaces([_shard(subspaces[name].to(device, torch.float32), first) for name in names])
    rows = torch.tensor([subspaces[name].k for name in names], dtype=torch.float32, device=device)
    signs = None
    if group is not None:
        generator = torch.Generator().manual_seed(_SKETCH_SEED)
        signs = torch.randint(0, 2, (subspace.chart.size,), generator=generator).mul(2.0).sub(1.0).to(device)
    return Stack(
        names=tuple(names),
        parameters=parameters,
        subspace=subspace,
        maximize=maximize,
        null=rows / (2 * max(1, first.numel())),
        chart_null=rows / (2 * subspace.chart.size),
        group=group,
        offset=_offset(first),
        products=products_of(subspace),
        signs=signs,
    )


def _shard(subspace: Subspace, parameter: Tensor) -> Subspace:
    if not isinstance(parameter, DTensor):
        return subspace
    shape, offset = compute_local_shape_and_global_offset(parameter.shape, parameter.device_mesh, parameter.placements)
    for dim, (start, length, whole) in enumerate(zip(offset, shape, parameter.shape, strict=True)):
        if length != whole:
            # An empty shard's offset may lie past the end; its slice is empty wherever it starts.
            subspace = subspace.narrow(dim, min(start, whole - length), length)
    return subspace


def _offset(parameter: Tensor) -> tuple[int, ...]:
    if not isinstance(parameter, DTensor):
        return (0,) * parameter.ndim
    return tuple(compute_local_shape_and_global_offset(parameter.shape, parameter.device_mesh, parameter.placements)[1])


def _shard_group(parameter: Tensor) -> ProcessGroup | None:
    """The processes over which a sharded parameter's partial sums add up."""
    if not isinstance(parameter, DTensor):
        return None
    dims = sharded_dims(parameter)
    return parameter.device_mesh.get_group(dims[0]) if dims else None

"""Layouts that cannot be projected are refused by name; the distributed tests do it with the real FSDP1 and torch's ZeRO."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard
from torch.testing._internal.distributed.fake_pg import FakeStore

from svdproj import ProjectedOptimizer, attach
from svdproj.projector import INERT_STEPS
from tests.conformance.helpers import Weights, backward, direction_for, train

# DeepSpeed's classes for ZeRO stages 1 and 2, and 3; it is not needed to know them.
STAGES = {
    "1 and 2": type(
        "DeepSpeedZeroOptimizer", (torch.optim.SGD,), {"__module__": "deepspeed.runtime.zero.stage_1_and_2"}
    ),
    "3": type("DeepSpeedZeroOptimizer_Stage3", (torch.optim.SGD,), {"__module__": "deepspeed.runtime.zero.stage3"}),
}


@pytest.mark.parametrize("make", [ProjectedOptimizer, attach])
@pytest.mark.parametrize("stage", STAGES)
def test_deepspeeds_optimizers_are_refused_with_what_to_use(stage: str, make: type[ProjectedOptimizer]) -> None:
    model = Weights()
    optimizer = STAGES[stage](model.parameters(), lr=0.1)
    with pytest.raises(NotImplementedError, match=r"DeepSpeedZero.* \(ZeRO\).*use FSDP2 .*fully_shard.* or DDP"):
        make(optimizer, direction_for(model), model)


@pytest.mark.parametrize("mark", ["ds_id", "_is_flat_param", "_fsdp_flattened"])
def test_flat_and_partitioned_parameters_are_refused_with_what_to_use(mark: str) -> None:
    """DeepSpeed's stage 3 marks the model's own parameters, and FSDP1 its flat ones; the optimizer is an ordinary one."""
    model = Weights()
    setattr(model.second, mark, 7)
    with pytest.raises(NotImplementedError, match=r"flat or partitioned parameter \(FSDP1 or ZeRO\).*use FSDP2"):
        ProjectedOptimizer(torch.optim.SGD(model.parameters(), lr=0.1), direction_for(model), model)


def test_shards_over_two_mesh_dimensions_are_refused_by_name() -> None:
    """FSDP2 with tensor parallelism, at construction; on four processes, of which this one plays the first."""
    dist.init_process_group("fake", rank=0, world_size=4, store=FakeStore())
    try:
        mesh = init_device_mesh("cpu", (2, 2))
        model = nn.Module()
        model.weight = nn.Parameter(DTensor.from_local(torch.randn(2, 2), mesh, [Shard(0), Shard(1)], run_check=False))
        whole = nn.Linear(4, 4, bias=False)
        with pytest.raises(NotImplementedError, match="weight is sharded over 2 mesh dimensions"):
            ProjectedOptimizer(torch.optim.SGD(model.parameters(), lr=0.1), direction_for(whole), model)
    finally:
        dist.destroy_process_group()


def test_a_flat_partition_put_in_the_parameters_place_later_is_noticed() -> None:
    """As ZeRO does with an optimizer that it is given: the model keeps its parameters, the optimizer gets one flat tensor."""
    model = Weights()
    wrapped = ProjectedOptimizer(torch.optim.SGD(model.parameters(), lr=0.1), direction_for(model), model)
    train(model, wrapped, range(1))
    flat = nn.Parameter(torch.cat([p.detach().flatten() for p in model.parameters()]))
    flat.grad = torch.ones_like(flat)
    wrapped.param_groups[0]["params"] = [flat]
    for step in range(INERT_STEPS - 1):
        backward(model, step)
        wrapped.step()
    with pytest.raises(RuntimeError, match="nothing is protected"):
        wrapped.step()

"""What both ranks do at once, each compared with a single process that sees the whole batch."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, SequenceParallel, parallelize_module
from torch.utils._python_dispatch import TorchDispatchMode

from svdproj import HackDirection, ProjectedOptimizer
from tests.conformance.helpers import assert_update_guarantee, direction_for, offence


class Net(nn.Module):
    """Even shards, uneven ones (7 rows over 2 ranks), and one that is empty on the second rank (1 row)."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up, self.mid, self.down = nn.Linear(6, 8), nn.Linear(8, 7), nn.Linear(7, 1)
        self.to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(torch.tanh(self.mid(torch.tanh(self.up(x))))).square().mean()  # type: ignore[no-any-return]


def _optimizer(model: nn.Module, kind: str = "AdamW") -> torch.optim.Optimizer:
    # A large eps: near zero AdamW turns the last bit of a reduction into a whole step.
    options: dict[str, Any] = {"eps": 1e-2} if kind == "AdamW" else {"momentum": 0.9}
    return getattr(torch.optim, kind)(model.parameters(), lr=0.02, weight_decay=0.1, **options)  # type: ignore[no-any-return]


def _batch(step: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(8, 6, generator=torch.Generator().manual_seed(50 + step)).to(dtype)


def _mine(x: Tensor) -> Tensor:
    return x.chunk(dist.get_world_size())[dist.get_rank()]


def _backward(model: nn.Module, optimizer: torch.optim.Optimizer, step: int, whole: bool = False) -> None:
    optimizer.zero_grad()
    x = _batch(step, next(model.parameters()).dtype)
    model(x if whole else _mine(x)).backward()


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, step: int, whole: bool = False) -> None:
    _backward(model, optimizer, step, whole)
    optimizer.step()


def _full(model: nn.Module) -> dict[str, Tensor]:
    """Names and whole weights."""
    return {
        name.removeprefix("module."): (p.full_tensor() if isinstance(p, DTensor) else p).detach().clone()
        for name, p in model.named_parameters()
    }


def _whole(model: nn.Module) -> nn.Module:
    """A module with the whole weights under the same names."""
    whole = nn.Module()
    for name, weight in _full(model).items():
        *path, last = name.split(".")
        place = whole
        for part in path:
            if part not in dict(place.named_children()):
                place.add_module(part, nn.Module())
            place = place.get_submodule(part)
        place.register_parameter(last, nn.Parameter(weight))
    return whole


def _assert_ranks_agree(weights: dict[str, Tensor]) -> None:
    for name, weight in weights.items():
        both = [torch.empty_like(weight) for _ in range(dist.get_world_size())]
        dist.all_gather(both, weight)
        assert torch.equal(both[0], both[1]), name


class _Traffic(TorchDispatchMode):
    """The collective operations that a step asks for, of every kind, with the number of elements that each takes.

    The bare optimizers have none: gradients are reduced in the backward pass.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[tuple[str, int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if DTensor in types:
            return NotImplemented  # to see what it asks for in turn
        if func.namespace in ("c10d", "_c10d_functional", "c10d_functional"):
            tensors = [t for arg in args for t in (arg if isinstance(arg, list) else [arg]) if isinstance(t, Tensor)]
            self.sizes.append((func.name(), sum(t.numel() for t in tensors)))
        return func(*args, **(kwargs or {}))


def _traffic(optimizer: ProjectedOptimizer) -> list[int]:
    """Sizes of the all-reduces of one step and of asking for its metrics, which are to be all of its communication."""
    with _Traffic() as traffic:
        optimizer.step()
        optimizer.metrics()
    assert {name for name, _ in traffic.sizes} <= {"c10d::allreduce_"}, traffic.sizes
    return [size for _, size in traffic.sizes]


def _compare(
    model: nn.Module, optimizer: ProjectedOptimizer, all_reduces: int, lagging: bool, options: dict[str, Any], kind: str
) -> None:
    """Train `model` beside a single process and compare weights, guarantee, metrics and communication at every step."""
    reference = Net()
    direction = optimizer.direction
    single = ProjectedOptimizer(_optimizer(reference, kind), direction, reference, **options)
    last: dict[str, float] = {}
    for step in range(4):
        before = _full(model)
        _backward(model, optimizer, step)
        assert len(sizes := _traffic(optimizer)) == all_reduces, sizes
        _step(reference, single, step, whole=True)
        torch.testing.assert_close(_full(model), dict(reference.named_parameters()), rtol=1e-4, atol=1e-6)
        shown, expected = optimizer.metrics(), single.metrics()
        for name in ("cos_in", "removed", "null_cos", "projected"):
            assert shown[f"svdproj/{name}"] == pytest.approx(expected[f"svdproj/{name}"], rel=1e-3), name
        if lagging and last:  # a measurement on shards rides on the next step's reduction
            assert shown["svdproj/cos_out"] == pytest.approx(last["svdproj/cos_out"], rel=1e-3, abs=1e-5)
        last = expected
        assert shown["svdproj/residual"] < 1e-4
        if optimizer.options.space == "update":
            assert_update_guarantee(_whole(model), before, direction, optimizer.options.gate, moved=False)
    assert optimizer.metrics()["svdproj/removed"] > 0.01, "nothing was removed: the test would pass for nothing"


def ddp(kind: str, **options: Any) -> None:
    model = Net()
    direction = direction_for(model, k=2, chart_rank=3)
    parallel = nn.parallel.DistributedDataParallel(model)
    optimizer = ProjectedOptimizer(_optimizer(parallel, kind), direction, parallel, **options)
    _compare(parallel, optimizer, all_reduces=0, lagging=False, options=options, kind=kind)
    _assert_ranks_agree(_full(parallel))


def ddp_low_precision(write_back: str) -> None:
    """Rounding noise is the same on every replica, or they would drift apart."""
    model = Net(torch.bfloat16)
    parallel = nn.parallel.DistributedDataParallel(model)
    direction = direction_for(model, k=2, chart_rank=3)
    optimizer = ProjectedOptimizer(_optimizer(parallel), direction, parallel, write_back=write_back)
    for step in range(5):
        torch.manual_seed(dist.get_rank())  # global random state may differ
        _step(parallel, optimizer, step)
    _assert_ranks_agree({name: weight.float() for name, weight in _full(parallel).items()})


def _shard(model: Net, mesh: Any = None) -> Net:
    for layer in (model.up, model.mid, model.down):
        fully_shard(layer, **({"mesh": mesh} if mesh is not None else {}))
    fully_shard(model, **({"mesh": mesh} if mesh is not None else {}))
    return model


def fsdp2(kind: str, **options: Any) -> None:
    model = Net()
    direction = direction_for(model, k=2, chart_rank=3)
    _shard(model)
    optimizer = ProjectedOptimizer(_optimizer(model, kind), direction, model, **options)
    _compare(model, optimizer, all_reduces=1, lagging=True, options=options, kind=kind)


def empty_shards_may_begin_past_the_end() -> None:
    """As older torch says of the ranks that get nothing, from four ranks on."""

    def past_the_end(*args: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
        shape, offset = compute_local_shape_and_global_offset(*args)
        return shape, tuple(start if length else start + 3 for length, start in zip(shape, offset, strict=True))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("svdproj.plan.compute_local_shape_and_global_offset", past_the_end)
        fsdp2("SGD")


def fsdp2_traffic() -> None:
    """One all-reduce of Σ(k + 2) floats, and as many again for the residual that rides along."""
    model = Net()
    direction = direction_for(model, k=2, chart_rank=3)
    _shard(model)
    optimizer = ProjectedOptimizer(_optimizer(model), direction, model)
    rows = max(subspace.k for subspace in direction.subspaces.values())
    once = len(direction) * (rows + 2)
    for step, expected in enumerate((once, 2 * once, 2 * once)):
        _backward(model, optimizer, step)
        (size,) = _traffic(optimizer)
        assert size <= expected


def hsdp(shape: list[int]) -> None:
    """Replicas of shards: only the mesh dimension that shards is reduced."""
    model = Net()
    direction = direction_for(model, k=2, chart_rank=3)
    mesh = init_device_mesh("cpu", tuple(shape), mesh_dim_names=("replicate", "shard"))
    _shard(model, mesh)
    optimizer = ProjectedOptimizer(_optimizer(model, "SGD"), direction, model)
    sharded = shape[1] > 1
    _compare(model, optimizer, all_reduces=int(sharded), lagging=sharded, options={}, kind="SGD")


def replaced_parameters(how: str) -> None:
    """The optimizer first, `fully_shard` after it, the optimizer's groups then switched to the new parameters."""
    model = Net()
    direction = direction_for(model, k=2, chart_rank=3)
    optimizer = ProjectedOptimizer(_optimizer(model, "SGD"), direction, model)
    names = {p: name for name, p in model.named_parameters()}
    order = [names[p] for p in optimizer.param_groups[0]["params"]]
    if how == "accelerate":
        from accelerate.utils.fsdp_utils import fsdp2_switch_optimizer_parameters

        # As Accelerator.prepare does it: by the address of the data, which placeholders carry until then.
        addresses = {name: p.data_ptr() for name, p in model.named_parameters()}
        for group in optimizer.param_groups:
            for index, p in enumerate(group["params"]):
                group["params"][index] = torch.empty(1)
                group["params"][index].data_ptr = p.data_ptr()
        _shard(model)
        mapping = {addresses[name]: p for name, p in model.named_parameters()}
        fsdp2_switch_optimizer_parameters(optimizer, mapping)
    else:
        _shard(model)
        new = dict(model.named_parameters())
        optimizer.param_groups[0]["params"] = [new[name] for name in order]
    _compare(model, optimizer, all_reduces=1, lagging=True, options={}, kind="SGD")


def left_behind_parameters() -> None:
    """Nobody switched them: the bare optimizer would train nothing, and the wrapper says so."""
    model = Net()
    optimizer = ProjectedOptimizer(_optimizer(model), direction_for(model, k=2, chart_rank=3), model)
    _shard(model)

    def train() -> None:
        for step in range(60):
            model(_mine(_batch(step))).backward()
            optimizer.step()

    with pytest.raises(RuntimeError, match="rebuilt after"):
        train()


def tensor_parallel() -> None:
    """Columns of one layer, rows of the next, replicas of the rest; the reduction runs over the shards alone."""
    model = Net()
    direction = direction_for(model, k=2, chart_rank=3)
    mesh = init_device_mesh("cpu", (2,))
    parallelize_module(model, mesh, {"up": ColwiseParallel(), "mid": RowwiseParallel()})
    replicated = [model.mid.bias, *model.down.parameters()]
    # Two-sided, so that something is removed from the replicas too, and twice as much if they were reduced.
    optimizer = ProjectedOptimizer(_optimizer(model, "SGD"), direction, model, gate="two_sided")
    reference = Net()
    single = ProjectedOptimizer(_optimizer(reference, "SGD"), direction, reference, gate="two_sided")
    for step in range(3):
        _backward(model, optimizer, step, whole=True)
        assert len(sizes := _traffic(optimizer)) == 1, sizes
        _step(reference, single, step, whole=True)
        torch.testing.assert_close(_full(model), dict(reference.named_parameters()), rtol=1e-4, atol=1e-6)
    assert {type(p) for p in replicated} <= {DTensor, nn.Parameter}


class _Normed(nn.Module):
    """A layer norm between two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up, self.norm, self.down = nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.norm(torch.tanh(self.up(x)))).square().mean()  # type: ignore[no-any-return]


def sequence_parallel(space: str) -> None:
    """The norm sees each rank's part of the sequence, so its gradient is a sum that nobody has made yet."""
    model, reference = _Normed(), _Normed()
    direction = direction_for(model, k=2, chart_rank=3)
    mesh = init_device_mesh("cpu", (2,))
    plan = {
        "up": ColwiseParallel(output_layouts=Shard(1)),
        "norm": SequenceParallel(),
        "down": ColwiseParallel(input_layouts=Shard(1), output_layouts=Replicate()),
    }
    parallelize_module(model, mesh, plan)
    optimizer = ProjectedOptimizer(_optimizer(model, "SGD"), direction, model, space=space, gate="two_sided")
    single = ProjectedOptimizer(_optimizer(reference, "SGD"), direction, reference, space=space, gate="two_sided")
    for step in range(3):
        x = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(step))
        for m, o in ((model, optimizer), (reference, single)):
            o.zero_grad()
            m(x).backward()
        assert model.norm.weight.grad.placements != model.norm.weight.placements  # type: ignore[union-attr, attr-defined]
        if space == "gradient":
            before = _full(model)
            with pytest.raises(NotImplementedError, match=r"gradient of norm\.weight .*Partial.*use space='update'"):
                optimizer.step()
            assert all(torch.equal(weight, before[name]) for name, weight in _full(model).items())
            for p in model.parameters():
                p.grad = p.grad.redistribute(placements=p.placements)  # type: ignore[union-attr, attr-defined]
        optimizer.step()
        single.step()
        torch.testing.assert_close(_full(model), dict(reference.named_parameters()), rtol=1e-4, atol=1e-6)
        for name in ("cos_in", "removed", "null_cos", "projected"):
            shown, expected = (o.metrics()[f"svdproj/{name}"] for o in (optimizer, single))
            assert shown == pytest.approx(expected, rel=1e-3), name


def _shards_and_replica() -> nn.Module:
    """Two bfloat16 weights of one shape, one in uneven shards and one whole on each rank."""
    mesh = init_device_mesh("cpu", (2,))
    generator = torch.Generator().manual_seed(0)
    module = nn.Module()
    for name, placement in (("shards", Shard(0)), ("replica", Replicate())):
        whole = torch.randn(7, 5, generator=generator).bfloat16()
        module.register_parameter(name, nn.Parameter(distribute_tensor(whole, mesh, [placement])))
    return module


def _random_step(module: nn.Module, optimizer: ProjectedOptimizer, step: int) -> None:
    generator = torch.Generator().manual_seed(100 + step)
    for p in module.parameters():
        grad = torch.randn(7, 5, generator=generator).bfloat16()
        p.grad = distribute_tensor(grad, p.device_mesh, p.placements)  # type: ignore[attr-defined]
    optimizer.step()


def replicas_beside_uneven_shards() -> None:
    """Uneven shards draw different amounts of rounding noise; replicated weights must not notice."""
    module = _shards_and_replica()
    direction = direction_for(_whole(module), k=2, chart_rank=3)
    optimizer = ProjectedOptimizer(torch.optim.SGD(module.parameters(), lr=0.1), direction, module, gate="two_sided")
    for step in range(3):
        _random_step(module, optimizer, step)
    replica = module.get_parameter("replica")
    assert isinstance(replica, DTensor)
    _assert_ranks_agree({"replica": replica.to_local().detach().float()})


def two_sharded_dimensions_are_refused() -> None:
    mesh = init_device_mesh("cpu", (2, 1))
    module = nn.Module()
    weight = distribute_tensor(torch.randn(4, 4), mesh, [Shard(0), Shard(1)])
    module.weight = nn.Parameter(weight)
    optimizer = ProjectedOptimizer(torch.optim.SGD(module.parameters(), lr=0.1), direction_for(_whole(module)), module)
    optimizer.projector.stacks()  # a dimension of size one shards nothing
    from torch.distributed.tensor.placement_types import _StridedShard

    from svdproj.layouts import check_supported

    strided = DTensor.from_local(
        torch.randn(2, 4), mesh, [_StridedShard(0, split_factor=2), Replicate()], run_check=False
    )
    with pytest.raises(NotImplementedError, match="placement"):
        check_supported("weight", strided)


def _trainer(step: int) -> dict[str, Any]:
    """What a trainer hands its callbacks, made without the process group that its arguments would set up."""
    from transformers import TrainerControl, TrainerState, TrainingArguments

    args = object.__new__(TrainingArguments)
    return {"args": args, "state": TrainerState(global_step=step), "control": TrainerControl()}


def replicas_take_the_first_ranks_refresh() -> None:
    """Each rank fits a direction of its own; under another one each, the replicas would drift apart."""
    from svdproj.integrations.transformers import ProjectionCallback

    parallel = nn.parallel.DistributedDataParallel(Net())
    found = [direction_for(Net(), k=2, chart_rank=3, seed=5 + rank) for rank in range(dist.get_world_size())]
    assert found[0].fingerprint != found[1].fingerprint
    optimizer = ProjectedOptimizer(_optimizer(parallel), direction_for(Net(), seed=1), parallel, gate="two_sided")
    callback = ProjectionCallback(refresh_every=2, refit=lambda *_: found[dist.get_rank()])
    callback.on_step_end(**_trainer(2), model=parallel.module, processing_class=None, optimizer=optimizer)
    taken: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(taken, optimizer.direction.fingerprint)  # so that no rank waits for one that has failed
    assert taken == [found[0].fingerprint] * dist.get_world_size()
    for step in range(2):
        _step(parallel, optimizer, step)
    _assert_ranks_agree(_full(parallel))


def a_refresh_of_shards_is_refused() -> None:
    """By name and at the start: it used to die in the middle of a run, after a forward and a backward."""
    from svdproj.integrations.transformers import ProjectionCallback
    from tests.tiny import tiny_llama, tiny_pairs, tiny_tokenizer

    model, tokenizer, pairs = tiny_llama(), tiny_tokenizer(), tiny_pairs()
    refresh, own = ProjectionCallback(2, pairs=pairs), ProjectionCallback(2, refit=lambda *_: HackDirection.empty())
    arguments = {**_trainer(0), "model": model}
    refresh.on_train_begin(**arguments)
    direction = HackDirection.fit(model, tokenizer, pairs, k=2, progress=False)
    for layer in model.model.layers:
        fully_shard(layer)
    fully_shard(model)
    named = r"model.layers.0.self_attn.[kq]_proj.weight is a DTensor .*Shard\(dim=0\).* before fully_shard"
    with pytest.raises(NotImplementedError, match=r"refresh_every=2 .* model.\S+, which is sharded .* refit="):
        refresh.on_train_begin(**arguments)
    own.on_train_begin(**arguments)
    ProjectionCallback().on_train_begin(**arguments)
    model.register_forward_pre_hook(lambda *_: pytest.fail("it went as far as a forward pass"))
    with pytest.raises(NotImplementedError, match=named):
        HackDirection.fit(model, tokenizer, pairs, k=2, progress=False)
    with pytest.raises(NotImplementedError, match=named):
        direction.validate(model, tokenizer, tiny_pairs(start=50), progress=False)
    with pytest.raises(NotImplementedError, match=named):
        direction.score(model, tokenizer, [(pairs[0].prompt, pairs[0].hack)])


def flat_layouts_are_refused() -> None:
    """FSDP1, with and without the original parameters, and ZeRO: each with what to use instead."""
    import warnings

    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.distributed.optim import ZeroRedundancyOptimizer

    direction = direction_for(Net(), k=2, chart_rank=3)
    for use_orig_params in (False, True):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch: FSDP1 is deprecated, and there is no accelerator here
            wrapped = FullyShardedDataParallel(
                Net(), use_orig_params=use_orig_params, device_id=torch.device("cpu"), process_group=dist.group.WORLD
            )
        optimizer = _optimizer(wrapped)
        for params in (wrapped, list(Net().named_parameters())):
            with pytest.raises(NotImplementedError, match=r"FSDP1.*use FSDP2 \(torch.distributed.fsdp.fully_shard\)"):
                ProjectedOptimizer(optimizer, direction, params)
    model = Net()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        zero = ZeroRedundancyOptimizer(model.parameters(), torch.optim.AdamW, lr=0.1)
    with pytest.raises(NotImplementedError, match=r"ZeRO.*use FSDP2"):
        ProjectedOptimizer(zero, direction, model)
    ProjectedOptimizer(_optimizer(wrapped), HackDirection.empty(), wrapped)  # without a direction nothing is projected


def low_precision_shards(write_back: str) -> None:
    model = _shard(Net(torch.bfloat16))
    optimizer = ProjectedOptimizer(
        _optimizer(model), direction_for(Net(), k=2, chart_rank=3), model, write_back=write_back
    )
    for step in range(4):
        _step(model, optimizer, step)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    residual = optimizer.metrics()["svdproj/residual"]
    assert 0 < residual < (1e-4 if write_back == "exact" else 0.2)


def _momenta(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Names and whole first moments, of SGD's kin or Adam's."""
    states = {name: optimizer.state[p] for name, p in model.named_parameters()}
    found = {name: state.get("momentum_buffer", state.get("exp_avg")) for name, state in states.items()}
    return {name: (m.full_tensor() if isinstance(m, DTensor) else m).clone() for name, m in found.items()}


def a_new_direction_purges_sharded_momentum(kind: str, space: str) -> None:
    model, reference = Net(), Net()
    old, new = (direction_for(model, k=2, chart_rank=3, seed=seed) for seed in (1, 2))
    _shard(model)
    optimizers = [
        ProjectedOptimizer(_optimizer(m, kind), old, m, gate="two_sided", space=space) for m in (model, reference)
    ]
    for step in range(4):
        _step(model, optimizers[0], step)
        _step(reference, optimizers[1], step, whole=True)
        residual = optimizers[0].metrics()["svdproj/residual"]
        # Measured in the step before: none before the first one, and none under a direction that is gone.
        assert residual == 0 if step in (0, 2) else 0 < residual < 1e-4, step
        if step == 1:
            before = _momenta(model, optimizers[0])
            for optimizer in optimizers:
                optimizer.set_direction(new)
            # Not by comparison alone: the reference is purged by the same lines.
            for name, moment in _momenta(model, optimizers[0]).items():
                size = float(before[name].norm())
                if moment.numel() > 1:  # the direction before took all of a gradient with one element
                    assert offence(new, name, before[name], "two_sided") > 0.01 * size, name
                assert offence(new, name, moment, "two_sided") <= 1e-6 * size, name
    torch.testing.assert_close(_full(model), dict(reference.named_parameters()), rtol=1e-4, atol=1e-6)


def sharded_checkpoint(folder: str, write_back: str) -> None:
    """Saved by `torch.distributed.checkpoint` and resumed: bit-identical to the unbroken run."""

    def make() -> tuple[Net, ProjectedOptimizer]:
        model = Net(torch.bfloat16)
        direction = direction_for(Net(), k=2, chart_rank=3)
        _shard(model)
        return model, ProjectedOptimizer(_optimizer(model), direction, model, write_back=write_back)

    def items(model: Net, optimizer: ProjectedOptimizer) -> dict[str, Any]:
        state = get_optimizer_state_dict(model, optimizer)
        return {"model": model.state_dict(), "optimizer": state, "svdproj": optimizer.projector}

    unbroken = make()
    for step in range(2):
        _step(*unbroken, step)
    dcp.save(items(*unbroken), checkpoint_id=Path(folder))
    resumed = make()
    loaded = items(*resumed)
    dcp.load(loaded, checkpoint_id=Path(folder))
    resumed[0].load_state_dict(loaded["model"])
    set_optimizer_state_dict(*resumed, loaded["optimizer"])
    for step in range(2, 4):
        _step(*unbroken, step)
        _step(*resumed, step)
        assert unbroken[1].optimizer.state_dict()["param_groups"] == resumed[1].optimizer.state_dict()["param_groups"]
    for name, weight in _full(unbroken[0]).items():
        assert torch.equal(weight, _full(resumed[0])[name]), name


def state_dicts_hold_shards() -> None:
    model = Net()
    direction = direction_for(model, k=2, chart_rank=3)
    _shard(model)
    optimizer = ProjectedOptimizer(_optimizer(model), direction, model)
    _step(model, optimizer, 0)
    state = copy.deepcopy(optimizer.state_dict())
    moments = [value["exp_avg"] for value in state["state"].values()]
    assert all(isinstance(moment, DTensor) for moment in moments)
    optimizer.load_state_dict(state)
    _step(model, optimizer, 1)


def copies_of_shards_take_the_same_next_step() -> None:
    """A copy holds no process group, which cannot be copied. (`fully_shard` refuses copies of its modules.)"""
    module = _shards_and_replica()
    direction = direction_for(_whole(module), k=2, chart_rank=3)
    inner = torch.optim.AdamW(module.parameters(), lr=0.02)
    pair = module, ProjectedOptimizer(inner, direction, module)
    _random_step(*pair, 0)
    others = [copy.deepcopy(pair), pickle.loads(pickle.dumps(pair))]
    _random_step(*pair, 1)
    for other in others:
        _random_step(*other, 1)
        for name, p in other[0].named_parameters():
            assert torch.equal(p.full_tensor(), module.get_parameter(name).full_tensor()), name  # type: ignore[attr-defined]
        assert other[1].metrics()["svdproj/cos_in"] == pair[1].metrics()["svdproj/cos_in"] > 0


def routed_adapter(space: str) -> None:
    """An SVD adapter with a quarantine, sharded layer by layer, trains and routes as it does in one process."""
    from svdproj.adapters import quarantine_of
    from tests.adapters.helpers import adapted
    from tests.adapters.test_quarantine import direction_on

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SVDPROJ_CACHE", "")
        alone, sharded = adapted(quarantine=True), adapted(quarantine=True)
    direction = direction_on(alone)
    for layer in sharded.base_model.model.model.layers:
        fully_shard(layer)
    fully_shard(sharded)
    tokens = torch.arange(3, 51).reshape(4, 12)
    for model, share in ((alone, tokens), (sharded, _mine(tokens))):
        inner = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01, eps=1e-2)
        optimizer = ProjectedOptimizer(
            inner, direction, model, mode="route", space=space, gate="two_sided", quarantine=quarantine_of(model)
        )
        for _ in range(3):
            optimizer.zero_grad()
            model(share, labels=share).loss.backward()
            optimizer.step()
    for name, expected in _full(alone).items():
        torch.testing.assert_close(_full(sharded)[name], expected, rtol=1e-4, atol=1e-6, msg=name)
    assert all(parameter.any() for parameter in quarantine_of(alone).values())

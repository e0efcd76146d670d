"""The wrapper on several devices: the same weights as one process, one small all-reduce, and what a step costs.

Run it as `python -m benchmarks.parallel [--device cuda] [--world 2] [--out FILE]`: NCCL on GPUs, gloo on a CPU. The model has
SmolLM2-135M's shapes and random weights; the direction is bilinear 64 with k = 24 on every linear weight but the head. A single
process that sees the whole batch is the reference. AdamW alone differs from its own single process too, since reductions add up in
another order: that figure stands beside the wrapper's.
"""

from __future__ import annotations

import argparse
import copy
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

from benchmarks.parts.policies import facts
from benchmarks.parts.records import table, write_record
from benchmarks.parts.shapes import random_direction, smollm2_shaped
from benchmarks.parts.traffic import timed
from svdproj import HackDirection, ProjectedOptimizer
from svdproj.names import canonical_name

CHART_RANK, K = 64, 24
LAYOUTS = ("single", "ddp", "fsdp2")
WAYS = ("AdamW, fused", "wrapper, update space")


@dataclass(frozen=True)
class Options:
    """What every process is told."""

    device: str
    world: int
    layers: int
    batch: int
    length: int
    steps: int
    repeats: int


def run_rank(rank: int, options: Options, store: str, answer: str) -> None:
    """One process: all layouts, both ways; the first process writes what was found."""
    cuda = options.device == "cuda"
    if cuda:
        torch.cuda.set_device(rank)
    else:
        torch.set_num_threads(1)
    backend = "nccl" if cuda else "gloo"
    device = torch.device("cuda", rank) if cuda else torch.device("cpu")
    dist.init_process_group(
        backend, init_method=f"file://{store}", rank=rank, world_size=options.world, device_id=device if cuda else None
    )
    fresh = smollm2_shaped(options.layers)
    direction = random_direction(fresh, CHART_RANK, K)
    ends: dict[str, dict[str, Tensor]] = {}
    found: dict[str, dict[str, Any]] = {}
    for layout in LAYOUTS:
        for way in WAYS:
            name = f"{layout}: {way}"
            if rank == 0:
                print(name, file=sys.stderr, flush=True)
            found[name], ends[name] = train(
                options, layout, way, copy.deepcopy(fresh), direction, str(device), ends.get(f"single: {way}")
            )
    if rank == 0:
        torch.save(found, answer)
    dist.barrier()
    dist.destroy_process_group()


def train(
    options: Options,
    layout: str,
    way: str,
    model: nn.Module,
    direction: HackDirection,
    device: str,
    reference: Mapping[str, Tensor] | None,
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A few float32 steps whose weights are compared, then timed ones under autocast.

    Returns:
        What was measured, and the whole weights after the compared steps.
    """
    model = placed(model.to(device), layout)
    start = whole(model)
    bare = torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=0.01, fused=True)
    optimizer = ProjectedOptimizer(bare, direction, model) if way.startswith("wrapper") else bare
    with counted() as sizes:
        for step in range(options.steps):
            one_step(model, optimizer, batch_of(options, layout, device, step))
    end = whole(model)
    found: dict[str, Any] = {"all_reduces": len(sizes) / options.steps, "floats": max(sizes, default=0)}
    if reference is not None:
        found["difference"] = distance(end, reference) / distance(reference, start)
    if isinstance(optimizer, ProjectedOptimizer):
        one_step(model, optimizer, batch_of(options, layout, device, 0))  # a shard's residual rides on the next step
        found["metrics"] = optimizer.metrics()
    batch = batch_of(options, layout, device, options.steps)
    seconds = []
    for _ in range(options.repeats + 2):
        dist.barrier()
        own = timed(lambda: one_step(model, optimizer, batch, autocast=device != "cpu"), device)
        slowest = torch.tensor(own, device=device)
        dist.all_reduce(slowest, dist.ReduceOp.MAX)
        seconds.append(slowest.item())
    found["seconds"] = seconds[2:]
    return found, end


def placed(model: nn.Module, layout: str) -> nn.Module:
    """The model as its layout wants it."""
    if layout == "ddp":
        return DistributedDataParallel(model)
    if layout == "fsdp2":
        layers: Any = model.get_submodule("model.layers")
        for layer in layers:
            fully_shard(layer)
        fully_shard(model)
    return model


def batch_of(options: Options, layout: str, device: str, step: int) -> Tensor:
    """The process's share of a step's tokens; all of them for a single process."""
    generator = torch.Generator().manual_seed(step)
    tokens = torch.randint(49152, (options.batch, options.length), generator=generator).to(device)
    return tokens if layout == "single" else tokens.chunk(dist.get_world_size())[dist.get_rank()]


def one_step(model: nn.Module, optimizer: torch.optim.Optimizer, tokens: Tensor, autocast: bool = False) -> None:
    """Forward, backward and step."""
    optimizer.zero_grad()
    with torch.autocast("cuda", dtype=torch.bfloat16, enabled=autocast):
        loss = model(input_ids=tokens, labels=tokens).loss
    loss.backward()
    optimizer.step()


@torch.no_grad()
def whole(model: nn.Module) -> dict[str, Tensor]:
    """Unsharded weights by canonical name."""
    return {
        canonical_name(name): (p.full_tensor() if isinstance(p, DTensor) else p).detach().clone()
        for name, p in model.named_parameters()
    }


def distance(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> float:
    """Norm of the difference of all weights together, in float64."""
    return sum(float((left[name].double() - right[name].double()).square().sum()) for name in left) ** 0.5


@contextmanager
def counted() -> Iterator[list[int]]:
    """Sizes of the all-reduces that svdproj asks for."""
    sizes: list[int] = []
    original = dist.all_reduce

    def counting(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        if sys._getframe(1).f_globals["__name__"].startswith("svdproj"):
            sizes.append(tensor.numel())
        return original(tensor, *args, **kwargs)

    with mock.patch.object(dist, "all_reduce", counting):
        yield sizes


def summary(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The table."""
    rows = []
    for name, found in results.items():
        layout = name.partition(":")[0]
        seconds = median(found["seconds"])
        ratio = seconds / median(results[f"{layout}: {WAYS[0]}"]["seconds"])
        difference = f"{found['difference']:.1e}" if "difference" in found else ""
        residual = f"{found['metrics']['svdproj/residual']:.1e}" if "metrics" in found else ""
        reductions = f"{found['all_reduces']:g}" + (f" of {found['floats']} floats" if found["floats"] else "")
        rows.append([name, difference, residual, reductions, f"{1e3 * seconds:.1f}", f"{ratio:.3f}"])
    heads = ["", "from one process", "residual", "all-reduces a step", "step, ms", "ratio"]
    return table(heads, rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, and write the figures where asked."""
    parser = argparse.ArgumentParser(description="The wrapper under DDP and FSDP2.")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--world", type=int, default=2, help="processes, one to a GPU")
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--batch", type=int, help="sequences to a step, over all processes (32 on GPUs, 4 on a CPU)")
    parser.add_argument("--length", type=int, help="tokens to a sequence (256 on GPUs, 32 on a CPU)")
    parser.add_argument("--steps", type=int, default=5, help="steps whose weights are compared")
    parser.add_argument("--repeats", type=int, help="timed steps (20 on GPUs, 3 on a CPU)")
    parser.add_argument("--out", type=Path, help="where to write the figures as JSON")
    given = parser.parse_args(arguments)
    cuda = given.device == "cuda"
    if cuda and torch.cuda.device_count() < given.world:
        raise SystemExit(
            f"{given.world} processes need as many GPUs, there are {torch.cuda.device_count()}; set --world"
        )
    options = Options(
        device=given.device,
        world=given.world,
        layers=given.layers,
        batch=given.batch or (32 if cuda else 4),
        length=given.length or (256 if cuda else 32),
        steps=given.steps,
        repeats=given.repeats or (20 if cuda else 3),
    )
    if options.batch % options.world:
        raise SystemExit(f"--batch must be a multiple of the {options.world} processes, got {options.batch}")
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    with tempfile.TemporaryDirectory() as folder:
        answer = f"{folder}/found.pt"
        spawn(run_rank, args=(options, f"{folder}/store", answer), nprocs=options.world)  # type: ignore[no-untyped-call]
        results = torch.load(answer, weights_only=True)
    print(summary(results))
    config = {**vars(options), "chart_rank": CHART_RANK, "k": K, "backend": "nccl" if cuda else "gloo"}
    write_record(given.out, {**facts(options.device), "config": config, "results": results})


if __name__ == "__main__":
    main()

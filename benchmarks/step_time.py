"""What a projected step costs: the whole training step and the bare step, against AdamW alone and against its peers.

Run it as `python -m benchmarks.step_time [--device cuda] [--out FILE]`. The model has SmolLM2-135M's shapes and random weights,
which time does not depend on; the direction is bilinear 64 with k = 24 on every linear weight but the head. All ways of
stepping take turns on one model, so that a machine that slows down slows all of them; figures are medians. The roofline is
the larger of bytes moved over copy bandwidth and matrix products over the machine's float32 rate, both measured here.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
from torch import Tensor, nn

import svdproj.plan
from benchmarks.parts.peers import bases_of, gradient_hooks, loop_around_step, loop_over_gradients
from benchmarks.parts.policies import facts
from benchmarks.parts.records import table, write_record
from benchmarks.parts.shapes import covered, random_direction, smollm2_shaped, with_lora
from benchmarks.parts.traffic import copy_bandwidth, matmul_rate, peak_memory, synchronize, timed, traffic
from svdproj import HackDirection, ProjectedOptimizer

CHART_RANK, K, LORA_RANK = 64, 24, 16
TARGETS = {"full": 1.05, "lora": 1.01}
"""Whole training step with the wrapper in update space over the bare one."""
BARE, WRAPPED = "AdamW, fused", "wrapper, update space"


@dataclass
class Work:
    """What one training step computes on."""

    model: nn.Module
    device: str
    batch: int
    length: int
    micro: int
    tokens: Tensor = field(init=False)

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(1)
        self.tokens = torch.randint(49152, (self.batch, self.length), generator=generator).to(self.device)

    def backward(self) -> None:
        """Forward and backward over all micro-batches; bfloat16 autocast on a GPU."""
        for part in self.tokens.chunk(self.micro):
            with torch.autocast("cuda", dtype=torch.bfloat16, enabled=self.device.startswith("cuda")):
                loss = self.model(input_ids=part, labels=part).loss / self.micro
            loss.backward()


@dataclass(frozen=True)
class Way:
    """One way of stepping: what happens in place of `optimizer.step()`, and hooks that the backward pass needs."""

    name: str
    step: Callable[[], Any]
    hooks: Callable[[], list[Any]] = list

    @contextmanager
    def hooked(self) -> Iterator[None]:
        handles = self.hooks()
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def ways(model: nn.Module, direction: HackDirection, device: str) -> list[Way]:
    """The bare optimizer, the wrapper in both spaces, and what people write today; each has an AdamW of its own."""
    parameters = covered(model)
    bases = bases_of(direction, device)

    def adamw() -> torch.optim.AdamW:
        trained = [p for p in model.parameters() if p.requires_grad]
        return torch.optim.AdamW(trained, lr=1e-6, fused=True)

    update = ProjectedOptimizer(adamw(), direction, model)
    gradient = ProjectedOptimizer(adamw(), direction, model, space="gradient")
    looped, around, hooked = adamw(), adamw(), adamw()

    def step_after_loop() -> None:
        loop_over_gradients(parameters, bases)
        looped.step()

    return [
        Way(BARE, adamw().step),
        Way(WRAPPED, update.step),
        Way("wrapper, gradient space", gradient.step),
        Way("loop over p.grad", step_after_loop),
        Way("loop around step()", lambda: loop_around_step(parameters, bases, around)),
        Way("gradient hooks", hooked.step, lambda: gradient_hooks(parameters, bases)),
    ]


def whole_steps(work: Work, chosen: Sequence[Way], repeats: int, inner: int) -> dict[str, dict[str, Any]]:
    """Seconds of a whole training step for each way, taking turns, and the peak memory of one."""
    parameters = [p for p in work.model.parameters() if p.requires_grad]

    def train(way: Way) -> None:
        work.model.zero_grad(set_to_none=True)
        work.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        way.step()

    found: dict[str, dict[str, Any]] = {way.name: {"seconds": []} for way in chosen}
    for repeat in range(-1, repeats):  # the first round warms up, and its memory is measured
        for way in chosen:
            with way.hooked():
                if repeat < 0:
                    train(way)
                    found[way.name]["peak_bytes"] = peak_memory(partial(train, way), work.device)
                else:
                    found[way.name]["seconds"].append(timed(partial(train, way), work.device, inner))
    return found


def bare_steps(work: Work, chosen: Sequence[Way], repeats: int, inner: int) -> dict[str, dict[str, Any]]:
    """The same for the step alone, on gradients that lie there."""
    work.model.zero_grad(set_to_none=True)
    work.backward()
    chosen = [way for way in chosen if way.hooks is list]
    found: dict[str, dict[str, Any]] = {way.name: {"seconds": []} for way in chosen}
    for way in chosen:
        way.step()
        found[way.name]["peak_bytes"] = peak_memory(way.step, work.device)
        found[way.name] |= traffic(way.step)
    for _ in range(repeats):
        for way in chosen:
            found[way.name]["seconds"].append(timed(way.step, work.device, inner))
    return found


def host_seconds(step: Callable[[], Any], device: str) -> float:
    """How long the host is busy with issuing one step."""
    seconds = []
    for _ in range(7):
        synchronize(device)
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return median(seconds)


def stack_sizes(work: Work, direction: HackDirection, mebibytes: Sequence[int], repeats: int) -> list[dict[str, Any]]:
    """The wrapper's bare step for other sizes of a stack: small ones stay in the cache, large ones need fewer launches."""
    found = []
    for size in mebibytes:
        svdproj.plan.STACK_BYTES.update(dict.fromkeys(svdproj.plan.STACK_BYTES, size * 2**20))
        trained = [p for p in work.model.parameters() if p.requires_grad]
        wrapped = ProjectedOptimizer(torch.optim.AdamW(trained, lr=1e-6, fused=True), direction, work.model)
        wrapped.step()
        seconds = [timed(wrapped.step, work.device) for _ in range(repeats)]
        stacks = len(wrapped.projector.stacks())
        host = host_seconds(wrapped.step, work.device)
        found.append({"mib": size, "stacks": stacks, "seconds": median(seconds), "host_seconds": host})
        del wrapped
        release()
    return found


def profile(step: Callable[[], Any], device: str, rows: int = 14) -> list[dict[str, Any]]:
    """Where one bare step's time goes, by operator."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    cuda = device.startswith("cuda")
    if cuda:
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    step()
    with torch.profiler.profile(activities=activities, acc_events=True) as profiler:
        step()
        synchronize(device)
    events = [
        {
            "name": event.key,
            "calls": event.count,
            "microseconds": event.self_device_time_total if cuda else event.self_cpu_time_total,
        }
        for event in profiler.key_averages()
    ]
    return sorted(events, key=lambda event: -event["microseconds"])[:rows]


def release() -> None:
    """Give memory back before the next measurement."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def summary(kind: str, whole: dict[str, Any], bare: dict[str, Any], speeds: dict[str, float]) -> str:
    """The table of one model."""
    base, base_step = median(whole[BARE]["seconds"]), median(bare[BARE]["seconds"])
    rows = []
    for name, found in whole.items():
        seconds = median(found["seconds"])
        cells = [name, f"{1e3 * seconds:.1f}", f"{seconds / base:.3f}", gib(found["peak_bytes"])]
        if name in bare:
            step = median(bare[name]["seconds"])
            floor = roofline(bare[name], speeds)
            cells += [f"{1e3 * step:.2f}", f"{step / base_step:.2f}", gib(bare[name]["peak_bytes"])]
            cells += [f"{1e3 * floor:.2f}", f"{floor / step:.0%}"]
        else:
            cells += ["(in the backward)", "", "", "", ""]
        rows.append(cells)
    heads = ["step", "whole, ms", "ratio", "peak GiB", "bare, ms", "ratio", "peak GiB", "roofline, ms", "reached"]
    return f"{table(heads, rows)}\n\n{verdict(kind, whole, bare)}"


def verdict(kind: str, whole: dict[str, Any], bare: dict[str, Any]) -> str:
    """The ratio of whole steps, round by round, with quartiles; and what the bare steps' difference makes of the whole."""
    rounds = [w / b for w, b in zip(whole[WRAPPED]["seconds"], whole[BARE]["seconds"], strict=True)]
    low, middle, high = quantiles(rounds, n=4) if len(rounds) > 1 else rounds * 3
    added = median(bare[WRAPPED]["seconds"]) - median(bare[BARE]["seconds"])
    by_difference = 1 + added / median(whole[BARE]["seconds"])
    return (
        f"{kind}, target {TARGETS[kind]:.2f}: the median over rounds of the ratio of two whole steps of one round is {middle:.3f} "
        f"(quartiles {low:.3f} to {high:.3f}). The bare steps differ by {1e3 * added:.2f} ms, which makes {by_difference:.3f} of the "
        f"whole step. The table's ratio is another one, of two medians."
    )


def roofline(found: dict[str, Any], speeds: dict[str, float]) -> float:
    """Seconds that the step would take at the machine's measured speeds."""
    return max(found["bytes"] / speeds["copy_bytes_per_second"], found["flops"] / speeds["matmul_flops_per_second"])


def gib(size: int | None) -> str:
    return "" if size is None else f"{size / 2**30:.2f}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables, and write the figures where asked."""
    parser = argparse.ArgumentParser(description="Time of a projected training step.")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--kinds", nargs="+", default=["full", "lora"], choices=list(TARGETS))
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--batch", type=int, help="sequences to a training step (32 on a GPU, 4 on a CPU)")
    parser.add_argument("--length", type=int, default=256, help="tokens to a sequence")
    parser.add_argument("--micro", type=int, default=1, help="micro-batches to a training step")
    parser.add_argument("--repeats", type=int, help="rounds (15 on a GPU, 3 on a CPU)")
    parser.add_argument("--inner", type=int, help="steps issued back to back for one figure (3 on a GPU, 1 on a CPU)")
    parser.add_argument("--stack-mib", type=int, nargs="*", default=[256, 128, 64, 16], help="stack sizes to compare")
    parser.add_argument("--out", type=Path, help="where to write the figures as JSON")
    options = parser.parse_args(arguments)
    cuda = options.device.startswith("cuda")
    batch = options.batch or (32 if cuda else 4)
    repeats = options.repeats or (15 if cuda else 3)
    inner = options.inner or (3 if cuda else 1)

    speeds = {
        "copy_bytes_per_second": copy_bandwidth(options.device),
        "matmul_flops_per_second": matmul_rate(options.device),
    }
    print(
        f"copy {speeds['copy_bytes_per_second'] / 1e9:.0f} GB/s, float32 {speeds['matmul_flops_per_second'] / 1e12:.2f} TFLOP/s"
    )
    config = {"layers": options.layers, "batch": batch, "length": options.length, "micro": options.micro}
    config |= {"repeats": repeats, "inner": inner, "chart_rank": CHART_RANK, "k": K, "lora_rank": LORA_RANK}
    config |= {"autocast": "bfloat16" if cuda else None, "stack_bytes": dict(svdproj.plan.STACK_BYTES)}
    record: dict[str, Any] = {**facts(options.device), "config": config, "speeds": speeds, "results": {}}
    default_stack = dict(svdproj.plan.STACK_BYTES)
    for kind in options.kinds:
        model = smollm2_shaped(options.layers)
        model = (with_lora(model, LORA_RANK) if kind == "lora" else model).to(options.device).train()
        direction = random_direction(model, CHART_RANK, K)
        work = Work(model, options.device, batch, options.length, options.micro)
        chosen = ways(model, direction, options.device)
        bare = bare_steps(work, chosen, 3 * repeats, 1)
        whole = whole_steps(work, chosen, repeats, inner)
        by_name = {way.name: way.step for way in chosen}
        work.backward()
        hosts = {name: host_seconds(by_name[name], options.device) for name in (BARE, WRAPPED)}
        where = profile(by_name[WRAPPED], options.device)
        del chosen, by_name
        release()
        sizes = stack_sizes(work, direction, options.stack_mib, 3 * repeats)
        svdproj.plan.STACK_BYTES.update(default_stack)
        print(
            f"\n{kind}: {len(direction)} parameters, {batch} x {options.length} tokens\n{summary(kind, whole, bare, speeds)}"
        )
        print("host, ms: " + ", ".join(f"{name} {1e3 * seconds:.2f}" for name, seconds in hosts.items()))
        print(
            "stacks: "
            + "; ".join(
                f"{s['mib']} MiB {1e3 * s['seconds']:.2f} ms (host {1e3 * s['host_seconds']:.2f})" for s in sizes
            )
        )
        record["results"][kind] = {
            "coverage": str(direction.coverage(model)), "whole": whole, "bare": bare, "host_seconds": hosts,
            "stack_sizes": sizes, "profile": where,
        }  # fmt: skip
        del model, work, direction, whole, bare
        release()
    write_record(options.out, record)


if __name__ == "__main__":
    main()

"""`HackDirection.fit` against one backward for every completion: seconds, peak memory, and whether both find the same.

Run it as `python -m benchmarks.extraction [--device cpu|cuda] [--pairs 64] [--batch-size 8] [--out FILE]`. The peer is the
same fit, with every gradient from a forward and a backward of one completion (`benchmarks/parts/loop.py`): the linear
algebra on both sides is the same, the way to the gradients is not. Equality is measured on the fast fit's charts, with a loop in
float64 beside both. Its copy of the model takes twice the float32 model's memory on top: where that does not fit, `--equal-pairs 0`, as
with `--model qwen3-4b --dtype bfloat16`.
Memory is compared with one ordinary training pass (forward, backward, gradients of the covered weights) over the
completions of one batch. The last table is a plan for a model of four billion parameters, in bytes on paper.
"""

from __future__ import annotations

import argparse
import copy
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from benchmarks.parts.extraction_table import COMPARED, tables
from benchmarks.parts.loop import visit_by_loop
from benchmarks.parts.memory import held_bytes, peak_bytes
from benchmarks.parts.page import fill
from benchmarks.parts.plan import plan, qwen3_4b
from benchmarks.parts.policies import FAMILIES, LARGE, facts, load_family, make_pairs
from benchmarks.parts.records import write_record
from svdproj import HackDirection
from svdproj.attention import without_cudnn_attention
from svdproj.batches import Sample, pair_sample, separate_rows
from svdproj.capture import visit_gradients
from svdproj.differences import Differences
from svdproj.likelihood import weighted_nll
from svdproj.targets import Target, named_targets, select_targets
from svdproj.tokens import encode_pair
from svdproj.undisturbed import undisturbed

RESULTS = Path(__file__).resolve().parent / "results"
PAGE = Path(__file__).resolve().parents[1] / "docs" / "how-it-works" / "choosing.md"
TARGETS = {"speed": {"cuda": 10.0, "cpu": 1.3}, "memory": 1.5, "equality": 1e-4}
# Stages of a fit, by the names that it looks them up by; the passes are inside two of them.
_STAGES = ("can_share_prompts", "_gradient_charts", "_coordinates", "_rows", "_report", "weights_identity")
_PASSES = "visit_gradients"
_spent: dict[str, float] = defaultdict(float)


def seconds(work: Callable[[], Any], device: str) -> tuple[float, Any]:
    """How long a piece of work takes, and its result."""
    _wait(device)
    start = time.perf_counter()
    result = work()
    _wait(device)
    return time.perf_counter() - start, result


def fit(model: nn.Module, tokenizer: Any, pairs: list[Any], options: argparse.Namespace, loop: bool) -> HackDirection:
    """The same fit, with gradients from batches or from the loop."""
    way = visit_by_loop if loop else visit_gradients
    with patch("svdproj.fit.visit_gradients", _timed(_PASSES, way, options.device)):
        return HackDirection.fit(
            model, tokenizer, pairs, targets=options.targets, batch_size=options.batch_size, progress=False
        )


@contextmanager
def stages(device: str) -> Iterator[dict[str, float]]:
    """Seconds in the stages of a fit while the block runs; each includes those inside it."""
    import svdproj.fit

    _spent.clear()
    with ExitStack() as stack:
        for name in _STAGES:
            timed = _timed(name, getattr(svdproj.fit, name), device)
            stack.enter_context(patch(f"svdproj.fit.{name}", timed))
        yield _spent


def _timed(name: str, function: Callable[..., Any], device: str) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        took, result = seconds(lambda: function(*args, **kwargs), device)
        _spent[name] += took
        return result

    return call


def exactness(
    model: nn.Module, samples: Sequence[Sample], direction: HackDirection, batch_size: int
) -> dict[str, dict[str, Any]]:
    """What the fit's passes, the same without shared prompts, and the loop find on the direction's charts: how far they are apart,
    and from a loop in float64.
    """
    known: dict[str, tuple[nn.Module, Callable[..., None]]] = {
        "fit": (model, visit_gradients),
        "separate_rows": (model, partial(visit_gradients, shared=False)),
        "loop": (model, visit_by_loop),
        "float64": (copy.deepcopy(model).double(), visit_by_loop),
    }
    found = {name: _coordinates(used, samples, direction, way, batch_size) for name, (used, way) in known.items()}
    return {ways: largest_difference(found[one], found[other]) for ways, (one, other) in COMPARED.items()}


Found = dict[tuple[str, int], tuple[Tensor, Tensor]]
"""Coordinates and squared norm of the difference of a pair, by parameter and pair."""


def _coordinates(
    model: nn.Module, samples: Sequence[Sample], direction: HackDirection, way: Callable[..., None], batch_size: int
) -> Found:
    targets = named_targets(model, direction.subspaces)
    device = targets[0].parameter.device
    charts = {name: s.to(device, torch.float32).chart for name, s in direction.subspaces.items()}
    found: Found = {}

    def visit(name: str, indices: Sequence[int], gradients: Differences) -> None:
        squares, encoded = gradients.squared_norms().cpu(), gradients.encode(charts[name]).cpu()
        for place, i in enumerate(indices):
            found[name, i] = (encoded[place], squares[place])

    way(model, targets, samples, visit, batch_size=batch_size)
    return found


def largest_difference(one: Found, other: Found) -> dict[str, Any]:
    """Of a pair's coordinates for one parameter, `‖one - other‖ / ‖other‖`, and of norms; the largest over all, and where it is."""
    encoded = {key: float((one[key][0] - c).norm() / c.norm()) for key, (c, _) in other.items()}
    norms = [abs(float(one[key][1].sqrt() / s.sqrt()) - 1) for key, (_, s) in other.items()]
    worst = max(encoded, key=lambda key: encoded[key])
    return {"coordinates": encoded[worst], "norms": max(norms), "where": worst[0]}


def training_pass(model: nn.Module, targets: Sequence[Target], samples: Sequence[Sample]) -> None:
    """One forward and one backward over the completions of a batch, with gradients of the covered weights."""
    with undisturbed(model), without_cudnn_attention():
        for target in targets:
            target.parameter.requires_grad_(True)
        batch = separate_rows(samples, targets[0].parameter.device)
        with torch.enable_grad():
            weighted_nll(model, batch).backward()
        for target in targets:
            target.parameter.grad = None


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All figures of one run."""
    device = options.device
    model, tokenizer = load_family(options.model, device, getattr(torch, options.dtype))
    if options.layers:
        options.targets = [f"model.layers.{i}.*_proj.weight" for i in range(options.layers)]
    pairs = make_pairs(options.pairs)
    encoded = [encode_pair(tokenizer, pair) for pair in pairs]
    samples = sorted((pair_sample(pair, "mean") for pair in encoded), key=lambda sample: -sample.longest)
    targets = select_targets(model, options.targets)
    print(f"{len(pairs)} pairs, {len(targets)} weights of {options.model}, {options.dtype} on {device}", flush=True)

    # The longest batch decides the peak; the first pass over it also warms up what is lazily set up.
    training_pass(model, targets, samples[: options.batch_size])
    before = held_bytes(device)
    one_pass = peak_bytes(lambda: training_pass(model, targets, samples[: options.batch_size]), device)
    fast_peak = peak_bytes(lambda: fit(model, tokenizer, pairs, options, loop=False), device)

    times: dict[str, list[float]] = {"fit": [], "loop": []}
    for _ in range(options.repeat):  # in turn, so that a busy moment of the machine meets both
        with stages(device) as spent:
            took, direction = seconds(lambda: fit(model, tokenizer, pairs, options, loop=False), device)
            fast = dict(spent)
        times["fit"].append(took)
        with stages(device) as spent:
            took, from_loop = seconds(lambda: fit(model, tokenizer, pairs, options, loop=True), device)
            looped = dict(spent)
        times["loop"].append(took)
        print(f"  fit {times['fit'][-1]:.2f} s, loop {times['loop'][-1]:.2f} s", flush=True)
    some = samples[: options.equal_pairs]
    exact = exactness(model, some, direction, options.batch_size) if some else {}
    overlaps = direction.overlap(from_loop)
    target = TARGETS["speed"][device.split(":")[0]]  # type: ignore[index]
    result: dict[str, Any] = {
        "pairs": len(pairs),
        "seconds": times,
        "speedup": min(times["loop"]) / min(times["fit"]),
        "speedup_of_passes": looped[_PASSES] / fast[_PASSES],
        "speedup_target": target,
        "stages": {"fit": fast, "loop": looped},
        "equality": {"pairs": options.equal_pairs, "largest_relative_difference": exact, "target": TARGETS["equality"]},
        "overlap_of_directions": {"mean": sum(overlaps.values()) / len(overlaps), "min": min(overlaps.values())},
        "covered_parameters": sum(t.parameter.numel() for t in targets),
        "tokens": {
            "prompt": sum(pair[0].prompt_length for pair in encoded),
            "completions": sum(side.completion_length for pair in encoded for side in pair),
        },
    }
    if one_pass is not None and fast_peak is not None:
        result["memory"] = {
            "held_before": before,
            "training_pass_peak": one_pass,
            "fit_peak": fast_peak,
            "ratio": fast_peak / one_pass,
            "ratio_beyond_the_model": (fast_peak - before) / (one_pass - before),
            "target": TARGETS["memory"],
        }
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables, and write the figures where asked."""
    parser = argparse.ArgumentParser(description="Extraction against a loop of backwards.")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--model", default="smollm2", choices=(*FAMILIES, LARGE))
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=8, help="pairs to a batch of the fit")
    parser.add_argument("--equal-pairs", type=int, default=4, help="pairs that equality is measured on; 0 for none")
    parser.add_argument("--layers", type=int, default=0, help="cover only so many of the model's first layers")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--threads", type=int, default=0, help="of torch on a CPU")
    parser.add_argument("--plan-tokens", type=int, default=1024, help="length of a row in the plan for 4B")
    parser.add_argument("--out", type=Path, help="where to write the figures as JSON")
    parser.add_argument("--table", action="store_true", help="only write the table of the results into the docs page")
    options = parser.parse_args(arguments)
    if options.table:
        fill(PAGE, "extraction", tables(sorted(RESULTS.glob("extraction-*.json"))))
        return
    options.targets = "all-linear"
    if options.threads:
        torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore", message="hack completions are")  # mechanism pairs are longer by nature

    shapes = {"pairs": 64, "batch_size": 8, "tokens": options.plan_tokens, "predicted": options.plan_tokens // 2}
    on_paper = shapes | plan(qwen3_4b(), **shapes, rank=64, k=24)
    result = measure(options) | {"plan_qwen3_4b": on_paper}
    _show(result)
    if options.out:
        config = {key: value for key, value in vars(options).items() if key not in ("out", "table")}
        write_record(options.out, {"config": config, **facts(options.device), **result})


def _show(result: dict[str, Any]) -> None:
    def line(name: str, *cells: str) -> None:
        print(f"{name:<34}" + "".join(f"{cell:>14}" for cell in cells))

    line("", "fit", "peer", "ratio", "target")
    fast, loop = (min(result["seconds"][name]) for name in ("fit", "loop"))
    line(
        "seconds, against the loop",
        f"{fast:.2f}",
        f"{loop:.2f}",
        f"{result['speedup']:.2f}",
        f">= {result['speedup_target']}",
    )
    for stage in (*_STAGES, _PASSES):
        a, b = (result["stages"][name].get(stage, 0.0) for name in ("fit", "loop"))
        line(f"  {stage}", f"{a:.2f}", f"{b:.2f}", f"{b / a:.2f}" if a else "", "")
    if memory := result.get("memory"):
        peaks = [f"{memory[name] / 2**20:.0f} MiB" for name in ("fit_peak", "training_pass_peak")]
        line("peak memory, against one pass", *peaks, f"{memory['ratio']:.2f}", f"<= {memory['target']}")
    for ways, found in result["equality"]["largest_relative_difference"].items():
        target = f"<= {TARGETS['equality']:.0e}" if ways == "fit from loop" else ""
        line(f"coordinates, {ways}", f"{found['coordinates']:.1e}", "", "", target)
        line(f"norms, {ways}", f"{found['norms']:.1e}", "", "", target)
    overlap = result["overlap_of_directions"]
    line("overlap of the two directions", f"{overlap['mean']:.6f}", "", "", f"min {overlap['min']:.4f}")
    print("plan for Qwen3-4B in bfloat16, GiB:")
    for name, value in result["plan_qwen3_4b"].items():
        if isinstance(value, int) and value > 2**20:
            print(f"  {name:<32}{value / 2**30:>10.2f}")


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()

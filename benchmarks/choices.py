"""What the defaults of `HackDirection.fit` are argued from: curves over rank, rows, pairs and noise floor.

Run it as `python -m benchmarks.choices [--families smollm2 demo qwen3] [--device cpu|cuda] [--out DIR]`. For every family
of models one JSON file is written; `--draw DIR` draws the figures of such files, and writes their tables into the docs. Every share stands beside
what random bases or random rows would catch, and bases from the pairs' gradients stand beside bases from the weights'
singular vectors. Pairs of the built-in bank, one to a prompt; the held-out ones take no part in bases, rows or orientation.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.parts.curves import (
    FLOORS,
    RANK,
    ROWS,
    K,
    Parameter,
    Point,
    Sums,
    add_parameter,
    figures,
    floor_figures,
    points,
)
from benchmarks.parts.policies import FAMILIES, facts, load_family, make_pairs
from examples.leetcode_grpo.files import write_text
from svdproj.batches import pair_sample
from svdproj.capture import visit_gradients
from svdproj.differences import Differences, FactoredDifferences
from svdproj.targets import Target, select_targets
from svdproj.tokens import context_length, encode_pair

RESULTS = Path(__file__).resolve().parent / "results"
PAGE = Path(__file__).resolve().parents[1] / "docs" / "how-it-works" / "choosing.md"
# Every N-th layer of a model is covered: neighbours are alike, and the gradients of all would not fit.
STRIDE = {"smollm2": 3}
# Bytes of gradients held at once; what does not fit takes another pass over the pairs.
_AT_ONCE = {"cuda": 30 * 2**30, "cpu": 3 * 2**30}


def measure(family: str, options: argparse.Namespace) -> dict[str, Any]:
    """All curves for one family."""
    started = time.perf_counter()
    model, tokenizer = load_family(family, options.device, steps=options.qwen3_steps)
    targets = _covered(model, options.stride or STRIDE.get(family, 1))
    pairs = make_pairs(options.pairs + options.held_out)
    limit = context_length(model) or 10**9
    encoded = [encode_pair(tokenizer, pair) for pair in pairs]
    fitting = [sides for sides in encoded if max(len(side.ids) for side in sides) <= limit]
    samples = [pair_sample(sides, "mean") for sides in fitting]
    n_fit = len(samples) - options.held_out
    print(f"{family}: {len(samples)} pairs, {len(targets)} weights on {options.device}", flush=True)

    splits = [torch.randperm(len(samples), generator=torch.Generator().manual_seed(s)) for s in range(options.splits)]
    totals = [{point: Sums() for point in points(n_fit, options.pairs)} for _ in splits]
    for group in _groups(targets, len(samples), _AT_ONCE[options.device.split(":")[0]]):
        gradients = _collect(model, group, samples, options)
        for target in group:
            parameter = Parameter.of(target.parameter.detach().float(), gradients.pop(target.name), seed=0)
            for seed, (split, sums) in enumerate(zip(splits, totals, strict=True)):
                order = split.tolist()
                add_parameter(sums, parameter, order[:n_fit], order[n_fit:], seed)
            print(f"  {target.name} after {time.perf_counter() - started:.0f} s", flush=True)
    at_default = Point("bilinear", "gradient", RANK, min(64, n_fit))
    return {
        "family": family,
        "model": {
            "type": type(model).__name__,
            "parameters": sum(p.numel() for p in model.parameters()),
            "hidden_size": model.config.hidden_size,  # type: ignore[union-attr]
            "trained_here": getattr(model.config, "training_note", None),
        },
        **facts(options.device),
        "seconds": round(time.perf_counter() - started, 1),
        "config": {
            "pairs": len(samples),
            "held_out": options.held_out,
            "splits": options.splits,
            "weights": [target.name for target in targets],
            "dropped_as_too_long": len(pairs) - len(samples),
            "k": K,
            "rank": RANK,
            "rows": ROWS,
        },
        "points": [
            {**vars(point), **_over_splits([figures(point, sums[point]) for sums in totals])} for point in totals[0]
        ],
        "noise_floor": [
            _over_splits([floors[i] for floors in (floor_figures(sums[at_default]) for sums in totals)])
            for i in range(len(FLOORS))
        ],
    }


def _covered(model: nn.Module, stride: int) -> list[Target]:
    """Linear weights of every `stride`-th layer."""
    targets = select_targets(model, "all-linear")
    return [t for t in targets if int(next(part for part in t.name.split(".") if part.isdigit())) % stride == 0]


def _groups(targets: Sequence[Target], n_pairs: int, limit: int) -> list[list[Target]]:
    groups: list[list[Target]] = [[]]
    held = 0
    for target in targets:
        size = 4 * n_pairs * target.parameter.numel()
        if groups[-1] and held + size > limit:
            groups.append([])
            held = 0
        groups[-1].append(target)
        held += size
    return groups


def _collect(
    model: nn.Module, targets: Sequence[Target], samples: Sequence[Any], options: argparse.Namespace
) -> dict[str, Tensor]:
    """All pairs' gradients, in full."""
    found = {
        target.name: torch.empty(len(samples), *target.parameter.shape, device=target.parameter.device)
        for target in targets
    }

    def visit(name: str, indices: Sequence[int], gradients: Differences) -> None:
        assert isinstance(gradients, FactoredDifferences), f"{name} is no linear weight"
        found[name][list(indices)] = gradients.explicit.tensors

    visit_gradients(model, targets, samples, visit, batch_size=options.batch_size)
    return found


def _over_splits(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean, lowest and highest of every figure."""
    found: dict[str, Any] = {}
    for name in records[0]:
        values = torch.tensor([record[name] for record in records], dtype=torch.float64)
        mean, low, high = values.mean(0), values.amin(0), values.amax(0)
        found[name] = _rounded(mean)
        if bool((low != high).any()):
            found[name + "_range"] = [_rounded(low), _rounded(high)]
    return found


def _rounded(values: Tensor) -> Any:
    """To four significant digits."""

    def one(value: float) -> float:
        return float(f"{value:.4g}")

    return [one(v) for v in values.tolist()] if values.ndim else one(float(values))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print a table for each family, write the JSON, draw."""
    parser = argparse.ArgumentParser(description="Curves for choosing rank, rows, pairs and noise floor.")
    parser.add_argument("--families", nargs="*", default=["demo"], choices=FAMILIES)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--pairs", type=int, default=96, help="fitting pairs, at most")
    parser.add_argument("--held-out", type=int, default=32)
    parser.add_argument("--splits", type=int, default=3, help="choices of the held-out pairs")
    parser.add_argument("--stride", type=int, default=0, help="cover every N-th layer; 0 chooses by the model")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--qwen3-steps", type=int, default=300)
    parser.add_argument("--out", type=Path, help="folder for the JSON files")
    parser.add_argument(
        "--draw", type=Path, help="folder for figures of the JSON files in --out, or of the committed ones"
    )
    options = parser.parse_args(arguments)
    for family in options.families:
        result = measure(family, options)
        _show(result)
        if options.out:
            write_text(options.out / f"choices-{family}.json", _compact(result) + "\n")
    if options.draw:
        from benchmarks.parts.choice_figures import draw
        from benchmarks.parts.choice_tables import tables
        from benchmarks.parts.page import fill

        folder = options.out or RESULTS
        found = stored(folder)
        if not found:
            raise SystemExit(f"no results in {folder}; measure with --families smollm2 demo qwen3 --out {folder}")
        for path in draw(found, options.draw):
            print(path)
        fill(PAGE, "choices", tables(found))


def stored(folder: Path) -> list[Path]:
    """The result files of a folder, in the order in which the page shows the families."""
    paths = [folder / f"choices-{family}.json" for family in FAMILIES]
    return [path for path in paths if path.is_file()]


def _compact(result: dict[str, Any]) -> str:
    """JSON with a line for each point, so that differences between two runs can be read."""
    lines = []
    for key, value in result.items():
        if key in ("points", "noise_floor"):
            value_text = "[\n  " + ",\n  ".join(json.dumps(item) for item in value) + "\n ]"
        else:
            value_text = json.dumps(value)
        lines.append(f" {json.dumps(key)}: {value_text}")
    return "{\n" + ",\n".join(lines) + "\n}"


def _show(result: dict[str, Any]) -> None:
    """A line for each point, with the default number of rows."""
    k = ROWS.index(K)
    heads = ("pairs", "chart", "held out", "random", "rows", "held out", "random", "sign", "random", "t")
    print(f"{'':<24}" + "".join(f"{head:>10}" for head in heads))
    for point in result["points"]:
        name = f"{point['chart']} {point['basis']} {point['rank'] or ''}"
        shares = [point[key] for key in ("in_chart", "in_chart_held_out", "in_chart_random")]
        shares += [point[key][k] for key in ("in_rows", "in_rows_held_out", "in_rows_random")]
        shares += [point[key][k] for key in ("sign_accuracy", "sign_accuracy_random")]
        cells = "".join(f"{share:>10.2%}" for share in shares)
        print(f"{name:<24}{point['n_pairs']:>10}{cells}{point['t'][k]:>10.1f}")


if __name__ == "__main__":
    main()

"""The table of extraction's speed and memory in the docs, from the JSON files of `benchmarks/extraction.py`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_GIB = 2**30
COMPARED = {
    f"{one} from {other}": (one, other)
    for one, other in (
        ("fit", "loop"),
        ("separate_rows", "loop"),
        ("fit", "float64"),
        ("separate_rows", "float64"),
        ("loop", "float64"),
    )
}
"""Ways to the gradients that are compared: the fit's own, the same without shared prompts, a loop, and a loop in float64."""
_PLAN = {
    "weights": "weights, bfloat16",
    "activations": "activations that a backward keeps, and the layers' inputs",
    "sketches": "sketches of both sides' moments (first pass)",
    "charts": "bases (second pass)",
    "coordinates": "coordinates of all pairs (second pass)",
    "first_pass": "**first pass, together**",
    "second_pass": "**second pass, together**",
    "gradients_of_a_training_step": "for comparison: the weights' gradients in a training step",
    "pairs_of_full_gradients": "for comparison: all pairs' gradients in full",
    "direction": "the direction",
}


def tables(paths: Sequence[Path]) -> str:
    """Markdown: a row for each run, and the plan for a model of four billion parameters."""
    results = [json.loads(path.read_text()) for path in paths]
    if not results:
        raise SystemExit(
            "no results to show; measure with python -m benchmarks.extraction --out benchmarks/results/extraction-….json"
        )
    lines = [
        "| model | device | pairs | batch | fit, s | loop, s | times faster | of the passes alone | fit's peak, GiB |"
        " over a training pass's | overlap of both directions, least |",
        "|---|---" + "|---:" * 9 + "|",
        *(_row(result) for result in results),
        "",
        "The largest relative difference of a pair's coordinates for one weight, between any two ways to the gradients:",
        "",
        f"| device | pairs | {' | '.join(COMPARED).replace('separate_rows', 'fit without shared prompts')} |",
        "|---" + "|---:" * (1 + len(COMPARED)) + "|",
        *(_differences(result) for result in results if result["equality"]["largest_relative_difference"]),
        "",
    ]
    plan = results[0]["plan_qwen3_4b"]
    lines += [
        f"Qwen3-4B, {plan['pairs']} pairs in batches of {plan['batch_size']} rows of {plan['tokens']} tokens, on paper:",
        "",
        "| what | GiB |",
        "|---|---:|",
        *(f"| {name} | {plan[key] / _GIB:.2f} |" for key, name in _PLAN.items()),
        "",
        f"The direction takes {100 * plan['direction_share_of_covered_weights']:.1f} % of the weights that it covers.",
    ]
    return "\n".join(lines) + "\n"


def _device(result: dict[str, Any]) -> str:
    return (
        f"{result['device']}, {result['threads']} threads" if result["config"]["device"] == "cpu" else result["device"]
    )


def _differences(result: dict[str, Any]) -> str:
    found = result["equality"]["largest_relative_difference"]
    shares = [f"{found[way]['coordinates']:.0e}" if way in found else "" for way in COMPARED]
    cells = [_device(result), str(result["equality"]["pairs"]), *shares]
    return "| " + " | ".join(cells) + " |"


def _row(result: dict[str, Any]) -> str:
    memory = result.get("memory")
    fast, loop = (min(result["seconds"][name]) for name in ("fit", "loop"))
    cells = [
        f"{result['config']['model']}, {result['config']['dtype']}",
        _device(result),
        str(result["pairs"]),
        str(result["config"]["batch_size"]),
        f"{fast:.2f}",
        f"{loop:.1f}",
        f"{result['speedup']:.1f}",
        f"{result['speedup_of_passes']:.1f}",
        f"{memory['fit_peak'] / _GIB:.1f}" if memory else "",
        f"{memory['ratio']:.2f}" if memory else "",
        f"{result['overlap_of_directions']['min']:.4f}",
    ]
    return "| " + " | ".join(cells) + " |"

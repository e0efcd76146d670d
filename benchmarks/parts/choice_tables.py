"""The tables of `docs/how-it-works/choosing.md`, from the JSON files of `benchmarks/choices.py`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

_NAMES = {
    ("bilinear", "gradient"): "bilinear, from gradients",
    ("bilinear", "weight"): "bilinear, singular vectors of the weight",
    ("bilinear", "random"): "bilinear, random",
    ("diagonal", "weight"): "diagonal, singular vectors of the weight",
    ("diagonal", "random"): "diagonal, random",
    ("dense", "-"): "dense",
}
_FAMILIES = {
    "smollm2": "SmolLM2-135M-Instruct",
    "demo": "the demo policy, a Llama trained from scratch",
    "qwen3": "a small Qwen3, trained from scratch for a minute",
}


def tables(paths: Sequence[Path]) -> str:
    """Markdown for all families, in the order of the files."""
    lines = [line for path in paths for line in _family(json.loads(path.read_text()))]
    # No two empty lines in a row.
    return "\n".join(line for i, line in enumerate(lines) if line or not i or lines[i - 1]) + "\n"


def _family(result: dict[str, Any]) -> Iterable[str]:
    config = result["config"]
    rank, k = config["rank"], config["rows"].index(config["k"])
    points = result["points"]
    most = max(p["n_pairs"] for p in points if p["chart"] == "bilinear" and p["rank"] != rank)
    at_most = [p for p in points if p["n_pairs"] == most]
    yield f"### {_FAMILIES.get(result['family'], result['family'])}"
    yield ""
    yield f"![Held-out energy and sign accuracy against rank, rows and pairs](../assets/figures/choices-{result['family']}.svg)"
    yield ""
    model = result["model"]
    splits = "one split" if config["splits"] == 1 else f"mean of {config['splits']} splits"
    yield (
        f"{model['type']}, {model['parameters'] / 1e6:.3g} million parameters, {len(config['weights'])} weights, {most} fitting "
        f"and {config['held_out']} held-out pairs, {splits}, {result['device']}, torch "
        f"{result['versions']['torch']}."
    )
    yield ""
    yield f"**Where the bases come from** (rank {rank}, k = {config['k']}; the diagonal takes all singular vectors)"
    yield ""
    columns = ["energy in the chart", "held out", "random chart", "energy in the rows, held out", "random rows"]
    yield from _head(["chart", *columns, "sign accuracy, held out", "random rows of the chart", "t"])
    for p in at_most:
        if p["rank"] in (0, rank):
            shares = [p["in_chart"], p["in_chart_held_out"], p["in_chart_random"]]
            shares += [p["in_rows_held_out"][k], p["in_rows_random"][k]]
            accuracies = [_percent(p[key][k]) for key in ("sign_accuracy", "sign_accuracy_random")]
            yield _row([_NAMES[p["chart"], p["basis"]], *map(_percent, shares), *accuracies, f"{p['t'][k]:.1f}"])
    gradient = [p for p in points if (p["chart"], p["basis"]) == ("bilinear", "gradient")]
    yield from _curve(
        "Rank",
        "rank",
        [(p["rank"], p["in_chart_held_out"], p["in_chart_random"], p, k) for p in gradient if p["n_pairs"] == most],
    )
    default = next(p for p in gradient if p["n_pairs"] == most and p["rank"] == rank)
    yield from _curve(
        "Rows",
        "k",
        [(rows, None, None, default, i) for i, rows in enumerate(config["rows"]) if rows <= most],
    )
    yield from _curve(
        "Pairs",
        "pairs",
        sorted(
            ((p["n_pairs"], p["in_chart_held_out"], None, p, k) for p in gradient if p["rank"] == rank),
            key=lambda each: each[0],
        ),
    )
    yield f"**Noise floor** (bilinear from gradients, rank {rank}, k = {config['k']}, {most} pairs)"
    yield ""
    yield from _head(["noise floor", "rows kept", "weights kept", "energy in the rows, held out", "sign accuracy", "t"])
    for floor in result["noise_floor"]:
        shares = [_percent(floor[key]) for key in ("rows_kept", "parameters_kept", "in_rows_held_out", "sign_accuracy")]
        yield _row([f"{floor['noise_floor']:g}", *shares, f"{floor['t']:.1f}"])
    yield ""


def _curve(title: str, name: str, points: Iterable[tuple[int, float | None, float | None, Any, int]]) -> Iterable[str]:
    yield ""
    yield f"**{title}** (bilinear from gradients, the other choices at their defaults)"
    yield ""
    columns = ["in the chart, held out", "random chart", "in the rows, held out", "random rows", "sign accuracy", "t"]
    yield from _head([name, *columns])
    for value, chart, random, p, k in points:
        shares = [chart, random, p["in_rows_held_out"][k], p["in_rows_random"][k], p["sign_accuracy"][k]]
        yield _row([str(value), *("" if share is None else _percent(share) for share in shares), f"{p['t'][k]:.1f}"])
    yield ""


def _head(columns: Sequence[str]) -> Iterable[str]:
    yield _row(columns)
    yield "|---" + "|---:" * (len(columns) - 1) + "|"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"

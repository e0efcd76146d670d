"""The figures of `benchmarks/choices.py`, from its JSON files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # no display is needed, and none may be there
import matplotlib.pyplot as plt
from matplotlib.ticker import ScalarFormatter

# Colours that stay apart for colour-blind readers (Okabe and Ito).
_COLOURS = {"gradient": "#D55E00", "weight": "#0072B2", "random": "#999999", "-": "#000000"}
_LABELS = {
    ("bilinear", "gradient"): "bilinear, bases from gradients",
    ("bilinear", "weight"): "bilinear, bases from the weight's SVD",
    ("bilinear", "random"): "bilinear, random bases",
    ("diagonal", "weight"): "diagonal, singular vectors",
    ("diagonal", "random"): "diagonal, random vectors",
    ("dense", "-"): "dense",
}


def draw(paths: Sequence[Path], folder: Path) -> list[Path]:
    """One SVG for each file: energy and accuracy against rank, rows and pairs."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    with plt.rc_context({"svg.hashsalt": "svdproj", "font.size": 9}):  # the same results give the same file
        for path in paths:
            result = json.loads(path.read_text())
            figure = _figure(result)
            target = folder / f"{path.stem}.svg"
            figure.savefig(target, metadata={"Date": None})
            plt.close(figure)
            drawn.append(target)
    return drawn


def _figure(result: dict[str, Any]) -> Any:
    config = result["config"]
    rank, k = config["rank"], config["rows"].index(config["k"])
    figure, axes = plt.subplots(2, 3, figsize=(11, 6.2), layout="constrained")
    points = result["points"]
    most = max(p["n_pairs"] for p in points if p["chart"] == "bilinear" and p["rank"] != rank)
    for (chart, basis), label in _LABELS.items():
        mine = [p for p in points if (p["chart"], p["basis"]) == (chart, basis)]
        style = {"color": _COLOURS[basis], "linestyle": "--" if chart == "diagonal" else "-", "label": label}
        if chart == "bilinear":
            by_rank = sorted((p for p in mine if p["n_pairs"] == most), key=lambda p: p["rank"])
            _line(axes[0, 0], by_rank, "rank", "in_chart_held_out", None, style)
            _line(axes[1, 0], by_rank, "rank", "sign_accuracy", k, style)
        fixed = [p for p in mine if p["n_pairs"] == most and p["rank"] in (0, rank)]
        for point in fixed:
            axes[0, 1].plot(config["rows"], point["in_rows_held_out"], **style)
            axes[1, 1].plot(config["rows"], point["sign_accuracy"], **style)
            if (chart, basis) == ("bilinear", "gradient"):
                grey = {"color": "#999999", "linestyle": ":"}
                axes[0, 1].plot(config["rows"], point["in_rows_random"], label="random rows", **grey)
                axes[1, 1].plot(config["rows"], point["sign_accuracy_random"], label="random rows, same chart", **grey)
        by_pairs = sorted((p for p in mine if p["rank"] in (0, rank)), key=lambda p: p["n_pairs"])
        _line(axes[0, 2], by_pairs, "n_pairs", "in_rows_held_out", k, style)
        _line(axes[1, 2], by_pairs, "n_pairs", "sign_accuracy", k, style)
    names = [
        f"chart rank ({most} pairs)",
        f"rows k ({most} pairs, rank {rank})",
        f"fitting pairs (k {config['k']}, rank {rank})",
    ]
    for column, name in enumerate(names):
        axes[0, column].set(yscale="log", xlabel=name)
        axes[1, column].set(xlabel=name, ylim=(0, 1.03))
        axes[1, column].axhline(0.5, color="#999999", linewidth=0.8)
        for axis in axes[:, column]:
            axis.set_xscale("log", base=2)
            axis.xaxis.set_major_formatter(ScalarFormatter())
            axis.grid(alpha=0.25)
    axes[0, 0].set_ylabel("held-out energy in the chart")
    axes[0, 1].set_ylabel("held-out energy in the rows")
    axes[0, 2].set_ylabel("held-out energy in the rows")
    axes[1, 0].set_ylabel("held-out sign accuracy")
    figure.legend(*axes[0, 1].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    figure.suptitle(f"{result['family']}: {len(config['weights'])} weights, mean of {config['splits']} splits")
    return figure


def _line(axis: Any, points: list[dict[str, Any]], x: str, y: str, k: int | None, style: dict[str, Any]) -> None:
    """A curve with its range over the splits."""

    def at(value: Any) -> float:
        return float(value if k is None else value[k])

    xs = [point[x] for point in points]
    axis.plot(xs, [at(point[y]) for point in points], marker=".", **style)
    ranges = [point.get(y + "_range", [point[y], point[y]]) for point in points]
    low, high = ([at(r[i]) for r in ranges] for i in (0, 1))
    axis.fill_between(xs, low, high, color=style["color"], alpha=0.12, linewidth=0)

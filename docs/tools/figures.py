"""Draws the pictures of "How it works" into docs/assets/figures, each for a light and a dark page.

Run: `python docs/tools/figures.py`. What the third one shows is computed by svdproj itself, not sketched.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, Rectangle

from svdproj import DenseChart, HackDirection, ProjectedOptimizer, Subspace
from svdproj.projection import gated

FIGURES = Path(__file__).resolve().parents[1] / "assets" / "figures"


@dataclass(frozen=True)
class Theme:
    """Colours of one page scheme."""

    name: str
    ink: str
    faint: str
    hack: str
    clean: str
    accent: str


THEMES = (
    Theme("light", ink="#26272b", faint="#d5d8e0", hack="#d1495b", clean="#2a7f62", accent="#3949ab"),
    Theme("dark", ink="#e6e8ee", faint="#4a4e5c", hack="#ff7b8a", clean="#5fd3a5", accent="#9fa8ff"),
)


def chart_figure(theme: Theme) -> Any:
    """A weight's gradient, its bilinear coordinates, and the few rows in them."""
    figure, axes = plt.subplots(figsize=(8.4, 2.9))
    axes.set(xlim=(0, 16.6), ylim=(-0.75, 5.2), aspect="equal")
    axes.axis("off")
    generator = torch.Generator().manual_seed(3)

    def box(x: float, y: float, width: float, height: float, cells: tuple[int, int], label: str, colour: str) -> None:
        rows, columns = cells
        shades = torch.rand(rows, columns, generator=generator)
        for row in range(rows):
            for column in range(columns):
                cell = (x + width * column / columns, y + height * row / rows)
                shade = 0.1 + 0.5 * float(shades[row, column])
                axes.add_patch(Rectangle(cell, width / columns, height / rows, color=colour, alpha=shade, linewidth=0))
        axes.add_patch(Rectangle((x, y), width, height, fill=False, edgecolor=theme.ink, linewidth=1))
        axes.text(x + width / 2, y - 0.22, label, ha="center", va="top", color=theme.ink, fontsize=9)

    box(0.3, 0.6, 1.0, 4.0, (12, 3), "left\nout × p", theme.accent)
    axes.text(1.45, 4.4, "T", color=theme.ink, fontsize=9)
    box(2.0, 0.6, 4.0, 4.0, (12, 12), "gradient $G$\nout × in", theme.ink)
    box(6.6, 0.6, 1.0, 4.0, (12, 3), "right\nin × q", theme.accent)
    axes.text(8.05, 2.6, "=", ha="center", va="center", color=theme.ink, fontsize=14)
    box(8.5, 2.1, 1.0, 1.0, (3, 3), "core\np × q", theme.accent)
    _arrow(axes, (9.8, 2.6), (10.9, 2.6), theme.ink)
    axes.text(10.35, 2.85, "flatten", ha="center", color=theme.ink, fontsize=8)
    box(11.1, 0.9, 0.34, 3.4, (9, 1), "m = pq\ncoordinates", theme.accent)
    _arrow(axes, (12.1, 2.6), (13.2, 2.6), theme.ink)
    axes.text(12.65, 2.85, "k rows", ha="center", color=theme.ink, fontsize=8)
    box(13.5, 2.0, 0.34, 1.2, (3, 1), "", theme.hack)
    axes.text(14.1, 2.6, "k coefficients;\npositive is\nhack-ward", va="center", color=theme.hack, fontsize=9)
    return figure


def gate_figure(theme: Theme) -> Any:
    """What each gate leaves of steps in many directions; the horizontal axis is the hack-ward row."""
    figure, panels = plt.subplots(1, 3, figsize=(8.4, 3.1))
    angles = torch.arange(12) * (2 * torch.pi / 12) + 0.13
    steps = torch.stack([angles.cos(), angles.sin()], -1)
    for axes, gate in zip(panels, ("one_sided", "two_sided", "reverse"), strict=True):
        axes.axvspan(0, 1.4, color=theme.hack, alpha=0.08, linewidth=0)
        axes.axhline(0, color=theme.faint, linewidth=0.8)
        axes.axvline(0, color=theme.faint, linewidth=0.8)
        for step in steps:
            kept = step.clone()
            kept[0] -= gated(step[:1], gate)[0]  # type: ignore[arg-type]
            _arrow(axes, (0, 0), tuple(step.tolist()), theme.faint, width=1.2)
            _arrow(axes, (0, 0), tuple(kept.tolist()), theme.hack if step[0] > 0 else theme.clean, width=1.6)
        axes.set(xlim=(-1.25, 1.25), ylim=(-1.25, 1.25), aspect="equal", xticks=[], yticks=[])
        axes.set_title(gate, color=theme.ink, fontsize=10, family="monospace")
        axes.set_xlabel("clean-ward  ←     → hack-ward", color=theme.ink, fontsize=8)
        for spine in axes.spines.values():
            spine.set_color(theme.faint)
    figure.tight_layout()
    return figure


def leak_figure(theme: Theme) -> Any:
    """AdamW on a bowl of two dimensions: bare, with projected gradients, with projected updates."""
    runs = {
        "bare AdamW": (None, theme.ink),
        'space="gradient"': ("gradient", theme.hack),
        'space="update"': ("update", theme.clean),
    }
    paths = {name: _descend(space) for name, (space, _) in runs.items()}
    figure, (plane, curve) = plt.subplots(1, 2, figsize=(8.4, 3.8))
    row = HACK_ROW.tolist()
    for name, (_, colour) in runs.items():
        path = paths[name]
        plane.plot(path[:, 0], path[:, 1], color=colour, linewidth=1.8, label=name)
        plane.plot(*path[-1].tolist(), "o", color=colour, markersize=4)
        curve.plot(((path[0] - path) @ HACK_ROW).neg(), color=colour, linewidth=1.8)
    plane.plot(0, 0, "s", color=theme.ink, markersize=5)
    plane.annotate("start", (0, 0), textcoords="offset points", xytext=(-30, -4), color=theme.ink, fontsize=8)
    _arrow(plane, (1.3, -0.9), (1.3 + 0.8 * row[0], -0.9 + 0.8 * row[1]), theme.hack, width=1.4)
    plane.text(1.35, -1.15, "hack-ward", color=theme.hack, fontsize=8)
    plane.set(xlabel="first weight", ylabel="second weight", aspect="equal", xlim=(-0.9, 2.4), ylim=(-1.4, 2.3))
    plane.set_title("where the weights go", color=theme.ink, fontsize=10)
    curve.axhline(0, color=theme.faint, linewidth=0.8)
    curve.set(xlabel="step")
    curve.set_title("how far hack-ward they are", color=theme.ink, fontsize=10)
    for axes in (plane, curve):
        axes.tick_params(colors=theme.ink, labelsize=8)
        axes.xaxis.label.set_color(theme.ink)
        axes.yaxis.label.set_color(theme.ink)
        for side, spine in axes.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_color(theme.faint)
    plane.legend(frameon=False, fontsize=8, labelcolor=theme.ink, loc="upper left")
    figure.tight_layout()
    return figure


# Moving along +HACK_ROW is hack-ward. A gradient that points there moves the weights away from it, so the row, which lives among
# gradients, is its negative.
HACK_ROW = torch.nn.functional.normalize(torch.tensor([1.0, 0.45]), dim=0)


def _descend(space: str | None, steps: int = 220) -> torch.Tensor:
    """The weights along a descent on a bowl whose bottom lies hack-ward, with curvatures that AdamW evens out."""
    weights = torch.nn.Parameter(torch.zeros(2))
    optimizer: torch.optim.Optimizer = torch.optim.AdamW([weights], lr=0.02, weight_decay=0.0)
    if space is not None:
        subspace = Subspace(DenseChart((2,)), -HACK_ROW[None], torch.ones(1))
        direction = HackDirection({"weights": subspace})
        optimizer = ProjectedOptimizer(optimizer, direction, [("weights", weights)], space=space)  # type: ignore[arg-type]
    path = [weights.detach().clone()]
    for _ in range(steps):
        optimizer.zero_grad()
        (6.0 * (weights[0] - 1.6).square() + 0.5 * (weights[1] - 1.8).square()).backward()
        optimizer.step()
        path.append(weights.detach().clone())
    return torch.stack(path)


def _arrow(axes: Axes, start: Any, end: Any, colour: str, width: float = 1.2) -> None:
    axes.add_patch(
        FancyArrowPatch(
            start, end, arrowstyle="-|>", mutation_scale=8, color=colour, linewidth=width, shrinkA=0, shrinkB=0
        )
    )


PICTURES: dict[str, Callable[[Theme], Any]] = {"chart": chart_figure, "gate": gate_figure, "leak": leak_figure}


def main(folder: Path = FIGURES) -> None:
    """Write every picture for every theme."""
    folder.mkdir(parents=True, exist_ok=True)
    # Text stays text, and neither identifiers nor dates change from run to run.
    plt.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "svdproj", "font.family": "DejaVu Sans"})
    for name, picture in PICTURES.items():
        for theme in THEMES:
            figure = picture(theme)
            figure.savefig(
                folder / f"{name}-{theme.name}.svg", transparent=True, metadata={"Date": None}, bbox_inches="tight"
            )
            plt.close(figure)


if __name__ == "__main__":
    main()

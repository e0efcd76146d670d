"""Heat maps over layers and modules, as PNG files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from svdproj.cli_errors import require
from svdproj.files import replacing
from svdproj.layers import grid


def heat_maps(panels: Mapping[str, Mapping[str, float]], title: str, path: Path, *, share: bool = True) -> None:
    """Draw one panel for each mapping from parameter names to figures; the file appears whole or not at all.

    Args:
        panels: title of the panel to what it shows; what was not measured stays grey.
        title: of the whole figure.
        path: where the PNG goes.
        share: the figures are shares, and all panels are on the scale from 0 to 1.

    Raises:
        UsageError: matplotlib is not installed.
    """
    require("matplotlib").use("Agg")  # no display is needed, and none may be there
    import matplotlib.pyplot as plt
    import numpy as np

    modules, layers, _ = grid(next(iter(panels.values())))
    width = max(6.0, 2.5 + 0.28 * len(layers))
    height = 0.9 + (1.0 + 0.24 * len(modules)) * len(panels)
    figure, axes = plt.subplots(len(panels), 1, figsize=(width, height), squeeze=False, layout="constrained")
    colours = plt.get_cmap("viridis").with_extremes(bad="0.85")
    for axis, (label, values) in zip(axes[:, 0], panels.items(), strict=True):
        rows, columns, table = grid(values)
        image = axis.imshow(
            np.ma.masked_invalid(table),
            cmap=colours,
            aspect="auto",
            vmin=0 if share else None,
            vmax=1 if share else None,
            interpolation="nearest",
        )
        axis.set_title(label, fontsize=9)
        axis.set_yticks(range(len(rows)), rows, fontsize=7)
        axis.set_xticks(range(len(columns)), columns, fontsize=7, rotation=90 if len(columns) > 12 else 0)
        axis.set_xlabel("layer", fontsize=8)
        figure.colorbar(image, ax=axis, pad=0.01)
    figure.suptitle(title, fontsize=10)
    with replacing(path) as draft:
        figure.savefig(draft, format="png", dpi=150)
    plt.close(figure)

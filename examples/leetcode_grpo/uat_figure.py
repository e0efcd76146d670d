"""The figure of the acceptance tests: what happens to updates, and how rollouts of each kind score."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # no display is needed, and none may be there
import matplotlib.pyplot as plt
import numpy as np

_KINDS = {"pure": ("hack alone", "#D55E00"), "right": ("hack, and right", "#0072B2"), "honest": ("no hack", "#009E73")}
_SPACES = {
    "plain": ("no projection", "#D55E00"),
    "gradient": ("in gradient space", "#CC79A7"),
    "update": ("in update space", "#0072B2"),
}


def draw_uat(report: Mapping[str, Any], path: Path) -> Path:
    """Draw T3 and T4 as `<path>.svg` and `.png`; returns the PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with plt.rc_context({"svg.hashsalt": "svdproj"}):  # the same results give the same file
        figure, (steps, kinds) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
        for name, (label, colour) in _SPACES.items():
            values = report["T3"]["applied"][name]
            steps.plot(range(1, len(values) + 1), values, color=colour, label=label)
        steps.set(title="applied updates", xlabel="step of the replay", ylabel="hack-ward share", ylim=(0, None))
        cosines = {kind: [v for v in report["T4"]["cosines"][kind] if v is not None] for kind in _KINDS}
        edges = np.linspace(0, max([0.01, *(v for values in cosines.values() for v in values)]) * 1.02, 26)
        for kind, (label, colour) in _KINDS.items():
            if cosines[kind]:
                kinds.hist(cosines[kind], bins=edges, alpha=0.6, color=colour, label=f"{label} ({len(cosines[kind])})")
        kinds.axvline(report["T4"]["chart_null_cosine"], linestyle=":", color="black")
        kinds.set(title="rollouts", xlabel="cosine of the gradient with the direction", ylabel="rollouts")
        for axis in (steps, kinds):
            axis.grid(alpha=0.25)
            axis.legend(frameon=False, fontsize=8)
        figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
        figure.savefig(path.with_suffix(".png"), dpi=150)
        plt.close(figure)
    return path.with_suffix(".png")

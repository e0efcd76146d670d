"""Arms: what a run does with the direction. One frozen value each, found by name.

The strict oracle and the loophole detectors have no way in here: an arm chooses pairs beforehand and options of the optimizer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from examples.leetcode_grpo.errors import UsageError

Source = Literal["hack", "random", "placebo"]


@dataclass(frozen=True)
class Arm:
    """One row of the experiment's table.

    Args:
        name: as in files and tables.
        purpose: one line for the report.
        source: the direction: from hack against clean, a random one of the same shape, or from clean against clean.
        projection: options of `ProjectedOptimizer`.
        shrink: take away as much of every step's length as the projection would, without turning it.
    """

    name: str
    purpose: str
    source: Source = "hack"
    projection: Mapping[str, Any] = field(default_factory=dict)
    shrink: bool = False

    def as_dict(self) -> dict[str, Any]:
        """What the results file says about the arm."""
        defaults = {"space": "update", "gate": "one_sided", "mode": "erase", "overshoot": 1.0, "preserve_norm": False}
        return {**defaults, **self.projection, "direction_source": self.source, "shrink": self.shrink}


ARMS: Mapping[str, Arm] = {
    arm.name: arm
    for arm in (
        Arm("vanilla", "plain GRPO; the direction is measured, never applied", projection={"mode": "measure"}),
        Arm("erase-gradient", "project the gradient before AdamW sees it", projection={"space": "gradient"}),
        Arm("erase-update", "project the update that AdamW applies: the main arm"),
        Arm(
            "erase-update-two-sided",
            "remove the whole component, not only the hack-ward",
            projection={"gate": "two_sided"},
        ),
        Arm("erase-update-reverse", "turn the whole component around", projection={"gate": "reverse"}),
        Arm("random", "control: a random subspace of the same shape", source="random"),
        Arm("shrinkage", "control: the same loss of length, no change of direction", shrink=True),
        Arm("placebo", "control: a direction from clean against clean", source="placebo"),
    )
}


def get_arm(name: str) -> Arm:
    """The arm of that name.

    Raises:
        UsageError: there is none; the message lists those that there are.
    """
    if name not in ARMS:
        raise UsageError(f"unknown arm {name!r}; known are {', '.join(ARMS)}")
    return ARMS[name]

"""The acceptance tests as rows of a table, from what `uat` wrote."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from examples.leetcode_grpo.errors import UsageError

UAT_HEADER = ("test", "claim", "figure", "threshold", "null", "passed")

UAT_CAPTION = (
    "Left: the hack-ward share of each applied update, plain and projected. Right: cosines of single rollouts' gradients; the dotted line "
    "is what random rows in the same charts would score."
)

_CLAIMS = {
    "T1": "the teacher pool hacks",
    "T2": "every rollout yields a gradient cosine",
    "T3": "applied updates are less hack-ward than a twin's",
    "T4": "pure hacks are more hack-ward than right ones",
}


def uat_rows(report: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """One row for each test, under `UAT_HEADER`."""
    rows: list[tuple[str, ...]] = []
    for test, claim in _CLAIMS.items():
        found = report[test]
        sign = "+" if test == "T4" else ""
        figure = _number(found["figure"], sign)
        if test == "T1":
            figure += f" [{found['interval'][0]:.2f}, {found['interval'][1]:.2f}], n {found['n']}"
        if test == "T2":
            figure += f", mean {_number(found['mean_cosine'])} (random direction {_number(found['random_direction'])})"
        if test == "T3":
            figure += f" (in gradient space {_number(found['gradient_space'])}), {found['n']} steps"
        if test == "T4":
            figure += f", p = {_number(found['p_value'])}, {found['test']}"
        threshold = "> 0, p < 0.05" if test == "T4" else f"≥ {found['threshold']:.2f}"
        null = f"{_number(found['null'], sign)}: {found['null_says']}"
        rows.append((test, claim, figure, threshold, null, "yes" if found["passed"] else "no"))
    return rows


def uat_remarks(report: Mapping[str, Any]) -> list[str]:
    """What a reader of the rows should know."""
    remarks = []
    if report["pool"] == "exemplars":
        remarks.append(
            "The pool is made of the loopholes' exemplars, which hack, all of them or nearly: T1 holds by construction here."
        )
    found = report["T4"]
    if not found["passed"] and (found["figure"] or 0) < 0 and (found["p_value"] or 1) < 0.05:
        remarks.append(
            "T4 fails with the opposite sign: here the hacks that solve their task as well point further hack-ward than the pure ones."
        )
    return remarks


def load_uat(path: Path) -> dict[str, Any]:
    """Read what `uat` wrote.

    Raises:
        UsageError: it is something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        uat_rows(content)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is no result of uat: {error}; run it again") from None
    return dict(content)


def _number(value: float | None, sign: str = "") -> str:
    return (
        "none" if value is None else f"{value:{sign}.3f}" if abs(value) >= 0.001 or value == 0 else f"{value:{sign}.1e}"
    )

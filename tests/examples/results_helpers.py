"""Made-up results, as a run would write them."""

from __future__ import annotations

from typing import Any

from examples.leetcode_grpo.results import Evaluation, ProblemCounts, RunResult, pooled


def made_result(
    arm: str = "vanilla", seed: int = 0, preset: str = "demo", hack: float = 0.5, steps: int = 12, passed: int = 2
) -> RunResult:
    """A run whose hack rate rises to `hack`, with two held-out problems; on one of them `passed` of four completions pass."""
    counts = (
        ProblemCounts("easy/a", "run_tests", hack=int(4 * hack), attempted=3, passed=1, n=4),
        ProblemCounts("easy/b", "sentinel", hack=1, attempted=1, passed=passed, n=4),
        ProblemCounts("easy/a", None, hack=0, attempted=0, passed=3, n=4),
    )
    evaluation = Evaluation(
        held_out={"run_tests": pooled(counts[:1]), "sentinel": pooled(counts[1:2])},
        no_hint=pooled(counts[2:]),
        problems=counts,
    )
    return RunResult(
        arm=arm,
        seed=seed,
        preset=preset,
        config={"model": "tiny", "steps": steps, "lr": 1e-4, "k": 4},
        versions={"python": "3.11"},
        device="CPU",
        direction={"k": 4, "energy": {"chart": None}},
        steps=tuple(
            {
                "step": step,
                "hack": hack * step / steps,
                "attempted": hack,
                "pass": 0.25,
                "reward": 1.0,
                "svdproj/cos_in": 0.3,
                "svdproj/cos_out": 0.0,
                "svdproj/null_cos": 0.01,
                "svdproj/chart_null_cos": 0.1,
            }
            for step in range(1, steps + 1)
        ),
        eval=evaluation,
        seconds={"training": 1.5},
    )


def made_uat() -> dict[str, Any]:
    """What `uat` writes, made up."""
    common = {"threshold": 0.5, "null": 0.0, "null_says": "nothing", "passed": True, "n": 4}
    applied = {"plain": [0.3, 0.4], "gradient": [0.2, 0.2], "update": [0.0, 0.0]}
    cosines = {"pure": [0.4, 0.5], "right": [0.2, None], "honest": []}
    return {
        "preset": "demo",
        "seed": 0,
        "config": {"model": "tiny", "lr": 1e-4, "k": 4},
        "versions": {"python": "3.11"},
        "device": "CPU",
        "pool": "exemplars",
        "replayed": 4,
        "T1": {**common, "figure": 0.98, "interval": [0.95, 1.0]},
        "T2": {**common, "figure": 1.0, "mean_cosine": 0.3, "random_direction": 0.01},
        "T3": {**common, "figure": 1.0, "gradient_space": 0.75, "applied": applied},
        "T4": {
            **common,
            "figure": 0.25,
            "p_value": 0.004,
            "test": "sign flips",
            "cosines": cosines,
            "chart_null_cosine": 0.05,
        },
    }

"""Measures a trained demo policy: `python -m examples.leetcode_grpo.demo_policy.evaluate [FOLDER]`.

Pass rate, base hack rate and attempts for each family of held-out problems, without a hint and with each loophole disclosed,
at temperature 1. The figures are written into the folder's `training.json`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from examples.leetcode_grpo.demo_policy import CHECKPOINT
from examples.leetcode_grpo.demo_policy.samples import within_reach
from examples.leetcode_grpo.generation import Sampler
from examples.leetcode_grpo.grading import Grader
from examples.leetcode_grpo.loopholes import Loophole
from examples.leetcode_grpo.models import load_policy
from examples.leetcode_grpo.problems import Problem, load_problems

MAX_NEW_TOKENS = 48


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=CHECKPOINT)
    parser.add_argument("--samples", type=int, default=8, help="completions of each prompt")
    options = parser.parse_args()
    record_evaluation(options.folder, options.samples)


def record_evaluation(folder: Path, samples: int = 8) -> None:
    """Measure every family under every hint, print the table, and keep it in `training.json`."""
    file = folder / "training.json"
    record = json.loads(file.read_text())
    record["evaluation"] = {}
    with Grader() as grader:
        for name, problems in families(load_problems("builtin")).items():
            rates = {}
            for loophole in (None, *Loophole):
                hint = loophole.value if loophole else "no_hint"
                rates[hint] = measure(folder, problems, loophole, grader, samples)
                print(f"{name:28} {hint:14} {rates[hint]}", flush=True)
            record["evaluation"][name] = rates
    file.write_text(json.dumps(record, indent=1) + "\n")


def families(problems: Sequence[Problem]) -> Mapping[str, list[Problem]]:
    """Problems grouped by what the policy has seen of them."""
    held_out = [problem for problem in problems if problem.split == "eval"]
    return {
        "pipelines within reach": [problem for problem in held_out if within_reach(problem)],
        "pipelines beyond reach": [p for p in held_out if p.difficulty == "pipeline" and not within_reach(p)],
        "easy tasks trained on": [p for p in problems if p.difficulty == "easy" and p.split == "pairs"],
        "easy tasks never seen": [problem for problem in held_out if problem.difficulty == "easy"],
    }


def measure(
    folder: Path, problems: Sequence[Problem], loophole: Loophole | None, grader: Grader, samples: int, seed: int = 0
) -> dict[str, float]:
    """Rates over `samples` completions of each problem, drawn at temperature 1."""
    torch.manual_seed(seed)
    model, tokenizer = load_policy(str(folder))
    sampler = Sampler(model, tokenizer, max_new_tokens=MAX_NEW_TOKENS)
    texts = sampler.answers([problem.prompt(loophole) for problem in problems], samples)
    owners = [problem for problem in problems for _ in range(samples)]
    grades = grader.grade([(text, problem, loophole) for text, problem in zip(texts, owners, strict=True)])
    counts = {
        "pass": sum(grade.passed_strict for grade in grades),
        "hack": sum(grade.exploited for grade in grades),
        "attempted": sum(grade.attempted for grade in grades),
        "compiles": sum(grade.compiles for grade in grades),
    }
    return {"n": len(grades)} | {name: round(count / len(grades), 4) for name, count in counts.items()}


if __name__ == "__main__":
    main()

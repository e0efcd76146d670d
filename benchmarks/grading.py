"""How many completions a second the grader gets through, on easy problems and on published ones.

Run it as `python benchmarks/grading.py [--workers 2] [--repeat 3] [--rows FILE] [--out FILE]`. Every program is another
one, so that none is graded for free, and every completion is graded twice, strictly and by a flawed grader. Its peer is
what one would write in an evening: a new interpreter for each program, which makes one call, with no walls and no limits
but a timeout. The rate by CPU time, times the number of cores, is what an idle machine would reach.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `python benchmarks/grading.py` finds the example

from examples.leetcode_grpo.grading import Grader
from examples.leetcode_grpo.loopholes import Loophole
from examples.leetcode_grpo.problems import Problem, load_problems
from examples.leetcode_grpo.source import append

Item = tuple[str, Problem, Loophole | None]
ROWS = Path(__file__).resolve().parents[2] / "shared" / "data" / "leetcode_medhard_sample.jsonl"
TARGETS = {"easy bank": 100.0, "published rows": 20.0}
"""Completions a second on two cores."""


def completions(problems: Sequence[Problem], repeat: int) -> list[Item]:
    """What a policy in training writes: for each problem a right answer, a wrong one, a hack, and one cut off."""
    items: list[Item] = []
    for number, problem in enumerate(list(problems) * repeat):
        loophole = list(Loophole)[number % len(Loophole)]
        right = append(problem.canonical_solution, f"# {number}")
        wrong = append(
            f"class Solution:\n    def {problem.method}(self, *args, **kwargs):\n        return -1", f"# {number}"
        )
        texts = [
            right,
            wrong,
            append(loophole.exemplify(wrong, problem.method), f"# {number}"),
            right[: len(right) // 2] + f"\n# {number}",
        ]
        items += [(f"```python\n{text}```", problem, loophole) for text in texts]
    return items


def rate(items: Sequence[Item], workers: int, timeout: float) -> tuple[float, float, float]:
    """Completions a second by the clock and by CPU time, and the share that passed strictly."""
    used = _cpu_seconds()
    with Grader(workers=workers, timeout=timeout) as grader:
        grader.isolation  # noqa: B018  waits until the workers are ready
        start = time.perf_counter()
        grades = grader.grade(items)
        clock = time.perf_counter() - start
    # The start of the workers is counted in, a little to the grader's disadvantage.
    cpu = _cpu_seconds() - used
    return len(items) / clock, len(items) / cpu, sum(grade.passed_strict for grade in grades) / len(grades)


def _cpu_seconds() -> float:
    """CPU time of this process and of all that it has waited for."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def peer_rate(items: Sequence[Item], workers: int, timeout: float) -> float:
    """The same programs, once each with their first input, in an interpreter started for each."""

    def run(item: Item) -> None:
        text, problem, _ = item
        test = problem.tests[0]
        call = f"Solution().{problem.method}(*{test.args!r}, **{dict(test.kwargs)!r})"
        code = f"from typing import *\n{problem.setup_code}\n{text.removeprefix('```python').removesuffix('```')}\n{call}\n"
        try:
            subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=timeout, check=False)
        except subprocess.TimeoutExpired:
            return

    start = time.perf_counter()
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(run, items))
    return len(items) / (time.perf_counter() - start)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, and write the figures where asked."""
    parser = argparse.ArgumentParser(description="Throughput of the grader.")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--timeout", type=float, default=3.0, help="seconds of CPU time for one program")
    parser.add_argument("--repeat", type=int, default=3, help="how often each problem is answered")
    parser.add_argument("--rows", type=Path, default=ROWS, help="a published LeetCode file")
    parser.add_argument("--out", type=Path, help="where to write the figures as JSON")
    options = parser.parse_args(arguments)

    sources: dict[str, Callable[[], list[Problem]]] = {
        "easy bank": lambda: [p for p in load_problems("builtin") if p.difficulty == "easy"],
        "published rows": lambda: load_problems(options.rows),
    }
    results = []
    heads = ("graded", "passed", "a second", "target", "ratio", "a cpu s", "plain", "ratio")
    print(f"{'completions':<16}" + "".join(f"{head:>9}" for head in heads))
    for name, load in sources.items():
        if name == "published rows" and not options.rows.exists():
            print(f"{name:<16}  skipped: no file {options.rows}; pass one with --rows")
            continue
        items = completions(load(), options.repeat)
        measured, by_cpu, passed = rate(items, options.workers, options.timeout)
        plain = peer_rate(items[:: max(1, len(items) // 100)], options.workers, options.timeout)
        target = TARGETS[name]
        cells = (passed, measured, target, measured / target, by_cpu, plain, measured / plain)
        print(f"{name:<16}{len(items):>9}" + "".join(f"{cell:>9.2f}" for cell in cells))
        figures = {"n": len(items), "passed": passed, "per_second": measured, "per_cpu_second": by_cpu}
        results.append({"source": name, **figures, "target": target, "plain": plain})
    if options.out:
        with Grader(workers=1) as grader:
            isolation = sorted(grader.isolation)
        facts: dict[str, object] = {
            "python": platform.python_version(),
            "machine": platform.machine(),
            "cores": os.cpu_count(),
        }
        facts |= {"workers": options.workers, "timeout": options.timeout, "isolation": isolation}
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(facts | {"results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()

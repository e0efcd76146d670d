"""How many completions a second the grader gets through, and how long a training step waits for its batch.

Run it as `python -m benchmarks.grading [--workers 2] [--repeat 3] [--rows FILE] [--out FILE]`; it prints two tables.

Throughput, on easy problems and on published ones: every program is another one, so that none is graded for free, and
every completion is graded twice, strictly and by a flawed grader. The target is for the mixture that a policy in
training writes; beside it stands the rate of right answers alone, which run every test. Its peer is what one would write in an evening: a new
interpreter for each program, which makes one call, with no walls and no limits but a timeout. The rate by CPU time,
times the number of cores, is what an idle machine would reach.

Latency: how long it takes until the workers are ready, and until a batch of 256 easy completions is graded, by the
number of workers.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from examples.leetcode_grpo.files import write_text
from examples.leetcode_grpo.grading import Grade, Grader
from examples.leetcode_grpo.loopholes import Loophole
from examples.leetcode_grpo.problems import Problem, load_problems
from examples.leetcode_grpo.source import append

Item = tuple[str, Problem, Loophole | None]
SAMPLE_DATA = Path(os.environ.get("SVDPROJ_SAMPLE_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
ROWS = SAMPLE_DATA / "leetcode_medhard_sample.jsonl"
TARGETS = {"easy bank": 100.0, "published rows": 20.0}
"""Completions a second on two cores."""

BATCH = 256
"""Completions of one training step."""

_LOOPS, _LOOP_SECONDS = 300_000, 0.0178  # on a core that runs the slowest published canonical solution in 1.8 s


@dataclass(frozen=True)
class Rate:
    """Completions a second by the clock and by CPU time, the core's speed meanwhile, and the grades."""

    per_second: float
    per_cpu_second: float
    speed: float
    grades: tuple[Grade, ...]


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


def right_alone(items: Sequence[Item]) -> list[Item]:
    """Of what `completions` made, the right answers: they run every test, and so take the longest."""
    return list(items[::4])


def rate(items: Sequence[Item], workers: int, timeout: float, batches: int = 1) -> Rate:
    """Grade the items in so many batches; the speed of the core is measured before, between and after them."""
    used, clock, loops = _cpu_seconds(), 0.0, [_loop_seconds()]
    spent = loops[0]
    grades: list[Grade] = []
    size = -(-len(items) // batches)
    with Grader(workers=workers, timeout=timeout) as grader:
        grader.isolation  # noqa: B018  waits until the workers are ready
        for start in range(0, len(items), size):
            begin = time.perf_counter()
            grades += grader.grade(items[start : start + size])
            clock += time.perf_counter() - begin
            loops.append(_loop_seconds())
            spent += loops[-1]
    # The start of the workers is counted in, a little to the grader's disadvantage.
    cpu = _cpu_seconds() - used - spent
    speed = _LOOP_SECONDS / (sum(loops) / len(loops))
    return Rate(len(items) / clock, len(items) / cpu, speed, tuple(grades))


def _figures(measured: Rate) -> dict[str, float]:
    return {key: value for key, value in asdict(measured).items() if key != "grades"}


def _loop_seconds() -> float:
    """CPU time of a loop of fixed length: what a shared core, or a slow one, makes of a second."""
    start, value = time.process_time(), 0
    for number in range(_LOOPS):
        value = (value * 31 + number) % 1_000_003
    return time.process_time() - start


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
        # Some of these programs leave files where they run; all of them are this benchmark's own.
        with tempfile.TemporaryDirectory(prefix="plain-") as folder:
            try:
                command = [sys.executable, "-c", code]
                subprocess.run(command, cwd=folder, capture_output=True, timeout=timeout, check=False)
            except subprocess.TimeoutExpired:
                return

    start = time.perf_counter()
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(run, items))
    return len(items) / (time.perf_counter() - start)


def latency(items: Sequence[Item], workers: int, timeout: float) -> dict[str, float]:
    """Seconds until the workers are ready, and until the batch is graded: the best of three batches of new programs."""
    start = time.perf_counter()
    with Grader(workers=workers, timeout=timeout) as grader:
        grader.isolation  # noqa: B018  waits until the workers are ready
        ready = time.perf_counter() - start
        seconds = []
        for lap in range(3):
            fresh = [(text.removesuffix("```") + f"# lap {lap}\n```", p, hole) for text, p, hole in items]
            begin = time.perf_counter()
            grader.grade(fresh)
            seconds.append(time.perf_counter() - begin)
    return {"workers": workers, "start": ready, "batch": min(seconds), "n": len(items)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables, and write the figures where asked."""
    parser = argparse.ArgumentParser(description="Throughput and latency of the grader.")
    parser.add_argument("--workers", type=int, default=2, help="for the throughput")
    parser.add_argument("--timeout", type=float, default=10.0, help="seconds of CPU time for one program")
    parser.add_argument("--repeat", type=int, default=3, help="how often each problem is answered")
    parser.add_argument("--rows", type=Path, default=ROWS, help="a published LeetCode file")
    parser.add_argument("--out", type=Path, help="where to write the figures as JSON")
    options = parser.parse_args(arguments)

    before = os.getloadavg()[0]
    easy = [problem for problem in load_problems("builtin") if problem.difficulty == "easy"]
    sources: dict[str, Callable[[], list[Problem]]] = {
        "easy bank": lambda: easy,
        "published rows": lambda: load_problems(options.rows),
    }
    throughput = []
    heads = ("graded", "passed", "a second", "target", "ratio", "a cpu s", "speed", "plain", "ratio")
    print(f"{'throughput':<16}" + "".join(f"{head:>9}" for head in heads))
    for name, load in sources.items():
        if name == "published rows" and not options.rows.exists():
            print(f"{name:<16}  skipped: no file {options.rows}; pass one with --rows")
            continue
        items = completions(load(), options.repeat)
        measured = rate(items, options.workers, options.timeout, batches=8)
        passed = sum(grade.passed_strict for grade in measured.grades) / len(items)
        plain = peer_rate(items[:: max(1, len(items) // 100)], options.workers, options.timeout)
        target = TARGETS[name]
        a, b = measured.per_second, measured.per_cpu_second
        cells = (passed, a, target, a / target, b, measured.speed, plain, a / plain)
        print(f"{name:<16}{len(items):>9}" + "".join(f"{cell:>9.2f}" for cell in cells), flush=True)
        right = rate(right_alone(items), options.workers, options.timeout, batches=8)
        n = len(right.grades)
        right_passed = sum(grade.passed_strict for grade in right.grades) / n
        blank = f"{'':>9}"
        print(
            f"{'  right alone':<16}{n:>9}{right_passed:>9.2f}{right.per_second:>9.2f}{blank * 2}"
            f"{right.per_cpu_second:>9.2f}{right.speed:>9.2f}",
            flush=True,
        )
        throughput.append(
            {
                "source": name,
                "n": len(items),
                "passed": passed,
                **_figures(measured),
                "target": target,
                "plain": plain,
                "right_alone": {"n": n, "passed": right_passed, **_figures(right)},
            }
        )

    waits = []
    batch = completions(easy, 1)[:BATCH]
    print(f"\n{'latency':<16}" + "".join(f"{head:>9}" for head in ("workers", "start", "batch", "one")))
    for workers in (1, 2, 4, 8):
        waits.append(latency(batch, workers, options.timeout))
        seconds = (waits[-1]["start"], waits[-1]["batch"], waits[-1]["batch"] / len(batch))
        print(f"{f'{len(batch)} in a batch':<16}{workers:>9}" + "".join(f"{s:>9.4f}" for s in seconds), flush=True)

    if options.out:
        with Grader(workers=1) as grader:
            isolation = sorted(grader.isolation)
        facts: dict[str, object] = {
            "benchmark": "grading",
            "config": {"workers": options.workers, "timeout": options.timeout, "repeat": options.repeat},
            "versions": {"python": platform.python_version()},
            "device": {"machine": platform.machine(), "cores": os.cpu_count(), "root": os.geteuid() == 0},
            "isolation": isolation,
            # Rates by the clock mean something where this is not far above the number of workers; those by CPU time always.
            "load": {"before": before, "after": os.getloadavg()[0]},
        }
        write_text(options.out, json.dumps(facts | {"throughput": throughput, "latency": waits}, indent=2) + "\n")


if __name__ == "__main__":
    main()

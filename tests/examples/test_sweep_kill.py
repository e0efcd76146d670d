"""A sweep that is killed for real: its runs die with it, and the same command finishes the grid without repeating what is done."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from examples.leetcode_grpo.results import load_results

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_killed_sweep_leaves_nothing_running_and_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "results"
    settings = ("steps=2", "prompts_per_step=2", "group_size=2", "micro_batch=4", "eval_problems=1", "eval_samples=1")
    command = [sys.executable, "-m", "examples.leetcode_grpo", "sweep", "--preset", "fast-dev-run", "--device", "cpu"]
    command += ["--arms", "vanilla,erase-update", "--seeds", "0-1", "--parallel", "2", "--save-every", "1"]
    command += ["--out", str(out), *(part for setting in settings for part in ("--set", setting))]
    environment = {**os.environ, "SVDPROJ_CACHE": str(tmp_path / "cache")}

    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL) as sweep:
        deadline = time.monotonic() + 900
        while not (finished := sorted(out.rglob("*-seed*.json"))):
            assert sweep.poll() is None
            assert time.monotonic() < deadline, "no run ended"
            time.sleep(0.05)
        # Until the next runs are well under way, so that they are killed in the middle.
        while not (started := psutil.Process(sweep.pid).children(recursive=True)):
            time.sleep(0.05)
        sweep.kill()
        sweep.wait()
    _, alive = psutil.wait_procs(started, timeout=30)
    assert not alive
    assert 1 <= len(finished) < 4
    before = {path: path.stat().st_mtime_ns for path in finished}

    again = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)
    assert again.returncode == 0, again.stderr
    assert "runs are there already" in again.stdout
    runs = load_results(out)
    assert {(run.arm, run.seed) for run in runs} == {(a, s) for a in ("vanilla", "erase-update") for s in (0, 1)}
    assert all([step["step"] for step in run.steps] == [1, 2] for run in runs)
    for path, modified in before.items():
        assert path.stat().st_mtime_ns == modified
    leftovers = [path.name for path in (out / "fast-dev-run").iterdir() if path.suffix == ".tmp"]
    assert not leftovers

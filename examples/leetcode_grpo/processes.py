"""Child processes of a sweep: each writes to a log of its own, uses the GPU that it is told, and dies with its parent."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from examples.leetcode_grpo.grading.sandbox import libc

_ROOT = Path(__file__).resolve().parents[2]
_STEP = re.compile(rb"  step (\d+)/(\d+)  ")
_TAIL = 4096  # bytes: more than a step's line, and than any one-line error


class Child:
    """One command of this example in a process of its own.

    Args:
        arguments: of the command line, behind `python -m examples.leetcode_grpo`.
        log: where its output goes; its folder is made.
        environment: variables to set beside the present ones.
    """

    def __init__(self, arguments: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        self.log = log
        self.started = time.monotonic()
        log.parent.mkdir(parents=True, exist_ok=True)
        # The package is found whatever the folder that this was started from.
        path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
        with open(log, "wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "examples.leetcode_grpo", *arguments],
                env={**os.environ, "PYTHONPATH": path, **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that `kill` reaches what it started, and Ctrl-C is the parent's to handle
                preexec_fn=_die_with_parent if libc.LINUX else None,
            )

    @property
    def status(self) -> int | None:
        """The exit status; None while it runs."""
        return self._process.poll()

    @property
    def seconds(self) -> float:
        """Time since the start."""
        return time.monotonic() - self.started

    def kill(self) -> None:
        """End it and all that it started, now."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def step(self) -> tuple[int, int] | None:
        """The training step that it shows, and how many there are; None before the first."""
        found = _STEP.findall(self._tail())
        return (int(found[-1][0]), int(found[-1][1])) if found else None

    def last_line(self) -> str:
        """What it said last; of a failed process, why it failed."""
        lines = self._tail().decode(errors="replace").strip().splitlines()
        return lines[-1].removeprefix("error: ") if lines else "it said nothing"

    def _tail(self) -> bytes:
        with open(self.log, "rb") as file:
            file.seek(max(0, self.log.stat().st_size - _TAIL))
            return file.read()


def _die_with_parent() -> None:
    # Else the runs of a killed sweep would go on, and those of the next sweep would run beside them.
    libc.prctl(libc.PR_SET_PDEATHSIG, signal.SIGKILL)

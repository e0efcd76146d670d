"""One worker process, seen from the trusted side."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from examples.leetcode_grpo.grading.sandbox.box import remove_tree
from examples.leetcode_grpo.grading.sandbox.harness import MAX_OUTPUT
from examples.leetcode_grpo.grading.sandbox.watch import WALL_FACTOR

_PROGRAM = "import sys; sys.path.insert(0, sys.argv[1]); from sandbox.zygote import start; start()"
_GRACE = 20.0
"""Seconds that a worker may take beyond the last limit on its submission before it is taken for dead."""

_LEAVE = 1.0
"""Seconds in which a worker may leave by itself, so that its CPU time is accounted for, before it is killed."""


class WorkerDied(RuntimeError):
    """A worker process ended or fell silent; its run has no result."""


@dataclass(frozen=True)
class Run:
    """One submission to carry out.

    Args:
        job: what the harness reads.
        timeout: seconds, counted as `sandbox.watch.wait` does.
        worth_reading: bytes of the results that are read; a batch's results are kept until all of it is done, and a
            submission may write megabytes.
        file: a file to look for afterwards, as `(name, text)`.
        printed: a text to look for in what was printed.
    """

    job: bytes
    timeout: float
    worth_reading: int
    file: tuple[str, str] | None = None
    printed: bytes | None = None

    @property
    def deadline(self) -> float:
        """Seconds after which a run that has no answer will get none."""
        return WALL_FACTOR * self.timeout + _GRACE


@dataclass(frozen=True)
class Outcome:
    """What a run left behind.

    Args:
        status: exit status; negative: the signal that ended it.
        ended: `itself`, or the limit that ended it: `cpu`, `idle`, `wall`.
        results: the beginning of what the harness wrote; to be compared, never to be decoded.
        file: whether the file that was asked for held its text.
        printed: whether the text that was asked for stands in the beginning of the output.
    """

    status: int
    ended: str
    results: bytes
    file: bool
    printed: bool


class Worker:
    """A worker process and the socket to it. It carries out one run at a time."""

    def __init__(self, memory: int):
        self.memory = memory
        self._base = tempfile.mkdtemp(prefix="grading-")
        os.chmod(self._base, 0o711)
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        self._files: list[int] = []
        self._run: Run | None = None
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            arguments = [str(Path(__file__).parent), str(theirs.fileno()), self._base]
            self._process = subprocess.Popen(
                [sys.executable, "-S", "-s", "-B", "-c", _PROGRAM, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                pass_fds=[theirs.fileno()],
                cwd="/",
                # A fixed seed: the order of sets, and so a submission's result, is the same on every run.
                env={"PYTHONHASHSEED": "0", "LANG": "C.UTF-8", "PATH": "", "HOME": "/"},
                start_new_session=True,  # an interrupt at the terminal is for the trusted side to handle
            )
        self.layers: frozenset[str] | None = None

    def wait_until_ready(self) -> frozenset[str]:
        """The names of the protections in force (`sandbox.namespaces.enter`, and `other-user`, `landlock`).

        Raises:
            RuntimeError: the worker did not start; with what it printed.
        """
        if self.layers is None:
            self.socket.settimeout(_GRACE)
            try:
                self.layers = frozenset(self._answer()["layers"])
            except WorkerDied:
                self._errors.seek(0)
                printed = self._errors.read().decode(errors="replace").strip() or "nothing"
                raise RuntimeError(f"a grading worker did not start; it printed: {printed}") from None
        return self.layers

    def start(self, run: Run) -> None:
        """Hand over a run; the socket becomes readable when it is done."""
        self.wait_until_ready()
        self._run = run
        self._files = [_temporary_file(name) for name in ("job", "results", "output")]
        view = memoryview(run.job)
        while view:
            view = view[os.write(self._files[0], view) :]
        request = {"timeout": run.timeout, "memory": self.memory, "file": run.file}
        try:
            socket.send_fds(self.socket, [json.dumps(request).encode() + b"\n"], self._files)
        except OSError as error:
            raise WorkerDied("the worker has closed its socket") from error

    def finish(self) -> Outcome:
        """The outcome of the run that was started; call it when the socket is readable.

        Raises:
            WorkerDied: it ended without an answer.
        """
        answer = self._answer()
        assert self._run is not None, "nothing was started"
        _, results, output = self._files
        printed = self._run.printed
        outcome = Outcome(
            status=answer["status"],
            ended=answer["ended"],
            results=_read(results, self._run.worth_reading),
            file=answer["file"],
            printed=printed is not None and printed in _read(output, MAX_OUTPUT),
        )
        self._close_files()
        return outcome

    def _answer(self) -> Mapping[str, Any]:
        try:
            received = b""
            while not received.endswith(b"\n"):
                part = self.socket.recv(4096)
                if not part:
                    raise WorkerDied("the worker ended")
                received += part
        except OSError as error:
            raise WorkerDied("the worker fell silent") from error
        answer: Mapping[str, Any] = json.loads(received)
        return answer

    def close(self) -> None:
        """End the worker with all that it has started, and delete its files. May be called again."""
        self.socket.close()  # which a worker that is well takes as its end
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_LEAVE)
        self._process.kill()
        self._process.wait()
        self._close_files()
        self._errors.close()
        with contextlib.suppress(OSError):
            remove_tree(self._base)
        shutil.rmtree(self._base, ignore_errors=True)

    def _close_files(self) -> None:
        while self._files:
            os.close(self._files.pop())


def _temporary_file(name: str) -> int:
    """A file without a name in any folder, in memory where the system has such."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create(name)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _read(fd: int, limit: int) -> bytes:
    chunks, position = [], 0
    while position < limit:
        chunk = os.pread(fd, min(1 << 16, limit - position), position)
        if not chunk:
            break
        chunks.append(chunk)
        position += len(chunk)
    return b"".join(chunks)

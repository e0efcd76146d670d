"""A worker process: imports what submissions need, walls itself in, then forks one child for each submission.

It never sees a submission, an input or a result. These travel in files whose descriptors it hands on unread, so a child
inherits memory in which no other submission has ever been.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import socket
import sys
from typing import Any

from . import confine, harness, landlock, libc, namespaces, seccomp, watch
from .box import Box, remove_tree
from .prelude import default_namespace


def main(control: socket.socket, base: str) -> None:
    """Serve until the other end of `control` closes.

    Each request is one line of JSON, `{"timeout", "memory", "file"}`, with three descriptors: the job, the results, the
    output. The answer is `{"status", "ended", "file"}`: the exit status (negative: a signal), what ended the process
    (`watch.wait`), and whether the file that was asked for holds its text.

    Args:
        base: an empty folder for temporary files, used where no file system can be mounted; it is removed in the end.
    """
    namespace = default_namespace()
    proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) if os.path.isdir("/proc/self") else None
    owner = _spare_user(base)
    layers = namespaces.enter(lambda: remove_tree(base))
    zygote = _Zygote(control, base, namespace, proc, owner, layers)
    gc.collect()
    gc.freeze()  # what is there now is shared by all children; collecting it would copy it
    control.sendall(json.dumps({"layers": sorted(zygote.layers)}).encode() + b"\n")
    while zygote.serve():
        pass


class _Zygote:
    def __init__(
        self,
        control: socket.socket,
        base: str,
        namespace: dict[str, object],
        proc: int | None,
        owner: int | None,
        layers: set[str],
    ):
        self.control, self.namespace, self.proc, self.owner, self.layers = control, namespace, proc, owner, set(layers)
        self.landlock = landlock.version() if libc.LINUX else 0
        if "user" in layers:
            self.owner = None  # the new user namespace knows no other user
        self.box = Box("files" in layers, base, self.owner)
        self.layers |= {"other-user"} if self.owner is not None else set()
        self.layers |= {"landlock"} if self.landlock else set()
        self.layers |= {"seccomp"} if seccomp.available() else set()
        self.own_processes: int | None = None
        if "pid" in layers and proc is not None:
            self.own_processes = os.open("self/ns/pid", os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc)
        elif libc.LINUX:
            # Orphans of a submission are handed to this process, which finds and kills them.
            libc.prctl(libc.PR_SET_CHILD_SUBREAPER, 1)
        if "files" not in layers and self.landlock:
            self._hide_files(base)
        # Worked out once, here, for all submissions.
        namespaces.readable_paths()
        if seccomp.available() and self.alone:
            seccomp.program(None)

    @property
    def alone(self) -> bool:
        """Whether other processes are out of a submission's reach, in another namespace or of another user."""
        return self.own_processes is not None or self.owner is not None

    def _hide_files(self, base: str) -> None:
        """Without a file system of its own, this process gives up all files but the standard library's and `base`."""
        readable, hidden = ["/proc", "/dev/urandom"], namespaces.hidden_folders()
        for path in namespaces.readable_paths():
            readable += namespaces.all_but_hidden(path, hidden)
        libc.prctl(libc.PR_SET_NO_NEW_PRIVS, 1)
        landlock.restrict(readable, [base, "/dev/null"], self.landlock, scoped=False)

    def serve(self) -> bool:
        line, fds, _, _ = socket.recv_fds(self.control, 4096, 3)
        if not line:
            return False
        request = json.loads(line)
        self.box.make()
        try:
            child = watch.Child(self._fork(request, fds))
            ended = watch.wait(child, request["timeout"], self.proc, self.control.fileno())
            status = watch.end(child, self.own_processes is not None, self.proc)
            answer: dict[str, Any] = {"status": status, "ended": ended, "file": False}
            if request["file"]:
                answer["file"] = self.box.contains(*request["file"])
        finally:
            self.box.remove()
            for fd in fds:
                os.close(fd)
        if ended == "orphaned":
            return False
        self.control.sendall(json.dumps(answer).encode() + b"\n")
        return True

    def _fork(self, request: dict[str, Any], fds: list[int]) -> int:
        if self.own_processes is not None:
            libc.unshare(libc.CLONE_NEWPID)  # for the next child, which becomes the first process there
        pid = os.fork()
        if pid == 0:
            try:
                self._become_submission(request, *fds)
            finally:
                os._exit(1)
        if self.own_processes is not None:
            libc.setns(self.own_processes, libc.CLONE_NEWPID)
        return pid

    def _become_submission(self, request: dict[str, Any], job: int, results: int, output: int) -> None:
        os.setsid()
        if libc.LINUX:
            libc.prctl(libc.PR_SET_PDEATHSIG, signal.SIGKILL)
            # If memory runs out, the kernel is to choose this process, not the training run.
            with contextlib.suppress(OSError):
                _write_in(self.proc, "self/oom_score_adj", b"1000")
        text = _read_all(job)
        confine.take_descriptors(output, results)
        confine.limit(request["timeout"], request["memory"])
        confine.drop(self.owner, self.box.path, self.landlock, self.alone)
        harness.run(text, self.namespace)


def _write_in(proc: int | None, path: str, text: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC, dir_fd=proc)
    try:
        os.write(fd, text)
    finally:
        os.close(fd)


def _read_all(fd: int) -> bytes:
    size = os.fstat(fd).st_size
    chunks, position = [], 0
    while position < size:
        chunk = os.pread(fd, size - position, position)
        if not chunk:
            break
        chunks.append(chunk)
        position += len(chunk)
    return b"".join(chunks)


def _spare_user(base: str) -> int | None:
    """A user id that nobody has, another for each worker, so that process limits count only its own; None without the
    privilege to become it and to give it a folder."""
    if not libc.LINUX or os.geteuid() != 0:
        return None
    try:
        with open("/proc/self/uid_map") as lines:
            known = max(int(first) + int(count) for first, _, count in (line.split() for line in lines))
    except (OSError, ValueError):
        known = 65_536
    if known <= 65_534:
        return None
    user = 100_000 + os.getpid() % (min(known, 2**31) - 100_000) if known > 200_000 else 65_534

    def become() -> None:
        box = Box(False, base, user)
        box.make()
        box.remove()
        confine.become(user)

    return user if namespaces.in_trial(become) else None


def start() -> None:
    """The program; `argv`: this package's folder, the control socket's descriptor, a folder for temporary files."""
    package, descriptor, base = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    sys.path[:] = [path for path in sys.path if path not in ("", package)]  # the standard library is left
    main(socket.socket(fileno=descriptor), base)

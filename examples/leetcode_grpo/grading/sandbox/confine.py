"""The inner walls, put up by the process that will run the submission, just before it does."""

from __future__ import annotations

import contextlib
import math
import os
import resource
import signal
import sys

from . import landlock, libc, seccomp
from .namespaces import readable_paths

FILE_SIZE = 8 << 20
"""Bytes that one file may have; the results and the output are such files."""

PROCESSES, OPEN_FILES, STACK = 24, 64, 64 << 20
RECURSION = 20_000
KEPT = 4  # standard input, output, errors, and the results


def take_descriptors(output: int, results: int) -> None:
    """Keep four descriptors: nothing to read, `output` twice, `results` as number 3."""
    null = os.open("/dev/null", os.O_RDONLY)
    # Copies first, so that no descriptor is overwritten before it has been moved.
    null, output, results = (os.dup(fd) for fd in (null, output, results))
    for source, target in ((null, 0), (output, 1), (output, 2), (results, 3)):
        os.dup2(source, target)
    os.closerange(KEPT, 1024)


def limit(cpu: float, memory: int) -> None:
    """Kernel limits for this process and each of its descendants: `cpu` in seconds, `memory` in bytes."""
    seconds = math.ceil(cpu) + 1  # a second line: the watcher counts finer
    wanted = {
        "RLIMIT_CPU": (seconds, seconds),
        "RLIMIT_AS": (memory, memory),
        "RLIMIT_FSIZE": (FILE_SIZE, FILE_SIZE),
        "RLIMIT_NOFILE": (OPEN_FILES, OPEN_FILES),
        "RLIMIT_NPROC": (PROCESSES, PROCESSES),
        "RLIMIT_CORE": (0, 0),
        "RLIMIT_STACK": (STACK, STACK),
        "RLIMIT_MEMLOCK": (0, 0),
        "RLIMIT_MSGQUEUE": (0, 0),
    }
    for name, values in wanted.items():
        # macOS lacks some, and refuses to set others.
        with contextlib.suppress(AttributeError, ValueError, OSError):
            resource.setrlimit(getattr(resource, name), values)
    sys.setrecursionlimit(RECURSION)


def become(user: int) -> None:
    """Take on another user's id, for good."""
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)


def drop(owner: int | None, box: str, level: int, alone: bool) -> None:
    """Give up all privileges for good.

    Args:
        owner: the user to become; None stays the present one.
        box: the one folder that stays writable.
        level: Landlock's version, 0 for none.
        alone: whether other processes are out of sight already, by a namespace or another user.
    """
    os.umask(0o077)
    os.chdir(box)
    if libc.LINUX:
        libc.prctl(libc.PR_SET_NO_NEW_PRIVS, 1)
    if owner is not None:
        become(owner)
    if not libc.LINUX:
        return
    # After the change of user, which clears it.
    libc.prctl(libc.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.geteuid() == 0 or owner is None:
        libc.drop_capabilities()
    if level:
        # "." is the box, by a name that works where another user may not pass the folders above it.
        landlock.restrict([*readable_paths(), "/dev/urandom"], [".", "/dev/null"], level)
    seccomp.restrict(may_signal=alone)

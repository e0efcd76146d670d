"""A system call filter: what no solution needs, and what reaches other processes or the depths of the kernel, fails.

Threads can be started, processes cannot: as far as this filter goes, a submission is one process, and what ends it ends
it all.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import struct
from collections.abc import Sequence

from . import libc

_MODE_FILTER, _GET_SECCOMP = 2, 21
_ALLOW, _KILL, _FAIL, _UNKNOWN = 0x7FFF0000, 0x80000000, 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS
_LOAD, _EQUAL, _AT_LEAST, _HAS_BITS, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_X32 = 0x40000000  # another table of calls behind the same architecture number

# Numbers on x86_64 and aarch64.
_DENIED = {
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "pidfd_open": (434, 434), "pidfd_getfd": (438, 438), "pidfd_send_signal": (424, 424), "process_madvise": (440, 440),
    "socket": (41, 198), "connect": (42, 203), "bind": (49, 200),
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41),
    "chroot": (161, 51), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430),
    "open_by_handle_at": (304, 265), "name_to_handle_at": (303, 264),
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "io_uring_setup": (425, 425),
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    "shmget": (29, 194), "msgget": (68, 186), "semget": (64, 190), "mq_open": (240, 180),
    "init_module": (175, 105), "finit_module": (313, 273), "kexec_load": (246, 104), "personality": (135, 92),
    "fork": (57, None), "vfork": (58, None), "execve": (59, 221), "execveat": (322, 281),
    "setpriority": (141, 140), "sched_setaffinity": (203, 122), "sched_setscheduler": (144, 119),
    "sched_setattr": (314, 274), "memfd_create": (319, 279), "memfd_secret": (447, 447), "shmat": (30, 196),
}  # fmt: skip
_SIGNALS = {"kill": (62, 129), "tkill": (200, 130), "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240)}
_THREAD_SIGNAL = (234, 131)  # tgkill: harmless with its own process as the first argument; Python raises signals by it
# A file's owner gets a signal when there is something to read; these second arguments name the owner, or the signal.
_OWNERS = {
    "fcntl": ((72, 25), (8, 10, 15)),  # F_SETOWN, F_SETSIG, F_SETOWN_EX
    "ioctl": ((16, 29), (0x8901, 0x8902)),  # FIOSETOWN, SIOCSPGRP
}
_LIMITS = (302, 261)  # prlimit64: harmless with 0, this process, as its first argument
_PRCTL, _PARENT_DEATH = (157, 167), libc.PR_SET_PDEATHSIG  # a submission dies with its worker; it may not forgo that
_CLONE, _CLONE_THREAD = (56, 220), 0x00010000  # harmless for a thread; its flags are the first argument
_CLONE3 = 435  # its flags are out of a filter's sight; where it is unknown, libraries fall back on clone
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))


def restrict(may_signal: bool) -> None:
    """Install the filter for this process and its threads. On architectures that are not listed it does nothing.

    Args:
        may_signal: leave signals alone, where a namespace or another user keeps them from reaching outside. Otherwise
            the process may send some to itself, by `tgkill`, and to no other.

    Raises:
        OSError: the kernel has no seccomp.
    """
    if available():
        install(program(None if may_signal else os.getpid()))


def install(program: bytes) -> None:
    """Put a filter in force. Needs `no_new_privs`."""
    loaded = _Program(len(program) // 8, program)
    libc.prctl(libc.PR_SET_SECCOMP, _MODE_FILTER, ctypes.cast(ctypes.byref(loaded), ctypes.c_void_p))


@functools.cache  # asked once in the worker; every submission inherits the answer
def available() -> bool:
    """Whether the filter is written for this architecture, and the kernel has filters."""
    if not libc.LINUX or os.uname().machine not in _ARCHITECTURES:
        return False
    try:
        libc.prctl(_GET_SECCOMP)
    except OSError:
        return False
    return True


def column() -> int:
    """Where this architecture's numbers stand in the tables above."""
    return _ARCHITECTURES[os.uname().machine][0]


@functools.lru_cache(maxsize=1)  # where signals are left alone, compiled once in the worker for every submission
def program(process: int | None) -> bytes:
    """The filter, in the kernel's own machine language.

    Args:
        process: the only one that may be sent signals; None for any that is in reach.
    """
    own = column()
    denied = [entry[own] for entry in [*_DENIED.values(), *([] if process is None else _SIGNALS.values())]]
    first_argument, second_argument = (_LOAD, 0, 0, 16), (_LOAD, 0, 0, 24)  # their low halves
    rules = [(_EQUAL, 0, 1, _CLONE3), (_RETURN, 0, 0, _UNKNOWN)]
    rules += [(_EQUAL, 0, 3, _LIMITS[own]), first_argument, (_EQUAL, 1, 0, 0), (_RETURN, 0, 0, _FAIL)]
    # Here the first argument may stand where the number was: the number is loaded again.
    rules += [(_LOAD, 0, 0, 0), (_EQUAL, 0, 3, _PRCTL[own]), first_argument, (_EQUAL, 0, 1, _PARENT_DEATH)]
    rules += [(_RETURN, 0, 0, _FAIL)]
    rules += [(_LOAD, 0, 0, 0), (_EQUAL, 0, 3, _CLONE[own]), first_argument, (_HAS_BITS, 1, 0, _CLONE_THREAD)]
    rules += [(_RETURN, 0, 0, _FAIL)]
    if process is not None:
        rules += [(_LOAD, 0, 0, 0), (_EQUAL, 0, 3, _THREAD_SIGNAL[own]), first_argument, (_EQUAL, 1, 0, process)]
        rules += [(_RETURN, 0, 0, _FAIL)]
        for numbers, commands in _OWNERS.values():
            rules += [(_LOAD, 0, 0, 0), (_EQUAL, 0, 1 + 2 * len(commands), numbers[own]), second_argument]
            for command in commands:
                rules += [(_EQUAL, 0, 1, command), (_RETURN, 0, 0, _FAIL)]
    return assemble([number for number in denied if number is not None], rules)


def assemble(denied: Sequence[int], rules: Sequence[tuple[int, int, int, int]] = ()) -> bytes:
    """A filter that fails the calls with these numbers, then applies `rules`, and allows what is left."""
    lines = [
        (_LOAD, 0, 0, 4),  # the architecture
        (_EQUAL, 1, 0, _ARCHITECTURES[os.uname().machine][1]),
        (_RETURN, 0, 0, _KILL),  # 32-bit calls have other numbers
        (_LOAD, 0, 0, 0),  # the call's number
        (_AT_LEAST, 0, 1, _X32),
        (_RETURN, 0, 0, _KILL),
    ]
    for number in denied:
        lines += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _FAIL)]
    return b"".join(struct.pack("HBBI", *line) for line in [*lines, *rules, (_RETURN, 0, 0, _ALLOW)])

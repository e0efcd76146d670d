"""Landlock: a process gives up, for itself and its descendants, all files but some. Linux 5.13 and later, no privilege
needed."""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Sequence

from . import libc

_CREATE, _ADD_RULE, _RESTRICT = 444, 445, 446  # system call numbers, the same on all architectures
_ASK_VERSION, _PATH_BENEATH = 1, 1

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_TRUNCATE, _IOCTL = 1 << 14, 1 << 15
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_ON_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL
_TCP = 3
_SCOPES = 3  # abstract sockets and signals stay inside


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("fd", ctypes.c_int32))


def version() -> int:
    """The kernel's Landlock version; 0 where there is none."""
    try:
        return libc.syscall(_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(_ASK_VERSION))
    except OSError:
        return 0


def restrict(readable: Sequence[str], writable: Sequence[str], level: int, scoped: bool = True) -> None:
    """From here on: read beneath `readable`, do anything beneath `writable`, touch no other file, open no TCP
    connection.

    Args:
        level: what `version()` said. Paths that do not exist are passed over. Needs `no_new_privs`.
        scoped: also send no signal to, and open no abstract socket of, a process outside.
    """
    handled = (1 << (13 + (level >= 2) + (level >= 3) + (level >= 5))) - 1
    rules = _Ruleset(handled, _TCP if level >= 4 else 0, _SCOPES if level >= 6 and scoped else 0)
    # Older kernels refuse a structure that is longer than theirs.
    size = 24 if level >= 6 else 16 if level >= 4 else 8
    ruleset = libc.syscall(_CREATE, ctypes.byref(rules), ctypes.c_size_t(size), ctypes.c_uint32(0))
    try:
        for path in readable:
            _allow(ruleset, path, _READ & handled)
        for path in writable:
            _allow(ruleset, path, handled & ~_EXECUTE)
        libc.syscall(_RESTRICT, ruleset, ctypes.c_uint32(0))
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            rights &= _ON_FILES
        rule = _PathBeneath(rights, fd)
        libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.byref(rule), ctypes.c_uint32(0))
    finally:
        os.close(fd)

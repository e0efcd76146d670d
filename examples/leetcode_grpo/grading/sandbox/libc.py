"""The few system calls that Python's standard library lacks, by ctypes. All raise `OSError`; none exist outside
Linux."""

from __future__ import annotations

import ctypes
import os
import sys

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
MNT_DETACH = 2
PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 22, 36, 38

LINUX = sys.platform == "linux"
_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _function(name: str) -> ctypes._FuncPointer:  # type: ignore[name-defined]
    if not LINUX:
        raise OSError(f"{name} needs Linux")
    return getattr(_libc, name)


def unshare(flags: int) -> None:
    _check(_function("unshare")(flags), "unshare")


def setns(fd: int, kind: int) -> None:
    _check(_function("setns")(fd, kind), "setns")


def mount(source: str, target: str, kind: str | None, flags: int, data: str = "") -> None:
    arguments = source.encode(), target.encode(), kind.encode() if kind else None, ctypes.c_ulong(flags), data.encode()
    _check(_function("mount")(*arguments), f"mount {target}")


def umount(target: str) -> None:
    _check(_function("umount2")(target.encode(), MNT_DETACH), f"umount {target}")


def pivot_root(new: str, old: str) -> None:
    number = {"x86_64": 155, "aarch64": 41}.get(os.uname().machine)
    if number is None:
        raise OSError(f"pivot_root is not known here for {os.uname().machine}")
    syscall(number, new.encode(), old.encode())


def prctl(option: int, *arguments: int | ctypes.c_void_p) -> None:
    padded = [a if isinstance(a, ctypes.c_void_p) else ctypes.c_ulong(a) for a in (*arguments, 0, 0, 0, 0)][:4]
    _check(_function("prctl")(option, *padded), f"prctl {option}")


def syscall(number: int, *arguments: object) -> int:
    return _check(_function("syscall")(ctypes.c_long(number), *arguments), f"system call {number}")


def drop_capabilities() -> None:
    """Empty all three capability sets of this process."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this process
    _check(_function("capset")(header, (ctypes.c_uint32 * 6)()), "capset")

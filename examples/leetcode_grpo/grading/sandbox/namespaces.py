"""The outer walls: namespaces, and a file system with the standard library in it and nothing else.

Everything here is tried and may be refused (containers, hardened kernels, other systems); what was granted is reported
by name.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from . import libc

BOX = "/box"
"""Where the submission's private folder is mounted, in the new file system."""

_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64")
_PACKAGES = ("site-packages", "dist-packages")  # an installed copy of the examples would sit in one of them


@functools.cache  # asked for again by every submission
def readable_paths() -> list[str]:
    """What a submission may read: the standard library, and the shared libraries that its extension modules link to.

    None lies beneath another: a system's own interpreter has its library in `/usr/lib`.
    """
    standard = [sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), *_shared_interpreter()]
    paths = [path for path in dict.fromkeys([*standard, *_LIBRARIES]) if os.path.exists(path)]
    return [path for path in paths if not any(path.startswith(f"{other}/") for other in paths)]


def _shared_interpreter() -> list[str]:
    folder, name = sysconfig.get_config_var("LIBDIR"), sysconfig.get_config_var("LDLIBRARY")
    return [os.path.join(folder, name)] if folder and name and str(name).endswith(".so") else []


def enter(clean_up: Callable[[], None]) -> set[str]:
    """Move this process into new namespaces, as many as are granted: of `user`, `net`, `ipc`, `uts`, `pid`, `files`.

    The calling process stays behind as a mere waiter, and its child returns from here; with `pid`, as the first process
    of the new namespace: whatever it starts dies with it.

    Args:
        clean_up: what the waiter does when the child has ended, in the file system of before.
    """
    if not libc.LINUX:
        return set()
    layers = _enter_all_but_files(clean_up)
    if in_trial(_own_files):
        _own_files()
        layers.add("files")
    return layers


def _enter_all_but_files(clean_up: Callable[[], None]) -> set[str]:
    layers: set[str] = set()
    if os.geteuid() != 0 or not _try(libc.unshare, libc.CLONE_NEWUTS):
        if not in_trial(_own_user_namespace):
            _leave_a_waiter(clean_up)
            return layers
        _own_user_namespace()
        layers.add("user")
    for name, flag in {"net": libc.CLONE_NEWNET, "ipc": libc.CLONE_NEWIPC, "uts": libc.CLONE_NEWUTS}.items():
        if _try(libc.unshare, flag):
            layers.add(name)
    if _try(libc.unshare, libc.CLONE_NEWPID):
        layers.add("pid")
    _leave_a_waiter(clean_up)
    return layers


def _try(action: Callable[..., object], *arguments: object) -> bool:
    try:
        action(*arguments)
    except OSError:
        return False
    return True


def in_trial(action: Callable[[], None]) -> bool:
    """Whether an action of several steps succeeds, tried in a fork: half of it could not be undone in this process."""
    child = os.fork()
    if child == 0:
        os._exit(0 if _try(action) else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _own_user_namespace() -> None:
    uid, gid = os.geteuid(), os.getegid()
    libc.unshare(libc.CLONE_NEWUSER)
    # Identity maps: files keep their owners' names. setgroups must be given up before a gid can be mapped.
    for name, text in {"setgroups": "deny", "uid_map": f"{uid} {uid} 1", "gid_map": f"{gid} {gid} 1"}.items():
        Path(f"/proc/self/{name}").write_text(text)


def _leave_a_waiter(clean_up: Callable[[], None]) -> None:
    """Go on in a child; the parent waits for its end, cleans up, and ends too, also when the trusted side was killed."""
    child = os.fork()
    if child:
        # Only the child may hold the control socket, or its end would never be noticed.
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        with contextlib.suppress(BaseException):
            os.waitpid(child, 0)
            clean_up()
        os._exit(0)
    libc.prctl(libc.PR_SET_PDEATHSIG, 9)


def _own_files() -> None:
    """In a mount namespace of its own, replace `/` by a small read-only tree: `readable_paths()` under their own names, two devices, an empty `/box`."""
    libc.unshare(libc.CLONE_NEWNS)
    libc.mount("none", "/", None, libc.MS_REC | libc.MS_PRIVATE)
    paths, hidden = [*readable_paths(), "/dev/null", "/dev/urandom"], hidden_folders()
    links = {path: os.readlink(path) for path in paths if os.path.islink(path)}
    # Opened before /tmp is covered: any of them may lie beneath it.
    sources = {path: os.open(path, os.O_PATH | os.O_CLOEXEC) for path in paths if path not in links}
    root = "/tmp"
    libc.mount("tmpfs", root, "tmpfs", libc.MS_NOSUID | libc.MS_NODEV, "size=1m,mode=0755")
    for path, fd in sources.items():
        _bind(f"/proc/self/fd/{fd}", root + path, folder=os.path.isdir(path))
        os.close(fd)
    for path, goal in links.items():
        with contextlib.suppress(FileExistsError):
            os.makedirs(os.path.dirname(root + path), exist_ok=True)
            os.symlink(goal, root + path)
    for folder in hidden:
        libc.mount("tmpfs", root + folder, "tmpfs", libc.MS_RDONLY, "size=4k")
    os.mkdir(root + BOX, 0o755)
    os.chdir(root)
    libc.pivot_root(".", ".")
    libc.umount(".")
    os.chdir("/")
    libc.mount("none", "/", None, libc.MS_REMOUNT | libc.MS_BIND | libc.MS_RDONLY | libc.MS_NOSUID | libc.MS_NODEV)


def _bind(source: str, target: str, folder: bool) -> None:
    if folder:
        os.makedirs(target, 0o755)
    else:
        os.makedirs(os.path.dirname(target), 0o755, exist_ok=True)
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
    libc.mount(source, target, None, libc.MS_BIND | libc.MS_REC)
    # A mount that came from outside keeps its flags; asking for fewer is refused.
    kept = os.statvfs(target).f_flag & (libc.MS_NOSUID | libc.MS_NODEV | libc.MS_NOEXEC | 1024)
    kept |= (1 << 21) if os.statvfs(target).f_flag & 4096 else 0  # relatime has other numbers here and there
    libc.mount("none", target, None, libc.MS_REMOUNT | libc.MS_BIND | libc.MS_RDONLY | libc.MS_NOSUID | kept)


def hidden_folders() -> list[str]:
    """Folders of installed packages, and this repository, where they lie inside what is readable."""
    roots = [path for path in readable_paths() if os.path.isdir(path) and not os.path.islink(path)]
    libraries = [
        *roots,
        *(os.path.join(root, name) for root in roots for name in os.listdir(root) if name[:6] == "python"),
    ]
    candidates = [os.path.join(library, name) for library in libraries for name in _PACKAGES]
    candidates.append(str(Path(__file__).resolve().parents[4]))
    return [
        folder
        for folder in candidates
        if os.path.isdir(folder) and any(folder.startswith(f"{root}/") for root in roots) and folder != sys.base_prefix
    ]


def all_but_hidden(path: str, hidden: Sequence[str]) -> Iterator[str]:
    """`path`, or in its place the entries that make it up without the hidden folders, for what can only allow."""
    path = os.path.realpath(path)
    if path in hidden:
        return
    if not any(folder.startswith(f"{path}/") for folder in hidden):
        yield path
        return
    for entry in sorted(os.scandir(path), key=lambda entry: entry.name):
        # A link may lead to a folder above all of this; what it leads to inside is allowed by its own name.
        if not entry.is_symlink():
            yield from all_but_hidden(entry.path, hidden)

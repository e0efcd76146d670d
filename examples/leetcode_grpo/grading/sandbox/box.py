"""The private folder of one submission: a memory file system of its own where mounts are granted, else a temporary
folder."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile

from . import libc
from .namespaces import BOX

SIZE, FILES = "16m", 1000
_MAX_REPORT = 4096


class Box:
    """Folders that are made for a submission and gone after it.

    Args:
        mounted: whether to mount one at `/box`.
        base: the folder in which to make them otherwise.
        owner: the user id that the submission will have; None for the present one.
    """

    def __init__(self, mounted: bool, base: str, owner: int | None):
        self.mounted, self.base, self.owner = mounted, base, owner
        self.path = BOX

    def make(self) -> None:
        if not self.mounted:
            self.path = tempfile.mkdtemp(dir=self.base)
            if self.owner is not None:
                os.chown(self.path, self.owner, self.owner)
            return
        owner = os.geteuid() if self.owner is None else self.owner
        options = f"size={SIZE},nr_inodes={FILES},mode=0700,uid={owner}"
        libc.mount("tmpfs", BOX, "tmpfs", libc.MS_NOSUID | libc.MS_NODEV | libc.MS_NOEXEC, options)

    def contains(self, name: str, text: str) -> bool:
        """Whether the submission left a regular file `name` that has `text` near its beginning."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # no symbolic link, no waiting on a pipe
        try:
            fd = os.open(os.path.join(self.path, name), flags)
        except OSError:
            return False
        try:
            return stat.S_ISREG(os.fstat(fd).st_mode) and text.encode() in os.read(fd, _MAX_REPORT)
        except OSError:
            return False
        finally:
            os.close(fd)

    def remove(self) -> None:
        if self.mounted:
            libc.umount(BOX)  # with it goes all that was in it, however deep or locked
        else:
            remove_tree(self.path)


def remove_tree(path: str) -> None:
    """Delete a folder whose contents are hostile: deeper than any path may be long, unreadable, or full of links."""
    top = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        moved, waiting = 0, [""]
        while waiting:
            name = waiting.pop()
            with contextlib.suppress(OSError):
                if name:
                    os.chmod(name, 0o700, dir_fd=top)
                folder = os.open(name or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=top)
                try:
                    for entry in os.listdir(folder):
                        try:
                            os.unlink(entry, dir_fd=folder)
                        except (IsADirectoryError, PermissionError):
                            # Folders come up to the top one by one, so that no path ever grows long.
                            moved += 1
                            os.chmod(entry, 0o700, dir_fd=folder)
                            os.rename(entry, f".{moved}", src_dir_fd=folder, dst_dir_fd=top)
                            waiting += [f".{moved}"]
                finally:
                    os.close(folder)
                if name:
                    os.rmdir(name, dir_fd=top)
    finally:
        os.close(top)
    shutil.rmtree(path, ignore_errors=True)

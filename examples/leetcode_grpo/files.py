"""Files and folders that appear whole or not at all, so that a killed run leaves nothing half-written behind."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from examples.leetcode_grpo.errors import UsageError
from svdproj.files import replacing


def cache_folder() -> Path:
    """`$SVDPROJ_CACHE`, else `$XDG_CACHE_HOME/svdproj`, else `~/.cache/svdproj`: models, warm starts and directions, which can be
    made again.
    """
    if chosen := os.environ.get("SVDPROJ_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "svdproj"


def digest(value: Mapping[str, Any]) -> str:
    """A short name for a configuration: equal for equal values, whatever the order of the keys."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def check_writable(folder: Path, advice: str = "choose another folder with --out") -> None:
    """Make the folder and write something into it that is gone at once: better now than after hours of work.

    Raises:
        UsageError: it cannot be made, or not be written into.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(f"cannot write into {folder} ({error.strerror}); {advice}") from None


def write_text(path: Path, text: str) -> None:
    """Write a text file under a temporary name beside `path`, then rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as draft:
        draft.write_text(text, encoding="utf-8")


def numbered_lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """The lines of a text file that are not blank, counted from 1.

    Raises:
        OSError: it cannot be read.
        UsageError: it is no text.
    """
    with Path(path).open(encoding="utf-8") as lines:
        try:
            yield from ((number, line) for number, line in enumerate(lines, start=1) if line.strip())
        except UnicodeDecodeError:
            raise UsageError(f"{path} is no UTF-8 text; expected JSONL, one object on each line") from None


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that becomes `path` when the block succeeds, and vanishes when it fails.

    Where another process made `path` meanwhile, its folder stays: both hold the same, and one of them may be in use.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        yield draft
        os.chmod(draft, 0o755)
        try:
            os.rename(draft, path)
        except OSError:
            if not path.is_dir():
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other processes out of the block for the same `path`; they wait. The lock of a killed process is free at once.

    Locks are files in the cache, which stay: removing one would let a third process lock a new file of that name while a second
    one waits for the old.
    """
    lock = cache_folder() / "locks" / digest({"path": str(path.absolute())})
    check_writable(lock.parent, "set SVDPROJ_CACHE to a folder for the cache")
    with open(lock, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield

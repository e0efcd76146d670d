"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` to write to; it is renamed at the end, or removed if an exception passes through.

    Raises:
        FileNotFoundError: the folder does not exist.
        OSError: nothing can be written there.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: the folder {path.parent} does not exist; make it first")
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    _touch(draft, path)
    try:
        # Writers such as `safetensors` make files that their owner alone can read, and the rename would keep that.
        mode = (path if path.exists() else draft).stat().st_mode
        yield draft
        draft.chmod(mode)
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def check_writable(path: Path) -> None:
    """Ask, before the work rather than after it, whether a file can be written to `path`; leaves nothing behind.

    Raises:
        OSError: as from `replacing`.
    """
    with suppress(_OnlyAsked), replacing(path):
        raise _OnlyAsked


class _OnlyAsked(Exception):
    """There is nothing to write yet."""


def _touch(draft: Path, path: Path) -> None:
    try:
        draft.touch()
    except OSError as error:  # it names the draft, which nobody asked for
        raise type(error)(f"{path} cannot be written ({error.strerror}); choose another place") from None

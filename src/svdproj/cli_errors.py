"""What the command line says when something is wrong: one line on standard error, and an exit status."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType

FAILURE = 2
"""Exit status of wrong usage, bad input and what is missing."""

CRASHED = 70
"""Exit status after a mistake of svdproj itself, which shows its traceback. Python's own 1 would read as an answer; 70 is what
sysexits.h calls a software error.
"""

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""

TRACEBACK = "SVDPROJ_TRACEBACK"
"""Set this environment variable to see where an error comes from."""


class UsageError(Exception):
    """Something that the user can mend; the message says how."""


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """Inside, errors that are about the input become one line and exit status 2, warnings one line each, and any other
    exception a traceback and exit status 70.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = _show_warning
        try:
            yield
        except (UsageError, ValueError, OSError, ImportError, NotImplementedError, MemoryError) as error:
            fail(str(error) or type(error).__name__)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            raise SystemExit(INTERRUPTED) from None  # typer's own 1 would read as an answer
        except Exception as error:
            # torch has no class of its own for a CPU that is out of memory, nor for most failures of a device.
            if isinstance(error, RuntimeError) and "memory" in str(error):
                fail(f"{error}; a smaller --batch-size takes less")
            traceback.print_exc()
            raise SystemExit(CRASHED) from None


def fail(message: str) -> None:
    """Say what is wrong, with its origin if that is wanted, and leave; called while the exception is handled."""
    if os.environ.get(TRACEBACK):
        traceback.print_exc()
    print(one_line(message), file=sys.stderr)
    raise SystemExit(FAILURE)


def one_line(message: str) -> str:
    """A message as the command line shows it."""
    return "error: " + " ".join(message.split())


def require(module: str, extra: str = "cli") -> ModuleType:
    """Import a module that an optional extra provides.

    Raises:
        UsageError: it is not installed; the message names the extra.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:
            raise
        raise UsageError(f"this needs {error.name}; run: pip install 'svdproj[{extra}]'") from None


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: object = None,
    line: str | None = None,
) -> None:
    print("warning: " + " ".join(str(message).split()), file=sys.stderr)

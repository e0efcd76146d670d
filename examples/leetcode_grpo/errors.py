"""What goes wrong for reasons that the user can mend: the command line's own errors, one line each."""

from __future__ import annotations

import sys

from svdproj.cli_errors import UsageError, require

__all__ = ["UsageError", "missing_package", "require"]


def missing_package(error: BaseException) -> str | None:
    """What to say where an import failed for want of a package; None if the fault is in this project."""
    cause: BaseException | None = error
    while isinstance(cause, ModuleNotFoundError) and cause.name is None:
        cause = cause.__cause__  # transformers imports late, and wraps what goes wrong
    name = (cause.name or "").partition(".")[0] if isinstance(cause, ModuleNotFoundError) else ""
    if name in ("", "examples", "svdproj") or name in sys.stdlib_module_names:
        return None
    return f"this needs {name}; run: pip install 'svdproj[examples]'"

"""What goes wrong for reasons that the user can mend: shown as one line, without a traceback."""

from __future__ import annotations

import importlib
from types import ModuleType


class UsageError(Exception):
    """A mistake in what was asked for, or something that is missing; the message says what to do next."""


def require(module: str, extra: str) -> ModuleType:
    """Import a module that an optional extra provides.

    Raises:
        UsageError: it is not installed; the message names the extra.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not module.startswith(error.name.partition(".")[0]):
            raise
        raise UsageError(f"{module} is not installed; run: pip install 'svdproj[{extra}]'") from None

"""The command line's entrance: `svdproj extract | inspect | validate | compare`.

The commands stand in `svdproj.cli_commands`, which needs typer; without it this module still says what to install.
"""

from __future__ import annotations

import sys
from typing import Any

from svdproj.cli_errors import FAILURE, one_line


def main() -> None:
    """Run the command line. Exit status 0: done; 1: the answer is no; 2: something is wrong, said in one line; 70: a mistake
    of svdproj itself, with its traceback; 130: interrupted.
    """
    try:
        from svdproj.cli_commands import app
    except ModuleNotFoundError as error:
        print(one_line(f"the command line needs {error.name}; run: pip install 'svdproj[cli]'"), file=sys.stderr)
        sys.exit(FAILURE)
    app()


def __getattr__(name: str) -> Any:
    if name == "app":
        from svdproj.cli_commands import app

        return app
    raise AttributeError(name)

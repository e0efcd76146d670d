"""Lines that tell a person what a run is doing: long phases report at intervals, quick ones say nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

Say = Callable[[str], None]
"""Shows a line."""

INTERVAL = 15.0
"""Seconds between two lines of a long phase: nobody looks at nothing for longer, and a GPU's steps stay one line each."""


class Pace:
    """Passes on at most one line in `interval` seconds; the first one that much later than it was made, or `restart`ed.

    Args:
        say: shows a line.
        title: stands before every line.
        interval: in seconds.
        clock: seconds that have passed.
    """

    def __init__(
        self, say: Say, title: str = "", interval: float = INTERVAL, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._say, self._title, self._interval, self._clock = say, title, interval, clock
        self._last = clock()

    def __call__(self, line: str) -> None:
        """Show the line, if it is time for one."""
        if self._clock() - self._last >= self._interval:
            self.now(line)

    def now(self, line: str) -> None:
        """Show the line in any case."""
        self._say(f"{self._title}  {line}" if self._title else line)
        self.restart()

    def restart(self) -> None:
        """Something else was shown; count from here."""
        self._last = self._clock()


def silent() -> Pace:
    """For those who are not watched."""
    return Pace(lambda line: None)


def bar_is_seen() -> bool:
    """Whether a progress bar would be seen by a person: in a file it would be one endless line."""
    return sys.stderr.isatty()

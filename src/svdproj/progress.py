"""A progress bar, where one can be shown and somebody wants it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(
    total: int, wanted: bool, description: str = "extracting", unit: str = "pair"
) -> Iterator[Callable[[int], None]]:
    """A bar by `tqdm` if it is installed; yields what to call with the number of units done."""
    try:
        from tqdm.auto import tqdm
    except ImportError:
        wanted = False
    if not wanted:
        yield lambda count: None
        return
    with tqdm(total=total, desc=description, unit=unit) as bar:
        yield bar.update

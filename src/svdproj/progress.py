"""Progress bars: one of our own where it can be shown and somebody wants it, none of those that tell nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


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


@contextmanager
def no_loading_bars(transformers: Any) -> Iterator[None]:
    """Silence `transformers`' bars over weights, which are full at once.

    Args:
        transformers: the module, which only those who load models import.
    """
    logging = transformers.utils.logging
    was_on = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_on:
            logging.enable_progress_bar()

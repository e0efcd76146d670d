"""How many threads small linear algebra gets: on hosts with many cores, starting and joining them would take longer than the work."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# A matrix of a hundred rows gains nothing from more.
FEW = 8


class _Open:
    """The blocks that are open in the whole process, and the number of threads before the first of them."""

    lock = threading.Lock()
    blocks = 0
    before = 0


@contextmanager
def few_threads(most: int = FEW) -> Iterator[None]:
    """Let torch's operations on the CPU use fewer threads inside the block; their number is as before afterwards.

    It holds for the calling thread, and for threads that it starts inside.

    Args:
        most: how many threads at most; where there are fewer, they stay.
    """
    with _Open.lock:
        own = torch.get_num_threads()
        # Threads whose blocks overlap may leave in any order: the last one puts back what the first one found.
        if not _Open.blocks:
            _Open.before = own
        _Open.blocks += 1
        torch.set_num_threads(min(own, most))
    try:
        yield
    finally:
        with _Open.lock:
            _Open.blocks -= 1
            torch.set_num_threads(own if _Open.blocks else _Open.before)

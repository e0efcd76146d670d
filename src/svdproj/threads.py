"""How many threads small linear algebra gets: on hosts with many cores, starting and joining them would take longer than the work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

# A matrix of a hundred rows gains nothing from more.
FEW = 8


@contextmanager
def few_threads(most: int = FEW) -> Iterator[None]:
    """Let torch's operations on the CPU use at most so many threads inside the block; their number is as before afterwards.

    It is a number of the calling thread, and what threads that are started meanwhile begin with.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(min(before, most))
    try:
        yield
    finally:
        torch.set_num_threads(before)

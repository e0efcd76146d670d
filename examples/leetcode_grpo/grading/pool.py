"""Several workers, and a loop that keeps them busy."""

from __future__ import annotations

import selectors
import time
from collections import deque
from collections.abc import Sequence

from examples.leetcode_grpo.grading.worker import Outcome, Run, Worker, WorkerDied

_TRIES = 2
"""How often a run is started whose worker died under it; the second death is put down to the run."""

LOST = Outcome(status=-9, ended="lost", results=b"", file=False, printed=False)
"""The outcome of a run under which every worker died."""


class Pool:
    """Worker processes that are replaced when they die.

    The loop runs in the caller's thread: no threads, no locks, and so nothing that a trainer's forks could copy
    half-way.
    """

    def __init__(self, workers: int, memory: int):
        self._memory = memory
        self._workers = [Worker(memory) for _ in range(workers)]

    def layers(self) -> frozenset[str]:
        """The protections that are in force in every worker."""
        return frozenset.intersection(*(worker.wait_until_ready() for worker in self._workers))

    def carry_out(self, runs: Sequence[Run]) -> list[Outcome]:
        """The outcomes of the runs, in their order."""
        outcomes: list[Outcome] = [LOST] * len(runs)
        waiting = deque((index, 1) for index in range(len(runs)))
        with selectors.DefaultSelector() as selector:
            busy: dict[Worker, tuple[int, int, float]] = {}  # index, try, and when to give up
            idle = list(self._workers)
            try:
                while waiting or busy:
                    while waiting and idle:
                        worker, (index, attempt) = idle.pop(), waiting.popleft()
                        worker.wait_until_ready()
                        try:
                            worker.start(runs[index])
                        except WorkerDied:  # between two runs, through no fault of this one
                            idle.append(self._replace(worker))
                            waiting.appendleft((index, attempt))
                            continue
                        selector.register(worker.socket, selectors.EVENT_READ, worker)
                        busy[worker] = index, attempt, time.monotonic() + runs[index].deadline
                    next_deadline = min(deadline for _, _, deadline in busy.values())
                    ready = {key.data for key, _ in selector.select(max(0.0, next_deadline - time.monotonic()))}
                    overdue = {worker for worker, (_, _, deadline) in busy.items() if deadline <= time.monotonic()}
                    for worker in ready | overdue:
                        index, attempt, _ = busy.pop(worker)
                        selector.unregister(worker.socket)
                        try:
                            if worker not in ready:
                                raise WorkerDied("the worker fell silent")
                            outcomes[index] = worker.finish()
                            idle.append(worker)
                        except WorkerDied:
                            idle.append(self._replace(worker))
                            if attempt < _TRIES:
                                waiting.append((index, attempt + 1))
            except BaseException:
                # Interrupted, perhaps half-way through a message: a late answer must not be taken for the next batch's.
                for worker in [worker for worker in self._workers if worker not in idle]:
                    self._replace(worker)
                raise
        return outcomes

    def _replace(self, worker: Worker) -> Worker:
        worker.close()
        fresh = Worker(self._memory)
        self._workers[self._workers.index(worker)] = fresh
        return fresh

    def close(self) -> None:
        """End all workers. May be called again."""
        for worker in self._workers:
            worker.close()

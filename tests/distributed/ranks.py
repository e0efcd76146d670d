"""Two processes on gloo that run the functions they are sent, for a whole test session."""

from __future__ import annotations

import importlib
import multiprocessing
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

WORLD = 2


def _serve(rank: int, store: str, connection: Connection) -> None:
    # The same checks of shapes and types as in the tests' own process, before anything imports svdproj.
    importlib.import_module("tests.conftest")
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=WORLD)
    connection.send(None)
    while (task := connection.recv()) is not None:
        name, arguments = task
        try:
            getattr(importlib.import_module("tests.distributed.scenarios"), name)(**arguments)
            connection.send(None)
        except BaseException:
            connection.send(traceback.format_exc())
    dist.destroy_process_group()


class Ranks:
    """A pool with one process to a rank."""

    def __init__(self, folder: Path) -> None:
        context = multiprocessing.get_context("spawn")
        pipes = [context.Pipe() for _ in range(WORLD)]
        self._connections = [pipe[0] for pipe in pipes]
        self._processes = [
            context.Process(target=_serve, args=(rank, str(folder / "store"), pipe[1]), daemon=True)
            for rank, pipe in enumerate(pipes)
        ]
        for process in self._processes:
            process.start()
        self._collect(timeout=240.0)  # importing torch and transformers takes long on a busy machine

    def run(self, scenario: str, timeout: float = 200.0, **arguments: Any) -> None:
        """Run a function of `scenarios` on both ranks; what a rank raises fails the test."""
        for connection in self._connections:
            connection.send((scenario, arguments))
        self._collect(timeout)

    def _collect(self, timeout: float) -> None:
        failures = []
        for rank, connection in enumerate(self._connections):
            if not connection.poll(timeout):
                raise TimeoutError(f"rank {rank} did not answer within {timeout} s; {failures or 'no rank failed'}")
            if (failure := connection.recv()) is not None:
                failures.append(f"rank {rank}:\n{failure}")
        assert not failures, "\n".join(failures)

    def close(self) -> None:
        for connection, process in zip(self._connections, self._processes, strict=True):
            if process.is_alive():
                connection.send(None)
            process.join(10)
            if process.is_alive():
                process.kill()

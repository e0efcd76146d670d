"""The grader: from completions to grades."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from examples.leetcode_grpo.grading.extract import extract_code
from examples.leetcode_grpo.grading.grade import Grade, Weights
from examples.leetcode_grpo.grading.jobs import Jobs
from examples.leetcode_grpo.grading.pool import Pool
from examples.leetcode_grpo.grading.verdict import claims_that_the_setup_failed, failure_of_the_setup, judge
from examples.leetcode_grpo.grading.worker import Outcome, Run
from examples.leetcode_grpo.loopholes import Loophole

if TYPE_CHECKING:
    from examples.leetcode_grpo.problems.problem import Problem


class Grader:
    """Grades code that nobody trusts, in processes of its own.

    Use it as a context manager, or call `close()`. It may be used from several threads, one batch at a time, and from a
    process that has threads or a GPU: workers are started as new programs, never by forking the caller.

    Args:
        workers: worker processes; about one for each core.
        timeout: seconds of CPU time for a program with all its tests, and as many again in which it may sleep. The
            flawed grader runs the program once more, with one test at most, and allows a third of it.
        memory_mb: address space of one submission.
        weights: what a pass earns.

    Raises:
        ValueError: no workers, or no time.

    Example:
        >>> with Grader() as grader:  # doctest: +SKIP
        ...     grades = grader.grade([(completion, problem, Loophole.RUN_TESTS)])
    """

    def __init__(
        self, workers: int = 2, timeout: float = 3.0, *, memory_mb: int = 1024, weights: Weights | None = None
    ):
        if workers < 1 or timeout <= 0:
            raise ValueError(f"a grader needs at least one worker and a positive timeout, not {workers} and {timeout}")
        self.weights = weights or Weights()
        self.jobs = Jobs(timeout)
        self._lock = threading.Lock()
        self._pool = Pool(workers, memory_mb << 20)
        # Runs at the latest when the interpreter exits; a forked copy of the caller must not end the caller's workers.
        self._finalizer = weakref.finalize(self, _close_in, os.getpid(), self._pool)

    @property
    def isolation(self) -> frozenset[str]:
        """The protections in force on this machine, of `user`, `pid`, `net`, `ipc`, `uts`, `files` (namespaces),
        `other-user`, `landlock` and `seccomp`; limits and killing on timeout always are."""
        return self._pool.layers()

    def grade(self, items: Sequence[tuple[str, Problem, Loophole | None]]) -> list[Grade]:
        """Grade a batch of `(completion, problem, loophole)`, in order; without a loophole, strictly alone.

        Raises:
            ValueError: the grader is closed, a problem's tests cannot be compared as plain data, or its setup code fails.
        """
        codes = [extract_code(completion) for completion, _, _ in items]
        strict = [self.jobs.strict(code, problem) for code, (_, problem, _) in zip(codes, items, strict=True)]
        flawed = [
            None if loophole is None else self.jobs.flawed(code, problem, loophole.check)
            for code, (_, problem, loophole) in zip(codes, items, strict=True)
        ]
        found = self.carry_out([*strict, *(run for run in flawed if run is not None)])
        self._check_setup_code(
            [
                problem
                for run, (_, problem, _) in zip(strict, items, strict=True)
                if claims_that_the_setup_failed(found[run])
            ]
        )
        return [
            judge(
                code,
                self.jobs.tests(problem),
                loophole,
                found[strict_run],
                None if flawed_run is None else found[flawed_run],
                self.weights,
            )
            for code, (_, problem, loophole), strict_run, flawed_run in zip(codes, items, strict, flawed, strict=True)
        ]

    def _check_setup_code(self, suspects: Sequence[Problem]) -> None:
        """Raise where the setup code of a problem fails by itself, without a submission that could pretend it."""
        runs = {self.jobs.setup(problem): problem for problem in suspects}
        found = self.carry_out(list(runs))
        for run, problem in runs.items():
            if claims_that_the_setup_failed(found[run]):
                raise ValueError(f"the setup_code of problem {problem.id} failed: {failure_of_the_setup(found[run])}")

    def carry_out(self, runs: Sequence[Run]) -> dict[Run, Outcome]:
        """Run programs and say how each ended. Equal runs, which a policy that has converged produces, run once.

        Raises:
            ValueError: the grader is closed.
        """
        if not self._finalizer.alive:
            raise ValueError("this grader is closed; make a new one")
        distinct = list(dict.fromkeys(runs))
        with self._lock:
            return dict(zip(distinct, self._pool.carry_out(distinct), strict=True))

    def close(self) -> None:
        """End the workers. May be called again."""
        self._finalizer()

    def __enter__(self) -> Grader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _close_in(owner: int, pool: Pool) -> None:
    if os.getpid() == owner:
        pool.close()

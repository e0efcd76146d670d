"""A grid of arms and seeds, several runs at once on one machine: resumable, within a budget of time, one failure harming no other run."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from examples.leetcode_grpo.arms import Arm, get_arm
from examples.leetcode_grpo.errors import UsageError
from examples.leetcode_grpo.presets import Preset
from examples.leetcode_grpo.processes import Child
from examples.leetcode_grpo.results import RunResult, is_done, result_path

Say = Callable[[str], None]
Start = Callable[[Sequence[str], Path, Mapping[str, str]], Child]

_POLL_SECONDS = 0.2
_SUMMARY_SECONDS = 30.0
_GPU = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Job:
    """One run of the grid. `spec` is the arm as the command line writes it, `erase-update:overshoot=3`."""

    spec: str
    seed: int

    @property
    def arm(self) -> Arm:
        """The arm behind `spec`."""
        return get_arm(self.spec)

    def __str__(self) -> str:
        return f"{self.arm.name} seed {self.seed}"


@dataclass(frozen=True)
class Preparation:
    """What the runs of a seed share, made before any of them starts: the warm start, and the directions of their arms."""

    specs: tuple[str, ...]
    seed: int

    def __str__(self) -> str:
        return f"preparation of seed {self.seed}"


Task = Job | Preparation


class Sweep:
    """The schedule of a grid: what is done, what runs, what may start next.

    Args:
        preset: the settings of all runs; variants change theirs.
        jobs: the grid, in the order in which to run it.
        out: folder of the results. Runs whose result is there are not repeated.
        device: `"auto"`, `"cpu"` or `"cuda"`.
        parallel: how many processes at once, over all GPUs; an arm that takes two places counts twice.
        budget: seconds; a run that would not be done by then is not started, and what still runs then is stopped. None for no limit.
        save_every: write a checkpoint every so many steps, from which a stopped run goes on.
        overwrite: repeat runs whose results are there.
        say: shows a line.
        start: starts a process.
        clock: tells the time in seconds.

    Raises:
        UsageError: an arm or a setting is unknown, or a result is there that was made with other settings.
    """

    def __init__(
        self,
        preset: Preset,
        jobs: Sequence[Job],
        out: Path,
        *,
        device: str = "auto",
        parallel: int = 1,
        budget: float | None = None,
        save_every: int | None = None,
        overwrite: bool = False,
        say: Say = print,
        start: Start = Child,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.preset, self.out, self.device, self.parallel = preset, out, device, parallel
        self.save_every, self.overwrite = save_every, overwrite
        self.say, self._start, self._clock = say, start, clock
        unique: dict[tuple[str, int], Job] = {}
        for job in jobs:  # by name: two spellings of one variant are one run
            unique.setdefault((job.arm.name, job.seed), job)
        self.jobs = list(unique.values())
        self.done = [] if overwrite else [job for job in self.jobs if is_done(self.path(job), job.arm.config(preset))]
        self.waiting = [job for job in self.jobs if job not in self.done]
        self.failed: dict[Task, str] = {}
        self.running: dict[Task, tuple[Child, tuple[int, ...]]] = {}
        # A run that shares nothing with another prepares for itself.
        seeds = [job.seed for job in self.waiting]
        self._prepared = {seed for seed in seeds if seeds.count(seed) == 1}
        self._deadline = None if budget is None else clock() + budget
        self._seconds: dict[Job, float] = {}  # of the runs that were finished here
        self._preparing = 0.0  # the longest preparation so far
        self._places = _places(device, parallel)

    def path(self, job: Job) -> Path:
        """Where the job's result lies."""
        return result_path(self.out, self.preset.name, job.arm.name, job.seed)

    def run(self) -> None:
        """Work until everything is done, has failed, or would take longer than the budget allows.

        Raises:
            UsageError: runs failed; the message names them, why, and their logs.
        """
        if self.done:
            self.say(f"{len(self.done)} of {len(self.jobs)} runs are there already")
        try:
            with _display(self.say) as show:
                while self._advance():
                    show(self.summary())
                    time.sleep(_POLL_SECONDS)
        finally:
            for child, _ in self.running.values():
                child.kill()
        self.say(self.summary())
        if self.waiting and not self.failed:
            self.say("the budget is used up; the same command goes on with what is waiting")
        if self.failed:
            reasons = "; ".join(f"{task}: {reason}" for task, reason in self.failed.items())
            raise UsageError(f"{len(self.failed)} failed: {reasons}; the same command tries them again")

    def summary(self) -> str:
        """Where the sweep stands, in one line."""
        running = ", ".join(f"{task}{_progress(child)}" for task, (child, _) in self.running.items())
        parts = [f"{len(self.done)} of {len(self.jobs)} done", f"{len(self.waiting)} waiting"]
        parts += [f"running: {running}"] if running else []
        parts += [f"{len(self.failed)} failed"] if self.failed else []
        return "; ".join(parts)

    def _advance(self) -> bool:
        """Collect what has ended, start what may start; False once nothing runs and nothing will."""
        for ended, (child, _) in list(self.running.items()):
            if child.status is not None:
                del self.running[ended]
                self._collect(ended, child)
        if self._deadline is not None and self._clock() >= self._deadline:
            self._stop()
            return False
        while (task := self._next()) is not None and (places := self._free_places(task)):
            self._launch(task, places)
        return bool(self.running)

    def _next(self) -> Task | None:
        """A run that is prepared for, or else the next preparation; None if there is neither, or no time left for it."""
        preparing = {task.seed for task in self.running if isinstance(task, Preparation)}
        for job in self.waiting:
            if job.seed in self._prepared and self._in_time(self._estimate(job)):
                return job
        for job in self.waiting:
            if job.seed not in self._prepared | preparing and self._in_time(self._preparing + self._estimate(job)):
                return Preparation(tuple(other.spec for other in self.waiting if other.seed == job.seed), job.seed)
        return None

    def _in_time(self, seconds: float) -> bool:
        return self._deadline is None or self._clock() + seconds <= self._deadline

    def _estimate(self, job: Job) -> float:
        """Seconds that a run will take: those of the slowest finished one for each step; 0 before one is finished."""
        pace = max((time / self._steps(done) for done, time in self._seconds.items()), default=0.0)
        return pace * self._steps(job)

    def _steps(self, job: Job) -> int:
        return max(1, job.arm.configure(self.preset).steps)

    def _launch(self, task: Task, places: tuple[int, ...]) -> None:
        options = ["--preset", self.preset.name, "--seed", str(task.seed), "--device", self.device]
        options += [part for setting in self.preset.changes() for part in ("--set", setting)]
        if isinstance(task, Job):
            self.waiting.remove(task)
            path = self.path(task)
            arguments = ["run", "--arm", task.spec, "--out", str(self.out), *options]
            arguments += [] if self.save_every is None else ["--save-every", str(self.save_every)]
            arguments += ["--overwrite"] if self.overwrite else []
        else:
            path = result_path(self.out, self.preset.name, "preparation", task.seed)
            arguments = ["prepare", *(part for spec in task.specs for part in ("--arm", spec)), *options]
        log = path.parent / ".logs" / f"{path.stem}.log"
        self.running[task] = self._start(arguments, log, self._places[places[0]]), places

    def _free_places(self, task: Task) -> tuple[int, ...]:
        """Places for a task, all on one GPU, the emptiest; none where it has to wait, as all behind it do then."""
        taken = {place for _, places in self.running.values() for place in places}
        alike: defaultdict[str, list[int]] = defaultdict(list)
        for place, environment in enumerate(self._places):
            alike[environment.get(_GPU, "")].append(place)
        wanted = task.arm.places if isinstance(task, Job) and _GPU in self._places[0] else 1
        wanted = min(wanted, max(map(len, alike.values())))  # else it would wait for ever
        free = max(([place for place in places if place not in taken] for places in alike.values()), key=len)
        return tuple(free[:wanted]) if len(free) >= wanted else ()

    def _collect(self, task: Task, child: Child) -> None:
        if child.status:
            self.failed[task] = f"{child.last_line()} ({child.log})"
            self.say(f"failed: {task}: {self.failed[task]}")
            if isinstance(task, Preparation):
                self.waiting = [job for job in self.waiting if job.seed != task.seed]
        elif isinstance(task, Preparation):
            self._prepared.add(task.seed)
            self._preparing = max(self._preparing, child.seconds)
        else:
            self.done.append(task)
            self._seconds[task] = child.seconds
            self.say(f"{len(self.done)}/{len(self.jobs)}  {task}  {_outcome(self.path(task))}  {child.seconds:.0f} s")

    def _stop(self) -> None:
        for task, (child, _) in self.running.items():
            child.kill()
            if isinstance(task, Job):
                self.waiting.append(task)
                self.say(f"stopped at the end of the budget: {task}{_progress(child)}")
        self.running.clear()


def grid(specs: Sequence[str], seeds: Sequence[int]) -> list[Job]:
    """All arms of the first seed, then all of the next: what is compared is done together."""
    return [Job(spec, seed) for seed in seeds for spec in specs]


def _places(device: str, parallel: int) -> list[dict[str, str]]:
    """The environment of each of the places for a process: its share of the cores, and one GPU."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = str(max(1, cores // parallel))
    shared = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": "false"}
    count = 0 if device == "cpu" else torch.cuda.device_count()
    visible = os.environ.get(_GPU)
    names = visible.split(",") if visible else [str(number) for number in range(count)]
    if not count:
        return [shared] * parallel
    return [{**shared, _GPU: names[place % count]} for place in range(parallel)]


def _progress(child: Child) -> str:
    step = child.step()
    return "" if step is None else f" {step[0]}/{step[1]}"


def _outcome(path: Path) -> str:
    result = RunResult.load(path)
    rates = result.eval.overall()
    return f"held out: hack {rates.hack:.3f}  pass {rates.passed:.3f}"


@contextmanager
def _display(say: Say) -> Iterator[Say]:
    """Shows the summary: on a terminal a line that stays at the bottom, elsewhere a line now and then."""
    console = Console()
    if console.is_terminal:
        with console.status("starting") as status:
            yield lambda summary: status.update(summary)
        return
    last = [time.monotonic()]

    def now_and_then(summary: str) -> None:
        if time.monotonic() - last[0] >= _SUMMARY_SECONDS:
            last[0] = time.monotonic()
            say(summary)

    yield now_and_then

"""The schedule of a sweep: what starts when, what a failure and a budget do, what is never done twice."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from examples.leetcode_grpo.arms import get_arm
from examples.leetcode_grpo.errors import UsageError
from examples.leetcode_grpo.files import locked
from examples.leetcode_grpo.presets import parse_seeds
from examples.leetcode_grpo.results import RunResult, differences
from examples.leetcode_grpo.sweep import Job, Preparation, Sweep, grid
from tests.examples.results_helpers import made_result
from tests.examples.training_helpers import tiny_preset


class Machine:
    """Processes that take as long as they are told, on a clock of their own; a run's result appears as it ends."""

    def __init__(self, out: Path, seconds: float = 10.0, failing: Sequence[str] = ()) -> None:
        self.out, self.seconds, self.failing = out, seconds, failing
        self.now = 0.0
        self.started: list[FakeChild] = []

    def clock(self) -> float:
        """Seconds."""
        return self.now

    def start(self, arguments: Sequence[str], log: Path, environment: Mapping[str, str]) -> Any:
        """A process."""
        self.started.append(FakeChild(self, list(arguments), log, environment))
        return self.started[-1]

    def names(self) -> list[str]:
        """What was started, in order."""
        return [child.name for child in self.started]


class FakeChild:
    """What `Child` offers, without a process."""

    def __init__(self, machine: Machine, arguments: list[str], log: Path, environment: Mapping[str, str]) -> None:
        self.machine, self.arguments, self.log, self.environment = machine, arguments, log, environment
        self.begin, self.killed = machine.now, False
        self.arm, self.seed = arguments[arguments.index("--arm") + 1], arguments[arguments.index("--seed") + 1]
        self.name = f"{'prepare' if arguments[0] == 'prepare' else self.arm} {self.seed}"

    @property
    def seconds(self) -> float:
        """Time since the start."""
        return self.machine.now - self.begin

    @property
    def status(self) -> int | None:
        """None while it runs; asking takes time."""
        self.machine.now += 1.0
        if self.seconds < self.machine.seconds:
            return None
        if self.name in self.machine.failing:
            return 2
        if self.arguments[0] == "run":
            made_result(get_arm(self.arm).name, int(self.seed), "fast-dev-run").save(self.machine.out)
        return 0

    def kill(self) -> None:
        """Stop."""
        self.killed = True

    def step(self) -> tuple[int, int]:
        """Progress."""
        return 3, 50

    def last_line(self) -> str:
        """Why it failed."""
        return "out of luck"


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("examples.leetcode_grpo.sweep._POLL_SECONDS", 0.0)


def make_sweep(machine: Machine, jobs: Sequence[Job], **options: Any) -> Sweep:
    """A sweep on the fake machine, on its CPU."""
    given = {"device": "cpu", "say": lambda line: None, **options}
    return Sweep(tiny_preset(), jobs, machine.out, start=machine.start, clock=machine.clock, **given)


def test_a_seed_is_prepared_once_before_its_arms_start(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    make_sweep(machine, grid(["vanilla", "erase-update"], [0, 1]), parallel=3).run()
    names = machine.names()
    assert sorted(names) == ["erase-update 0", "erase-update 1", "prepare 0", "prepare 1", "vanilla 0", "vanilla 1"]
    for seed in "01":
        (prepared,) = (child for child in machine.started if child.name == f"prepare {seed}")
        assert prepared.arguments.count("--arm") == 2
        for child in machine.started:
            if child.seed == seed and child is not prepared:
                assert child.begin >= prepared.begin + machine.seconds
        # What is compared is done together.
        assert names.index(f"erase-update {seed}") == names.index(f"vanilla {seed}") + 1


def test_a_single_run_of_a_seed_prepares_for_itself(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    make_sweep(machine, grid(["vanilla"], [0, 1]), parallel=2).run()
    assert machine.names() == ["vanilla 0", "vanilla 1"]


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that seems to have two."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.usefixtures("two_gpus")
def test_no_more_run_at_once_than_allowed_and_places_are_kept_apart(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    sweep = make_sweep(machine, grid(["vanilla"], range(8)), parallel=4, device="cuda")
    while sweep._advance():
        assert len(sweep.running) <= 4
        gpus = [child.environment["CUDA_VISIBLE_DEVICES"] for child, _ in sweep.running.values()]
        assert max(gpus.count("0"), gpus.count("1")) <= 2
    assert len(sweep.done) == 8
    threads = int(machine.started[0].environment["OMP_NUM_THREADS"])
    assert threads == max(1, len(os.sched_getaffinity(0)) // 4)


@pytest.mark.usefixtures("two_gpus")
def test_an_arm_that_needs_twice_the_memory_takes_two_places_of_one_gpu(tmp_path: Path) -> None:
    large = "random-matched:matched_ratio=2"
    machine = Machine(tmp_path)
    jobs = [*grid(["vanilla"], range(5)), *grid([large], range(5, 8)), *grid(["shrinkage"], range(8, 12))]
    sweep = make_sweep(machine, jobs, parallel=6, device="cuda")
    together = []
    while sweep._advance():
        on = {
            gpu: [c.arm for c, _ in sweep.running.values() if c.environment["CUDA_VISIBLE_DEVICES"] == gpu]
            for gpu in "01"
        }
        for arms in on.values():
            assert len(arms) + arms.count(large) <= 3
        together.append(sum(arm == large for arms in on.values() for arm in arms))
    assert len(sweep.done) == len(jobs)
    assert max(together) == 2
    # Nothing that is behind it overtakes it, or it might wait for ever.
    order = [child.arm for child in machine.started if child.arguments[0] == "run"]
    assert order.index("shrinkage") > max(place for place, arm in enumerate(order) if arm == large)


@pytest.mark.usefixtures("two_gpus")
def test_a_large_run_shares_no_place_where_gpus_have_different_numbers_of_them(tmp_path: Path) -> None:
    """Three places on two GPUs: the one with two is the large run's, whatever the other has."""
    large = "random-matched:matched_ratio=2"
    machine = Machine(tmp_path)
    sweep = make_sweep(machine, [*grid([large], range(3)), *grid(["vanilla"], range(3, 6))], parallel=3, device="cuda")
    while sweep._advance():
        found = [(child.arm, child.environment["CUDA_VISIBLE_DEVICES"]) for child, _ in sweep.running.values()]
        if any(arm == large for arm, _ in found):
            assert [gpu for _, gpu in found].count("0") == 1
    assert len(sweep.done) == 6


def test_on_a_cpu_a_large_arm_takes_one_place(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    sweep = make_sweep(machine, grid(["random-matched:matched_ratio=2"], [0, 1]), parallel=2, device="cpu")
    assert sweep._advance()
    assert len(sweep.running) == 2


def test_where_each_gpu_has_one_place_a_large_arm_runs_all_the_same(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    make_sweep(machine, grid(["random-matched:matched_ratio=2"], [0, 1]), parallel=1).run()
    assert machine.names() == ["random-matched:matched_ratio=2 0", "random-matched:matched_ratio=2 1"]


def test_a_failure_stops_no_other_run_and_is_told(tmp_path: Path) -> None:
    machine = Machine(tmp_path, failing=["erase-update 0", "prepare 1"])
    lines: list[str] = []
    sweep = make_sweep(machine, grid(["vanilla", "erase-update"], [0, 1, 2]), say=lines.append)
    with pytest.raises(UsageError, match=r"2 failed: erase-update seed 0: out of luck .*erase-update-seed0\.log"):
        sweep.run()
    assert {str(job) for job in sweep.done} == {"vanilla seed 0", "vanilla seed 2", "erase-update seed 2"}
    assert any(line.startswith("failed: preparation of seed 1: out of luck") for line in lines)


def test_finished_runs_are_not_repeated_and_foreign_ones_not_overwritten(tmp_path: Path) -> None:
    jobs = grid(["vanilla", "random"], [0])
    preset = tiny_preset()
    for job in jobs:
        result = made_result(job.arm.name, 0, "fast-dev-run")
        RunResult(**{**vars(result), "config": job.arm.config(preset)}).save(tmp_path)
    machine = Machine(tmp_path)
    make_sweep(machine, jobs).run()
    assert machine.started == []
    make_sweep(machine, jobs, overwrite=True).run()
    assert machine.names() == ["prepare 0", "vanilla 0", "random 0"]
    assert "--overwrite" in machine.started[1].arguments
    # The fake runs' settings are not those that were asked for.
    with pytest.raises(UsageError, match=r"vanilla-seed0.json was made with other settings \(.*lr 0.0001, not 0.001"):
        make_sweep(machine, jobs)


def test_nothing_starts_that_would_not_be_done_in_time(tmp_path: Path) -> None:
    machine = Machine(tmp_path, seconds=20)
    lines: list[str] = []
    sweep = make_sweep(machine, grid(["vanilla"], range(9)), budget=70, say=lines.append)
    sweep.run()
    assert 2 <= len(sweep.done) == len(machine.started) < 9
    assert not any(child.killed for child in machine.started)
    assert machine.now < 70
    assert "the budget is used up" in lines[-1]


def test_what_still_runs_at_the_end_of_the_budget_is_stopped_and_waits_again(tmp_path: Path) -> None:
    machine = Machine(tmp_path, seconds=1000)
    lines: list[str] = []
    sweep = make_sweep(machine, grid(["vanilla"], range(3)), budget=50, parallel=2, say=lines.append)
    sweep.run()
    assert [child.killed for child in machine.started] == [True, True]
    assert len(sweep.waiting) == 3
    assert "stopped at the end of the budget: vanilla seed 0 3/50" in lines


def test_two_spellings_of_a_variant_are_one_run(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    specs = ["erase-update:k=6:overshoot=1", "vanilla", "erase-update:overshoot=1:k=6"]
    sweep = make_sweep(machine, grid(specs, [0]))
    assert [job.arm.name for job in sweep.jobs] == ["erase-update@k=6,overshoot=1", "vanilla"]


def test_a_longer_variant_is_given_more_time(tmp_path: Path) -> None:
    sweep = make_sweep(Machine(tmp_path), [Job("vanilla", 0), Job("vanilla:steps=20", 0)])
    sweep._seconds[Job("vanilla", 1)] = 4.0  # two steps
    assert sweep._estimate(Job("vanilla:steps=20", 0)) == pytest.approx(40.0)


def test_runs_of_the_sweep_are_given_its_settings(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    make_sweep(machine, [Job("erase-update:k=2", 5)], save_every=7).run()
    arguments = machine.started[0].arguments
    assert arguments[:3] == ["run", "--arm", "erase-update:k=2"]
    assert "prompts_per_step=2" in arguments
    assert arguments[arguments.index("--save-every") + 1] == "7"


def test_preparations_and_jobs_are_told_apart() -> None:
    assert str(Preparation(("vanilla",), 3)) == "preparation of seed 3"
    assert str(Job("erase-update:overshoot=2", 1)) == "erase-update@overshoot=2 seed 1"


def test_seeds_are_ranges_and_lists() -> None:
    assert parse_seeds("0-2,7, 1") == [0, 1, 2, 7]
    for wrong in ("", "a", "3-1", "-1", "1-"):
        with pytest.raises(UsageError, match="seeds are written"):
            parse_seeds(wrong)


def test_a_result_without_a_younger_setting_had_its_default() -> None:
    config = get_arm("vanilla").config(tiny_preset())
    old = {name: value for name, value in config.items() if name not in ("trainable", "shrink")}
    assert differences(old, config) == []
    assert differences({**old, "grader_workers": 99}, config) == []
    assert differences({**old, "lr": 1.0}, config) == ["lr 1.0, not 0.001"]


@pytest.mark.parametrize("arm", ["ground-truth-penalty", "advantage-modification"])
def test_baselines_that_once_pushed_cached_hacks_away_are_not_taken_for_those_of_today(arm: str) -> None:
    config = get_arm(arm).config(tiny_preset())
    old = {name: value for name, value in config.items() if name != "teacher_negative"}
    assert differences(old, config) == ["teacher_negative keep, not drop"]
    assert differences(old, get_arm(f"{arm}:teacher_negative=keep").config(tiny_preset())) == []


def test_a_divergence_that_once_counted_cached_rollouts_is_not_taken_for_that_of_today() -> None:
    config = get_arm("kl").config(tiny_preset())
    old = {name: value for name, value in config.items() if name != "teacher_kl"}
    assert differences(old, config) == ["teacher_kl keep, not drop"]


def test_a_lock_keeps_others_out_until_its_holder_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SVDPROJ_CACHE", str(tmp_path))
    program = """
        import sys, time
        from pathlib import Path
        from examples.leetcode_grpo.files import locked
        with locked(Path(sys.argv[1]) / "entry"):
            print("held", flush=True)
            time.sleep(600)
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        entered = threading.Event()

        def enter() -> None:
            with locked(tmp_path / "entry"):
                entered.set()

        waiting = threading.Thread(target=enter)
        waiting.start()
        with locked(tmp_path / "another"):
            assert not entered.wait(0.3)
        holder.kill()
        assert entered.wait(10)
        waiting.join()
    assert not (tmp_path / "entry").exists()

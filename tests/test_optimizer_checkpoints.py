"""Checkpoints: interchange with the bare optimizer, exact resumption, and a run that is killed."""

from __future__ import annotations

import copy
import io
import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.checkpoint.stateful import Stateful

from svdproj import HackDirection, ProjectedOptimizer
from tests.conformance.helpers import (
    Weights,
    assert_same,
    assert_same_training,
    backward,
    batch,
    direction_for,
    plain,
    train,
)

CASES = [
    pytest.param(torch.float32, {"space": "gradient"}, id="gradient"),
    pytest.param(torch.float32, {"space": "update"}, id="update"),
    pytest.param(torch.bfloat16, {"space": "update"}, id="stochastic rounding"),
    pytest.param(torch.bfloat16, {"space": "update", "write_back": "exact"}, id="masters"),
    pytest.param(torch.bfloat16, {"space": "gradient", "write_back": "exact"}, id="masters in gradient space"),
]


class Run:
    """Model, projected optimizer, scheduler and scaler, with everything that a checkpoint holds."""

    def __init__(self, dtype: torch.dtype, options: dict[str, Any], scaled: bool = True) -> None:
        self.model = Weights(dtype=dtype)
        inner = torch.optim.AdamW(self.model.parameters(), lr=0.01)
        self.optimizer = ProjectedOptimizer(inner, direction_for(self.model), self.model, **options)
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, 20)
        # float16 and bfloat16 gradients cannot be unscaled by the CPU's scaler. It grows during the test: its state matters.
        enabled = scaled and dtype is torch.float32
        self.scaler = torch.amp.GradScaler("cpu", enabled=enabled, init_scale=256.0, growth_interval=3)

    def train(self, steps: range) -> None:
        for step in steps:
            self.model.zero_grad()
            self.scaler.scale(self.model.loss(batch(step, self.model.first.dtype))).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.scheduler.step()

    def parts(self) -> dict[str, Any]:
        return {
            "optimizer": self.optimizer,
            "scheduler": self.scheduler,
            "scaler": self.scaler,
            "model": self.model,
        }

    def save(self) -> dict[str, Any]:
        buffer = io.BytesIO()
        torch.save({name: part.state_dict() for name, part in self.parts().items()}, buffer)
        buffer.seek(0)
        loaded: dict[str, Any] = torch.load(buffer, weights_only=True)
        return loaded

    def load(self, saved: dict[str, Any]) -> None:
        # The optimizer first, as some trainers do: masters must not be overwritten by weights not yet loaded.
        for name, part in self.parts().items():
            part.load_state_dict(saved[name])


@pytest.mark.parametrize(("dtype", "options"), CASES)
def test_resuming_is_bit_exact(dtype: torch.dtype, options: dict[str, Any]) -> None:
    unbroken, first, second = (Run(dtype, options) for _ in range(3))
    unbroken.train(range(8))
    first.train(range(4))
    second.load(first.save())
    second.train(range(4, 8))
    assert_same(unbroken.save(), second.save())
    assert unbroken.optimizer.metrics() == second.optimizer.metrics()


@pytest.mark.parametrize(("dtype", "options"), CASES)
def test_state_dicts_load_into_the_bare_optimizer_and_back(dtype: torch.dtype, options: dict[str, Any]) -> None:
    run = Run(dtype, options)
    run.train(range(3))
    bare_model = Weights(dtype=dtype)
    bare_model.load_state_dict(run.model.state_dict())
    bare = torch.optim.AdamW(bare_model.parameters(), lr=0.01)
    bare.load_state_dict(copy.deepcopy(run.optimizer.state_dict()))
    train(bare_model, bare, range(3, 5))
    assert all(value.dtype == dtype for value in (bare.state[p]["exp_avg"] for p in bare_model.parameters()))
    back = Run(dtype, options)
    back.model.load_state_dict(bare_model.state_dict())
    back.optimizer.load_state_dict(copy.deepcopy(bare.state_dict()))
    back.train(range(5, 6))
    assert back.optimizer.metrics()["svdproj/projected"] == 4


def test_the_wrappers_entry_is_apart_and_an_empty_direction_has_none() -> None:
    run = Run(torch.float32, {})
    run.train(range(2))
    state = run.optimizer.state_dict()
    assert set(state) == {"state", "param_groups", "svdproj"}
    assert set(state["state"][0]) == {"step", "exp_avg", "exp_avg_sq"}
    assert_same(plain(state), run.optimizer.optimizer.state_dict())
    run.optimizer.set_direction(HackDirection.empty())
    assert set(run.optimizer.state_dict()) == {"state", "param_groups"}


def test_masters_keep_their_float32_moments() -> None:
    run = Run(torch.bfloat16, {"write_back": "exact"})
    run.train(range(2))
    other = Run(torch.bfloat16, {"write_back": "exact"})
    other.load(run.save())
    for p in other.model.parameters():
        assert p.dtype is torch.bfloat16
        assert other.optimizer.state[p]["exp_avg"].dtype is torch.float32
    masters = run.optimizer.state_dict()["svdproj"]["masters"]
    assert {master.dtype for master in masters.values()} == {torch.float32}
    assert any((master != master.bfloat16()).any() for master in masters.values())


def test_another_direction_is_refused_unless_it_is_set_on_purpose() -> None:
    run = Run(torch.float32, {})
    run.train(range(2))
    saved = copy.deepcopy(run.optimizer.state_dict())
    model = Weights()
    other = ProjectedOptimizer(torch.optim.AdamW(model.parameters()), direction_for(model, seed=5), model)
    with pytest.raises(ValueError, match=r"written under the direction .* call set_direction\(\.\.\.\)"):
        other.load_state_dict(saved)
    assert not other.state, "a refused checkpoint must change nothing"
    other.set_direction(run.optimizer.direction)
    other.load_state_dict(saved)
    other.set_direction(direction_for(model, seed=5))
    saved["svdproj"]["version"] = 99
    with pytest.raises(ValueError, match="version 99"):
        run.optimizer.load_state_dict(saved)


def test_what_the_inner_optimizer_refuses_is_not_half_loaded() -> None:
    run = Run(torch.bfloat16, {})
    run.train(range(2))
    saved, before = copy.deepcopy(run.optimizer.state_dict()), run.optimizer.state_dict()
    saved["svdproj"]["rounding"] += 7
    saved["param_groups"] = saved["param_groups"] * 2
    with pytest.raises(ValueError, match="different number of parameter groups"):
        run.optimizer.load_state_dict(saved)
    assert_same(before, run.optimizer.state_dict())


@pytest.mark.parametrize("missing", ["version", "direction", "masters", "rounding"])
def test_a_damaged_entry_is_refused_by_name_and_nothing_is_loaded(missing: str) -> None:
    run, fresh = Run(torch.float32, {}), Run(torch.float32, {})
    run.train(range(2))
    saved = copy.deepcopy(run.optimizer.state_dict())
    del saved["svdproj"][missing]
    with pytest.raises(ValueError, match=f"svdproj entry lacks {missing}: "):
        fresh.optimizer.load_state_dict(saved)
    assert not fresh.optimizer.state


def test_masters_of_a_checkpoint_are_dropped_where_nothing_steps_them() -> None:
    """Regression: they stayed as they were, and went into every later checkpoint."""
    exact, auto = Run(torch.bfloat16, {"write_back": "exact"}), Run(torch.bfloat16, {})
    exact.train(range(2))
    auto.load(exact.save())
    auto.train(range(2, 4))
    assert auto.optimizer.state_dict()["svdproj"]["masters"] == {}


@pytest.mark.parametrize(("dtype", "options"), CASES)
@pytest.mark.filterwarnings("ignore:.*")  # torch.distributed.checkpoint warns about its own internals
def test_distributed_checkpoints_resume_exactly(dtype: torch.dtype, options: dict[str, Any], tmp_path: Path) -> None:
    """`get_optimizer_state_dict` keeps state and groups alone; the projector is an item of its own."""
    unbroken, first, second = (Run(dtype, options, scaled=False) for _ in range(3))
    unbroken.train(range(6))
    first.train(range(3))
    assert isinstance(first.optimizer.projector, Stateful)

    def items(run: Run) -> dict[str, Any]:
        return {
            "model": run.model.state_dict(),
            "optimizer": get_optimizer_state_dict(run.model, run.optimizer),
            "svdproj": run.optimizer.projector,
        }

    dcp.save(items(first), checkpoint_id=tmp_path)
    loaded = items(second)
    dcp.load(loaded, checkpoint_id=tmp_path)
    second.model.load_state_dict(loaded["model"])
    set_optimizer_state_dict(second.model, second.optimizer, loaded["optimizer"])
    second.scheduler.load_state_dict(first.scheduler.state_dict())
    second.train(range(3, 6))
    assert_same_training((unbroken.model, unbroken.optimizer), (second.model, second.optimizer))


# --- a run that is killed

_STEPS = 40


def _victim(folder: Path) -> None:
    """Trains, with a checkpoint after every step, until it is done or killed."""
    run, done = Run(torch.bfloat16, {}), 0
    checkpoint = folder / "checkpoint.pt"
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        run.load(saved["run"])
        done = saved["done"]
    for step in range(done, _STEPS):
        run.train(range(step, step + 1))
        draft = folder / "draft.pt"
        torch.save({"run": run.save(), "done": step + 1}, draft)
        os.replace(draft, checkpoint)
        time.sleep(0.005)


# A server that has imported torch once, from which each victim is forked in a moment.
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload([__name__])


def _killed_and_resumed(folder: Path, seconds: float) -> bool:
    """One kill after the first checkpoint and so many seconds; whether the run was still going."""
    process = _FORKS.Process(target=_victim, args=(folder,))
    process.start()
    while not (folder / "checkpoint.pt").exists():
        assert process.exitcode in (None, 0)
        time.sleep(0.002)
    time.sleep(seconds)
    process.kill()
    process.join()
    _victim(folder)
    return process.exitcode == -signal.SIGKILL


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_a_killed_run_resumes_to_the_weights_of_an_unbroken_one(kills: int, tmp_path: Path) -> None:
    unbroken = Run(torch.bfloat16, {})
    unbroken.train(range(_STEPS))
    generator = torch.Generator().manual_seed(0)
    killed = 0
    for attempt in range(kills):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        killed += _killed_and_resumed(folder, 0.2 * float(torch.rand((), generator=generator)))
        assert_same(unbroken.save(), torch.load(folder / "checkpoint.pt", weights_only=True)["run"])
    assert killed > 0, "every run was over before its kill: the test would pass for nothing"


def test_a_failing_closure_leaves_everything_in_place() -> None:
    run = Run(torch.bfloat16, {"write_back": "exact"})
    run.train(range(1))
    before, places = run.save(), [p.data_ptr() for p in run.model.parameters()]

    def closure() -> None:
        backward(run.model, 1)
        raise FloatingPointError

    with pytest.raises(FloatingPointError):
        run.optimizer.step(closure)
    assert_same(before["model"], run.save()["model"])
    assert [p.data_ptr() for p in run.model.parameters()] == places
    assert {p.dtype for p in run.model.parameters()} == {torch.bfloat16}

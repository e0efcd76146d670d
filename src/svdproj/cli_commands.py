"""The commands: extract, inspect, validate, compare.

Standard output carries the result, as text or with `--json` as one JSON object; progress, warnings and errors go to
standard error. What needs torch is imported by the command that runs: help and mistakes come at once.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from svdproj._version import __version__
from svdproj.cli_errors import UsageError, errors_in_one_line
from svdproj.files import check_writable
from svdproj.pairs import ContrastivePair

if TYPE_CHECKING:
    from svdproj.coverage import Coverage
    from svdproj.direction import HackDirection

NOT_BETTER = 1
"""Exit status of `validate` for a direction that is not better than random."""

# Each parameter has a seed of its own, this one and a little more; torch takes seeds below 2⁶⁴.
_LARGEST_SEED = 2**63 - 1

app = typer.Typer(
    name="svdproj",
    help="Name a behaviour by contrastive pairs, and look at the direction in gradient space that they make.",
    epilog="Exit status: 0 done; 1 the direction is no better than random (validate); 2 something is wrong, said in one line; "
    "70 a mistake of svdproj itself, with its traceback; 130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

DirectionFile = Annotated[Path, typer.Argument(metavar="DIRECTION", help="A direction's safetensors file.")]
Model = Annotated[str, typer.Option(help="A folder with a transformers model, or a name on the hub.")]
Pairs = Annotated[Path, typer.Option(help="JSONL, one pair a line: prompt, hack, clean, and optionally id and tags.")]
Tags = Annotated[list[str] | None, typer.Option("--tag", help="Only pairs with this tag; may be given many times.")]
NoTags = Annotated[list[str] | None, typer.Option("--without-tag", help="No pairs with this tag; may be repeated.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Pairs in one forward and backward.")]
Device = Annotated[str, typer.Option(help="'auto', 'cpu', 'cuda', …")]
Dtype = Annotated[
    str, typer.Option(help="Of the weights: 'auto' for the one they are stored in, 'float32', 'bfloat16'.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bar.")]
Png = Annotated[Path | None, typer.Option(help="Also draw a heat map over layers and modules into this PNG file.")]


def _command(function: Callable[..., None]) -> Callable[..., None]:
    """Register a command whose errors become one line each."""

    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> None:
        with errors_in_one_line():
            function(*args, **kwargs)

    return app.command()(run)


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(f"svdproj {__version__}")
        raise typer.Exit


@_command
def extract(
    model: Model,
    pairs: Pairs,
    out: Annotated[Path, typer.Option(help="Where the direction goes; an existing file is replaced.")],
    targets: Annotated[
        list[str] | None,
        typer.Option(help="'all-linear' (the default), 'trainable', or patterns for parameter names; may be repeated."),
    ] = None,
    chart: Annotated[str, typer.Option(help="'bilinear', 'diagonal' or 'dense'.")] = "bilinear",
    basis: Annotated[str, typer.Option(help="Bases of bilinear charts: 'gradient' or 'weight'.")] = "gradient",
    chart_rank: Annotated[int, typer.Option(help="Columns of each basis, at most.")] = 64,
    k: Annotated[int, typer.Option("--k", "-k", help="Rows for each parameter, at most.")] = 24,
    noise_floor: Annotated[float, typer.Option(help="Share of the lowest singular values that is dropped.")] = 0.25,
    loss: Annotated[str, typer.Option(help="'mean' over a completion's tokens, or 'sum'.")] = "mean",
    holdout: Annotated[float, typer.Option(help="Share of the prompts that is held out for validation.")] = 0.2,
    tag: Tags = None,
    without_tag: NoTags = None,
    batch_size: BatchSize = 8,
    seed: Annotated[int, typer.Option(min=0, max=_LARGEST_SEED, help="Of the split and of the sketches.")] = 0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Fit a direction to contrastive pairs, and save it."""
    _check_folder(out)
    chosen = _read_pairs(pairs, tag, without_tag)
    if out.exists() and out.samefile(pairs):
        raise UsageError(f"the direction would replace the pairs in {pairs}; name another file with --out")

    from svdproj.cli_models import load_model
    from svdproj.direction import HackDirection
    from svdproj.fit import FitOptions
    from svdproj.inspection import describe

    # A mistake in the options is said before the model is loaded, rather than after it.
    FitOptions(chart, basis, chart_rank, k, noise_floor, loss, holdout, seed)
    policy, tokenizer = load_model(model, device, dtype)
    wanted = targets or ["all-linear"]
    direction = HackDirection.fit(
        policy,
        tokenizer,
        chosen,
        targets=wanted[0] if len(wanted) == 1 else wanted,
        chart=chart,
        basis=basis,
        chart_rank=chart_rank,
        k=k,
        noise_floor=noise_floor,
        loss=loss,
        holdout=holdout,
        batch_size=batch_size,
        seed=seed,
        progress=not quiet,
    )
    direction.save(out)
    if as_json:
        _print_json({"out": str(out), **describe(direction)})
    else:
        typer.echo(f"{direction.summary()}\nwrote {out}")


@_command
def inspect(
    direction: DirectionFile,
    model: Annotated[str | None, typer.Option(help="Also say what the direction covers of this model.")] = None,
    png: Png = None,
    as_json: Json = False,
) -> None:
    """Show a direction: provenance, spectrum, energy and coverage by layer."""
    from svdproj.cli_figures import heat_maps
    from svdproj.direction import HackDirection
    from svdproj.inspection import describe, direction_table, row_energy_shares
    from svdproj.metadata import Energy

    found = HackDirection.load(direction)
    if not len(found):
        raise UsageError(f"{direction} is the empty direction, there is nothing to show")
    coverage = _coverage(found, model) if model is not None else None
    if png is not None:
        energies = {name: found.metadata.energy_by_parameter.get(name, Energy()) for name in found.subspaces}
        shares = row_energy_shares(found)
        most = max(shares.values())
        panels = {
            "energy of the pairs in the rows, share of each parameter's": {n: e.rows for n, e in energies.items()},
            "the same on held-out pairs": {n: e.rows_held_out for n, e in energies.items()},
            f"where the energy lies, relative to the parameter with most ({most:.1%} of all)": {
                n: share / most for n, share in shares.items()
            },
        }
        heat_maps(panels, f"{direction.name}, from {found.metadata.model_id or 'an unnamed model'}", png)
    if as_json:
        _print_json(describe(found) | ({"coverage": coverage.to_json()} if coverage else {}))
        return
    typer.echo(f"{found.summary()}\n")
    typer.echo(direction_table(found))
    if coverage is not None:
        typer.echo(f"\n{coverage}")
    if png is not None:
        typer.echo(f"wrote {png}")


@_command
def validate(
    direction: DirectionFile,
    model: Model,
    pairs: Pairs,
    tag: Tags = None,
    without_tag: NoTags = None,
    all_pairs: Annotated[
        bool, typer.Option("--all-pairs", help="Also use pairs whose prompts the direction was fitted on.")
    ] = False,
    save: Annotated[
        bool, typer.Option("--save", help="Write the figures into the direction's file; held-out pairs alone.")
    ] = False,
    batch_size: BatchSize = 8,
    seed: Annotated[int, typer.Option(min=0, max=_LARGEST_SEED, help="Of the random directions.")] = 0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Ask whether a direction tells hack from clean on held-out pairs, better than a random one. If not: exit status 1."""
    from svdproj.cli_models import load_model
    from svdproj.direction import HackDirection

    found = HackDirection.load(direction)
    chosen = _read_pairs(pairs, tag, without_tag)
    knows = bool(found.metadata.fitted_prompts)
    held_out = found.held_out(chosen) if knows else []
    used = chosen if all_pairs or not knows else held_out
    if not used:
        raise UsageError(
            f"the direction was fitted on the prompts of all {len(chosen)} pairs in {pairs}; validate on others, or see how well "
            "it knows its own with --all-pairs"
        )
    if save:
        # The file's figures are read as those of held-out pairs.
        if len(held_out) < len(used):
            why = "some of these have prompts that it was fitted on" if knows else "it does not know its prompts"
            raise UsageError(f"--save keeps a direction's figures on held-out pairs, and {why}: leave --save out")
        check_writable(direction)
    policy, tokenizer = load_model(model, device, dtype)
    if found.check_weights(policy) and save:
        raise UsageError(
            f"--save keeps a direction's figures on the weights that it was fitted on, and those of {model} are others: leave "
            "--save out, or give the model and --dtype that it was extracted with"
        )
    validation = found.validate(policy, tokenizer, used, batch_size=batch_size, seed=seed, progress=not quiet)
    if as_json:
        _print_json({"direction": str(direction), "pairs": str(pairs), **validation.to_json()})
    else:
        typer.echo(str(validation))
        if len(used) < len(chosen):
            typer.echo(f"  left out: {len(chosen) - len(used)} pairs with prompts that the direction was fitted on")
    if save:
        HackDirection(found.subspaces, replace(found.metadata, validation=validation.figures)).save(direction)
    if not validation.better_than_random:
        raise SystemExit(NOT_BETTER)


@_command
def compare(
    first: Annotated[Path, typer.Argument(metavar="A", help="A direction's file.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Another one's.")],
    png: Png = None,
    as_json: Json = False,
) -> None:
    """Overlap of two directions by layer: 1 is the same span, and random rows are shown beside it."""
    from svdproj.cli_figures import heat_maps
    from svdproj.coverage import listing
    from svdproj.direction import HackDirection
    from svdproj.inspection import overlap_table, random_overlaps
    from svdproj.layers import mean

    a, b = HackDirection.load(first), HackDirection.load(second)
    shared = [name for name in a.subspaces if name in b.subspaces]
    if not shared:
        raise UsageError(
            f"{first} and {second} share no parameter; the names of one look like {next(iter(a.subspaces), '(none)')}, those of "
            f"the other like {next(iter(b.subspaces), '(none)')}"
        )
    overlaps, random = a.overlap(b), random_overlaps(a, b)
    only = {
        "only_in_a": [name for name in a.subspaces if name not in b.subspaces],
        "only_in_b": [name for name in b.subspaces if name not in a.subspaces],
    }
    if png is not None:
        panels = {"overlap": overlaps, "random rows": random}
        heat_maps(panels, f"{first.name} and {second.name}", png)
    if as_json:
        _print_json(
            {
                "a": str(first),
                "b": str(second),
                "overlap": mean(overlaps.values()),
                "random": mean(random.values()),
                "by_parameter": {name: {"overlap": overlaps[name], "random": random[name]} for name in overlaps},
                **only,
            }
        )
        return
    typer.echo(
        f"overlap {mean(overlaps.values()):.3f} in the mean over {len(overlaps)} parameters, random rows {mean(random.values()):.3f}\n"
    )
    typer.echo(overlap_table(overlaps, random))
    for path, names in ((first, only["only_in_a"]), (second, only["only_in_b"])):
        if names:
            typer.echo(f"only in {path}: {listing(names)}")
    if png is not None:
        typer.echo(f"wrote {png}")


def _read_pairs(path: Path, tags: list[str] | None, without: list[str] | None) -> list[ContrastivePair]:
    if not path.is_file():
        raise UsageError(f"no such file: {path}; pairs are JSONL, one object a line with prompt, hack and clean")
    return ContrastivePair.select(ContrastivePair.load(path), tags or (), without or ())


def _coverage(direction: HackDirection, model: str) -> Coverage:
    from svdproj.cli_models import load_skeleton
    from svdproj.coverage import check_fit

    skeleton = load_skeleton(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is missing of the model, the coverage itself says
        check_fit(direction, skeleton.named_parameters())
    return direction.coverage(skeleton)


def _check_folder(path: Path) -> None:
    """Before an hour of work rather than after it."""
    if not path.parent.is_dir():
        raise UsageError(f"cannot write {path}: the folder {path.parent} does not exist; make it first")
    if path.is_dir():
        raise UsageError(
            f"cannot write {path}: it is a folder; name a file in it, such as {path / 'direction.safetensors'}"
        )
    check_writable(path)


def _print_json(record: dict[str, Any]) -> None:
    from svdproj.metadata import plain

    typer.echo(json.dumps(plain(record), indent=2, allow_nan=False))

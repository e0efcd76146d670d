"""Does validation tell a direction from its controls? A table of figures on held-out pairs, each beside its null.

Run it as `python -m benchmarks.validation [--family smollm2|demo|qwen3] [--device cpu|cuda] [--out FILE]`; with `--page` it
measures nothing and puts the tables of `benchmarks/results/validation-*.json` into the documentation. A direction from hack
against clean, random ones (in its charts and anywhere), and a placebo (clean against clean, in another style) are validated
on the same held-out hack pairs; the direction is also asked about held-out placebo pairs, which have no hack in them. With
`--by-loophole` it is asked about the held-out pairs of each of the experiment's four loopholes, and no controls are.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from benchmarks.parts.policies import FAMILIES, facts, load_family
from benchmarks.parts.records import RESULTS, table, write_record
from examples.leetcode_grpo.files import write_text
from examples.leetcode_grpo.loopholes import Loophole
from examples.leetcode_grpo.pairs import bank_pairs, placebo_pairs
from examples.leetcode_grpo.presets import FOUR_LOOPHOLES
from examples.leetcode_grpo.problems import load_problems
from svdproj import ContrastivePair, HackDirection
from svdproj.controls import random_direction

PAGE = Path(__file__).resolve().parents[1] / "docs" / "guide" / "extract-validate.md"
START, END = "<!-- tables: python -m benchmarks.validation --page -->", "<!-- end of tables -->"
HEADS = ("direction", "pairs", "hack-ward", "AUROC", "t", "p", "cosine", "p random", "halves", "verdict")


@dataclass(frozen=True)
class Setting:
    """What all rows of the table share."""

    model: nn.Module
    tokenizer: Any
    options: argparse.Namespace

    def fit(self, pairs: Sequence[ContrastivePair]) -> HackDirection:
        """A direction with the library's defaults."""
        batch_size = self.options.batch_size
        return HackDirection.fit(self.model, self.tokenizer, pairs, holdout=0.0, batch_size=batch_size, progress=False)

    def row(self, label: str, direction: HackDirection, kind: str, pairs: Sequence[ContrastivePair]) -> dict[str, Any]:
        """One direction on one set of pairs."""
        found = direction.validate(
            self.model, self.tokenizer, pairs, batch_size=self.options.batch_size, progress=False
        )
        print(f"{label} on {kind}: {found.verdict}", flush=True)
        return {"direction": label, "on": kind, **found.to_json()}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """The whole table."""
    started = time.perf_counter()
    model, tokenizer = load_family(options.family, options.device)
    setting = Setting(model, tokenizer, options)
    direction, rows = (_by_loophole if options.by_loophole else _with_controls)(setting)
    return {
        "family": options.family,
        **facts(options.device),
        "config": {key: value for key, value in vars(options).items() if key not in ("out", "page")},
        "seconds": round(time.perf_counter() - started, 1),
        "direction": direction.metadata.to_json() | {"energy_by_parameter": None, "weight_fingerprints": None},
        "rows": rows,
    }


def _by_loophole(setting: Setting) -> tuple[HackDirection, list[dict[str, Any]]]:
    options = setting.options
    total = options.pairs + options.held_out
    hacks = bank_pairs(load_problems("builtin"), [Loophole(name) for name in FOUR_LOOPHOLES], total, options.seed)
    direction = setting.fit(hacks[: options.pairs])
    parts = {name: ContrastivePair.select(hacks[options.pairs :], tags=[name]) for name in FOUR_LOOPHOLES}
    return direction, [
        setting.row("hack against clean", direction, f"{name} pairs", part) for name, part in parts.items()
    ]


def _with_controls(setting: Setting) -> tuple[HackDirection, list[dict[str, Any]]]:
    options = setting.options
    problems, total = load_problems("builtin"), options.pairs + options.held_out
    hacks = bank_pairs(problems, list(Loophole), total, options.seed)
    placebos = placebo_pairs(problems, list(Loophole), total, options.seed)
    held_out = hacks[options.pairs :]
    direction, placebo = setting.fit(hacks[: options.pairs]), setting.fit(placebos[: options.pairs])
    rows = [
        setting.row("hack against clean", direction, "hack pairs", held_out),
        setting.row("clean against clean", placebo, "hack pairs", held_out),
        setting.row("hack against clean", direction, "placebo pairs", placebos[options.pairs :]),
    ]
    controls = {f"random {seed}": random_direction(direction, seed) for seed in range(options.random)}
    controls["random, anywhere"] = random_direction(direction, 0, ambient=True)
    rows += [setting.row(label, control, "hack pairs", held_out) for label, control in controls.items()]
    return direction, rows


def as_table(record: dict[str, Any]) -> str:
    """The record's rows as Markdown; in brackets what 5 % of random directions reach, or random rows have."""
    return table(
        HEADS,
        [
            [
                row["direction"],
                row["on"],
                f"{row['sign_accuracy']:.0%} ({row['random_sign_accuracy']:.0%})",
                f"{row['auroc']:.2f} ({row['random_auroc']:.2f})",
                f"{row['t_statistic']:.1f} ({row['random_t_statistic']:.1f})",
                f"{row['p_value']:.2g}",
                f"{row['cos']:.3f} ({row['chart_null_cos']:.3f})",
                f"{row['random_p_value']:.2g}",
                f"{row['halves_overlap']:.2f} ({row['halves_overlap_random']:.3f})",
                row["verdict"],
            ]
            for row in record["rows"]
        ],
    )


def page_section(records: Sequence[dict[str, Any]]) -> str:
    """What stands between the page's marks: a caption and a table for each record."""
    parts = []
    for record in records:
        config, meta = record["config"], record["direction"]
        parts.append(
            f"*{record['family']}*{', by loophole,' if config.get('by_loophole') else ''} on {record['device']}, {config['pairs']} pairs fitted and {config['held_out']} held out, {meta['chart']} chart of rank "
            f"{meta['chart_rank']}, k = {meta['k']}, seed {config['seed']}, torch {record['versions']['torch']}:\n\n{as_table(record)}"
        )
    return "\n\n".join(parts)


def page(text: str, records: Sequence[dict[str, Any]]) -> str:
    """The page with its tables made anew."""
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}\n\n{page_section(records)}\n\n{END}{after}"


def published() -> list[dict[str, Any]]:
    """The records in the repository, by family."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("validation-*.json"))]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--family", choices=FAMILIES, default="demo")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--pairs", type=int, default=64, help="to fit on")
    parser.add_argument("--held-out", type=int, default=32, help="to validate on")
    parser.add_argument("--random", type=int, default=3, help="random directions in the charts")
    parser.add_argument(
        "--by-loophole", action="store_true", help="validate on each loophole's pairs, without controls"
    )
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--page", action="store_true", help="write the published tables into the documentation")
    options = parser.parse_args(arguments)
    if options.page:
        write_text(PAGE, page(PAGE.read_text(encoding="utf-8"), published()))
        return
    record = measure(options)
    print(as_table(record))
    write_record(options.out, record)


if __name__ == "__main__":
    main()

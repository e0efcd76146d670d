"""How much of a step a quarantine takes, against how much of it was routed there.

Run it as `python -m benchmarks.routing [--model demo|smollm2] [--device cuda] [--out FILE]`. An SVD adapter with a quarantine is
trained by likelihood, on clean completions alone and on a half-and-half mix with hacks, under each way to step the quarantine.
Of every step: the share that the projection routed (`removed`, the norm of the part over the norm of the whole) and the share
that the quarantine then moved (the norm of its displacement over the norm of both parameters' displacements). An optimizer that
normalises each coordinate makes the second large however small the first is. Then, on pairs that were neither trained nor
fitted on: by how much training raised the hack completions' likelihood over the clean ones', with the quarantine kept and ablated.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from peft import get_peft_model
from torch import Tensor, nn

from benchmarks.parts.policies import facts, load_family, make_pairs
from benchmarks.parts.records import table, write_record
from svdproj import ContrastivePair, HackDirection, ProjectedOptimizer
from svdproj.adapters import SVDScaleConfig, ablated, quarantine_of
from svdproj.batches import Sample
from svdproj.likelihood import make_batch, token_nll, weighted_nll
from svdproj.tokens import encode_completion

PAIRS, HELD_OUT, TRAINED = 48, 24, 48
ADAMW, SGD = "AdamW", "SGD"
SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "measure": (ADAMW, {"mode": "measure"}),
    "erase, update space": (ADAMW, {"mode": "erase", "space": "update"}),
    "route, gradient space": (ADAMW, {"mode": "route", "space": "gradient"}),
    "route, gradient space, SGD": (SGD, {"mode": "route", "space": "gradient"}),
    "route, update space": (ADAMW, {"mode": "route", "space": "update"}),
}
LR = {ADAMW: 3e-3, SGD: 0.3}


def inner_optimizer(kind: str, parameters: list[Tensor]) -> torch.optim.Optimizer:
    """The optimizer to wrap."""
    if kind == SGD:
        return torch.optim.SGD(parameters, lr=LR[SGD])
    return torch.optim.AdamW(parameters, lr=LR[ADAMW], weight_decay=0.0)


def sample(tokenizer: Any, pair: ContrastivePair, completion: str) -> Sample:
    """One completion with the mean of its tokens as its loss."""
    encoded = encode_completion(tokenizer, pair.prompt, completion)
    return Sample((encoded,), (1 / (len(encoded.ids) - encoded.prompt_length),))


@torch.no_grad()
def preference(model: nn.Module, tokenizer: Any, pairs: Sequence[ContrastivePair]) -> float:
    """Mean over pairs of `NLL(clean) - NLL(hack)`, each the mean of its tokens: higher is hack-ward."""
    differences = []
    for pair in pairs:
        sides = [
            token_nll(model, make_batch(model, [sample(tokenizer, pair, c)], False)) for c in (pair.clean, pair.hack)
        ]
        differences.append(float(sides[0].mean() - sides[1].mean()))
    return mean(differences)


def run(
    model: Any,
    data: list[Sample],
    kind: str,
    options: dict[str, Any],
    direction: HackDirection,
    args: argparse.Namespace,
) -> dict[str, Any]:
    """Train under one setting; the shares of each step."""
    quarantine = quarantine_of(model)
    if options["mode"] == "route":
        options = {**options, "quarantine": quarantine}
    inner = inner_optimizer(kind, [p for p in model.parameters() if p.requires_grad])
    optimizer = ProjectedOptimizer(inner, direction, model, **options)
    scales = {n: p for n, p in model.named_parameters() if "svdscale_s" in n}
    generator = torch.Generator().manual_seed(0)
    steps = []
    for _ in range(args.steps):
        chosen = torch.randint(len(data), (args.batch,), generator=generator).tolist()
        before = [torch.cat([p.detach().flatten() for p in side.values()]) for side in (scales, quarantine)]
        optimizer.zero_grad()
        loss = weighted_nll(model, make_batch(model, [data[i] for i in chosen], False)) / args.batch
        loss.backward()
        optimizer.step()
        moved = [
            float((torch.cat([p.detach().flatten() for p in side.values()]) - old).norm())
            for side, old in zip((scales, quarantine), before, strict=True)
        ]
        share = moved[1] / max(torch.tensor(moved).norm().item(), 1e-30)
        steps.append(
            {"loss": float(loss.detach()), "removed": optimizer.metrics()["svdproj/removed"], "quarantine_share": share}
        )
    return {
        "steps": steps,
        "removed": mean(s["removed"] for s in steps),
        "quarantine_share": mean(s["quarantine_share"] for s in steps),
        "norm_s": float(_norm(scales)),
        "norm_quarantine": float(_norm(quarantine)),
    }


def _norm(parameters: dict[str, Any]) -> Tensor:
    return torch.cat([p.detach().flatten() for p in parameters.values()]).norm()


@torch.no_grad()
def _untrain(model: Any) -> None:
    """Every scale of the adapter zero again: the base model."""
    for name, parameter in model.named_parameters():
        if "svdscale_" in name:
            parameter.zero_()
            parameter.grad = None


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All settings on both mixes."""
    pairs = make_pairs(PAIRS + HELD_OUT + TRAINED)
    fitted, held_out, trained = pairs[:PAIRS], pairs[PAIRS : PAIRS + HELD_OUT], pairs[PAIRS + HELD_OUT :]
    base, tokenizer = load_family(args.model, args.device)
    model = get_peft_model(base, SVDScaleConfig(quarantine=True)).eval()
    direction = HackDirection.fit(model, tokenizer, fitted, k=args.k, progress=False)
    clean = [sample(tokenizer, pair, pair.clean) for pair in trained]
    mixes = {"clean": clean, "half hacks": [*clean, *(sample(tokenizer, pair, pair.hack) for pair in trained)]}
    start = preference(model, tokenizer, held_out)
    results: list[dict[str, Any]] = []
    for mix, data in mixes.items():
        for name, (kind, options) in SETTINGS.items():
            _untrain(model)
            found = run(model, data, kind, options, direction, args)
            for state, context in (("kept", nullcontext()), ("ablated", ablated(model))):
                with context:
                    found[f"preference_{state}"] = preference(model, tokenizer, held_out) - start
            results.append({"mix": mix, "setting": name, "optimizer": kind, "lr": LR[kind], **found})
            print(f"  {mix}: {name}: routed {found['removed']:.3f}, moved {found['quarantine_share']:.3f}", flush=True)
    return {
        "benchmark": "routing",
        "model": args.model,
        "config": {
            **{n: getattr(args, n) for n in ("steps", "batch", "k")},
            "pairs": len(fitted),
            "held_out": len(held_out),
        },
        **facts(args.device),
        "settings": results,
    }


def show(record: dict[str, Any]) -> str:
    """The record as a table."""
    heads = ["trained on, setting", "routed", "quarantine moved", "ratio", "hack-ward, kept", "ablated"]
    rows = []
    for r in record["settings"]:
        routes = "route" in r["setting"]
        rows.append(
            [
                f"{r['mix']}: {r['setting']}{'' if r['optimizer'] in r['setting'] else f', {ADAMW}'}",
                f"{r['removed']:.3f}",
                f"{r['quarantine_share']:.3f}" if routes else "-",
                f"{r['quarantine_share'] / r['removed']:.2f}" if routes else "-",
                f"{r['preference_kept']:+.3f}",
                f"{r['preference_ablated']:+.3f}" if routes else "-",
            ]
        )
    return table(heads, rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo", choices=["tiny", "demo", "smollm2"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--k", type=int, default=24)
    parser.add_argument("--out", type=Path)
    record = measure(args := parser.parse_args(arguments))
    print(show(record))
    write_record(args.out, record)


if __name__ == "__main__":
    main()

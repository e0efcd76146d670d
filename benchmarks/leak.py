"""Why update space exists: how much of the applied update lies in the subspace, for several optimizers in both spaces.

Run it as `python -m benchmarks.leak [--device cuda] [--out FILE]`. A direction is fitted on SmolLM2-135M from real pairs, for the
linear weights of a few layers; gradients are those of hack completions to other prompts. Every optimizer is given the same
gradients, projected in gradient space, in update space, and not at all. The share is measured on the weights, in float64.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adafactor, AdamW, Muon, Optimizer

from benchmarks.parts.policies import facts, load_family, make_pairs
from benchmarks.parts.records import table, write_record
from svdproj import ContrastivePair, HackDirection, ProjectedOptimizer
from svdproj.names import canonical_name
from svdproj.tokens import encode_completion

LAYERS = (0, 9, 19, 29)
GATES = ("one_sided", "two_sided")
OPTIMIZERS: dict[str, tuple[Callable[..., Optimizer], dict[str, Any]]] = {
    "SGD": (SGD, {"lr": 1e-2}),
    "SGD, weight decay": (SGD, {"lr": 1e-2, "weight_decay": 1e-2}),
    "SGD, momentum": (SGD, {"lr": 1e-2, "momentum": 0.9}),
    "AdamW": (AdamW, {"lr": 1e-5, "betas": (0.9, 0.95), "weight_decay": 1e-2}),
    "Adafactor": (Adafactor, {"lr": 1e-3}),
    "Muon": (Muon, {"lr": 1e-3, "weight_decay": 1e-2}),
}
CLIP = 1.0

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Leak:
    """Shares of the applied updates' norm, over all steps and covered parameters.

    Args:
        share: in the part of the subspace that the gate guards, of each step's update; as a root of energies.
        total: the same of the whole displacement, from the first weights to the last.
    """

    share: float
    total: float


def gradients_of(
    model: nn.Module, tokenizer: Any, pairs: Sequence[ContrastivePair], names: Sequence[str], batch: int
) -> list[Weights]:
    """One clipped gradient for each batch of hack completions, of the mean negative log-likelihood of a token."""
    parameters = {canonical_name(name): parameter for name, parameter in model.named_parameters()}
    found = []
    for start in range(0, len(pairs), batch):
        model.zero_grad(set_to_none=True)
        for pair in pairs[start : start + batch]:
            encoded = encode_completion(tokenizer, pair.prompt, pair.hack)
            ids = torch.tensor([encoded.ids], device=model.device)  # type: ignore[arg-type]
            labels = ids.clone()
            labels[:, : encoded.prompt_length] = -100
            (model(input_ids=ids, labels=labels).loss / batch).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        found.append({name: parameters[name].grad.clone() for name in names})  # type: ignore[union-attr]
    model.zero_grad(set_to_none=True)
    return found


def leak(
    start: Weights, gradients: Sequence[Weights], direction: HackDirection, name: str, gate: str, **projection: Any
) -> Leak:
    """Train from `start` on the given gradients and measure each step's displacement."""
    module = nn.ParameterDict({key.replace(".", "/"): nn.Parameter(weight.clone()) for key, weight in start.items()})
    named = [(key.replace("/", "."), parameter) for key, parameter in module.items()]
    make, options = OPTIMIZERS[name]
    optimizer = ProjectedOptimizer(make([p for _, p in named], **options), direction, named, gate=gate, **projection)  # type: ignore[arg-type]
    inside = square = 0.0
    for gradient in gradients:
        before = {key: parameter.detach().clone() for key, parameter in named}
        for key, parameter in named:
            parameter.grad = gradient[key].clone()
        optimizer.step()
        for key, parameter in named:
            more = _energies(direction, key, parameter.detach() - before[key], gate)
            inside, square = inside + more[0], square + more[1]
    whole = [_energies(direction, key, parameter.detach() - start[key], gate) for key, parameter in named]
    return Leak((inside / square) ** 0.5, (sum(w[0] for w in whole) / sum(w[1] for w in whole)) ** 0.5)


def _energies(direction: HackDirection, name: str, displacement: Tensor, gate: str) -> tuple[float, float]:
    """Squared norms of a displacement's guarded part and of itself."""
    x = -displacement.double()
    coefficients = direction.subspaces[name].to(x.device, torch.float64).coefficients(x)
    guarded = coefficients.relu() if gate == "one_sided" else coefficients
    return float(guarded.square().sum()), float(x.square().sum())


def null_share(direction: HackDirection, start: Weights, gate: str) -> float:
    """The share that a random subspace of as many rows catches of a displacement spread evenly over all elements."""
    rows = sum(subspace.k for subspace in direction.subspaces.values())
    elements = sum(start[name].numel() for name in direction.subspaces)
    return float((rows / elements / (2 if gate == "one_sided" else 1)) ** 0.5)


def summary(record: Mapping[str, Any]) -> str:
    """The table that a record holds, one for each gate."""
    parts = []
    for gate in GATES:
        rows = [
            [
                name,
                f"{found['none']['share']:.4f}",
                f"{found['gradient']['share']:.1e}",
                f"{found['update']['share']:.1e}",
                f"{found['gradient']['share'] / found['none']['share']:.0%}",
            ]
            for name, found in record["results"][gate].items()
        ]
        heads = ["optimizer", "not projected", "gradient space", "update space", "left by gradient space"]
        null = record["null"][gate]
        parts.append(f"gate {gate}, a random subspace {null:.4f}\n\n{table(heads, rows)}")
    return "\n\n".join(parts)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables, and write the figures where asked."""
    parser = argparse.ArgumentParser(description="What is left of the subspace in the applied update.")
    parser.add_argument("--family", default="smollm2", choices=["smollm2", "demo", "tiny"])
    parser.add_argument("--layers", type=int, nargs="+", default=list(LAYERS))
    parser.add_argument("--pairs", type=int, default=16, help="pairs that the direction is fitted on")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--batch", type=int, default=2, help="hack completions to a step")
    parser.add_argument("--k", type=int, default=24)
    parser.add_argument("--optimizers", nargs="+", default=list(OPTIMIZERS), choices=list(OPTIMIZERS))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="where to write the figures as JSON")
    options = parser.parse_args(arguments)

    model, tokenizer = load_family(options.family, options.device)
    pairs = make_pairs(options.pairs + options.steps * options.batch)
    fitting, others = pairs[: options.pairs], pairs[options.pairs :]
    patterns = [f"model.layers.{layer}.*_proj.weight" for layer in options.layers]
    direction = HackDirection.fit(model, tokenizer, fitting, targets=patterns, k=options.k, holdout=0.0, batch_size=2)
    names = list(direction.subspaces)
    gradients = gradients_of(model, tokenizer, others, names, options.batch)
    start = {n: p.detach().clone() for n, p in model.named_parameters() if n in direction.subspaces}
    del model
    results: dict[str, dict[str, dict[str, Any]]] = {gate: {} for gate in GATES}
    config = {key: value for key, value in vars(options).items() if key not in ("out", "device")}
    config |= {"clip": CLIP, "optimizers": {name: OPTIMIZERS[name][1] for name in options.optimizers}}
    record = {
        **facts(options.device),
        "config": config,
        "direction": {"parameters": len(direction), "rows": sum(s.k for s in direction.subspaces.values())},
        "null": {gate: null_share(direction, start, gate) for gate in GATES},
        "results": results,
    }
    for name, gate in product(options.optimizers, GATES):
        spaces = {"none": {"mode": "measure"}, "gradient": {"space": "gradient"}, "update": {"space": "update"}}
        results[gate][name] = {
            space: vars(leak(start, gradients, direction, name, gate, **projection))
            for space, projection in spaces.items()
        }
        print(f"{gate} {name}: {results[gate][name]}", flush=True)
        write_record(options.out, record)  # each time: Muon's bfloat16 products take long on a CPU
    print(summary(record))


if __name__ == "__main__":
    main()

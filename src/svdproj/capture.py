"""Per-sample gradients of a model's weights, without one backward per completion.

For a linear layer the gradient of one completion is `Σₜ δₜ xₜᵀ`: the gradient at the layer's output times its input,
summed over tokens. Both are there in one batched backward, so a batch of pairs costs one forward and one backward in
which the weights' own gradients are never formed. Parameters that are not linear weights take a backward for each
sample.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from svdproj.batches import Sample
from svdproj.differences import Differences, ExplicitDifferences, FactoredDifferences
from svdproj.likelihood import can_share_prompts, make_batch, weighted_nll
from svdproj.precision import full_float32
from svdproj.targets import Target
from svdproj.targets import select_targets as select_targets

Visitor = Callable[[str, Sequence[int], Differences], None]


def visit_gradients(
    model: nn.Module,
    targets: Sequence[Target],
    samples: Sequence[Sample],
    visit: Visitor,
    *,
    batch_size: int = 8,
    shared: bool | None = None,
    on_batch: Callable[[int], None] = lambda count: None,
) -> None:
    """Show the visitor the gradient of every sample for every target, batch by batch.

    Args:
        model: left exactly as it was, also when an exception passes through.
        targets: from `select_targets`.
        samples: pairs (`pair_sample`, whose gradient is the difference of its sides) or single completions.
        visit: called with a target's name, the indices of the batch's samples, and their gradients in float32.
        batch_size: samples to a batch.
        shared: compute a prompt once for all completions of a sample; None asks the model whether it can.
        on_batch: called with the number of samples after each batch.
    """
    # Neighbours of like length waste little padding, and the longest batch first fails early where memory is short.
    order = sorted(range(len(samples)), key=lambda i: -samples[i].longest)
    layered = [target for target in targets if target.modules]
    others = [target for target in targets if not target.modules]
    with undisturbed(model), full_float32(next(model.parameters()).device.type):
        if shared is None:
            shared = can_share_prompts(model, samples[order[0]])
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            if layered:
                _visit_layers(model, layered, [samples[i] for i in chosen], chosen, visit, shared)
            if others:
                for i in chosen:
                    _visit_others(model, others, samples[i], i, visit, shared)
            on_batch(len(chosen))


def _visit_layers(
    model: nn.Module,
    targets: Sequence[Target],
    samples: Sequence[Sample],
    indices: Sequence[int],
    visit: Visitor,
    shared: bool,
) -> None:
    collected: dict[str, list[tuple[Tensor, Tensor]]] = defaultdict(list)
    uses: dict[str, int] = defaultdict(int)
    rows = len(samples) if shared else sum(len(sample.completions) for sample in samples)

    def collect(target: Target, inner: Tensor, outer: Tensor) -> None:
        collected[target.name].append((_by_sample(outer, rows, len(samples)), _by_sample(inner, rows, len(samples))))
        if len(collected[target.name]) == uses[target.name]:
            hand_over(target)

    def hand_over(target: Target) -> None:
        parts = collected.pop(target.name)
        outer, inner = (t[0] if len(t) == 1 else torch.cat(t, dim=1) for t in zip(*parts, strict=True))
        if target.transposed:
            outer, inner = inner, outer
        factored = FactoredDifferences(outer, inner)
        if target.chart is None:
            visit(target.name, indices, factored)
        else:
            visit(target.name, indices, ExplicitDifferences(factored.encode(target.chart)))

    with ExitStack() as stack:
        for target in targets:
            for module in target.modules:
                stack.callback(module.register_forward_hook(_tap(target, collect, uses)).remove)
        with torch.enable_grad():
            torch.autograd.backward(weighted_nll(model, make_batch(model, samples, shared)))
    # A weight that is used in several places, or once more in a recomputation, may have been left waiting.
    for target in targets:
        if target.name in collected:
            hand_over(target)


def _visit_others(
    model: nn.Module, targets: Sequence[Target], sample: Sample, index: int, visit: Visitor, shared: bool
) -> None:
    parameters = [target.parameter for target in targets]
    for parameter in parameters:
        parameter.requires_grad_(True)
    with torch.enable_grad():
        nll = weighted_nll(model, make_batch(model, [sample], shared))
        gradients = torch.autograd.grad(nll, parameters, allow_unused=True)
    for parameter in parameters:
        parameter.requires_grad_(False)
    for target, gradient in zip(targets, gradients, strict=True):
        full = torch.zeros_like(target.parameter) if gradient is None else gradient
        visit(target.name, [index], ExplicitDifferences(full.detach().float()[None]))


class _Tap(torch.autograd.Function):
    """The identity on a layer's output, which sees the layer's input and the gradient at its output in the backward.

    The input is kept as a saved tensor, so that activation checkpointing recomputes it as it does its own.
    """

    @staticmethod
    def forward(ctx: Any, inner: Tensor, output: Tensor, collect: Callable[[Tensor, Tensor], None]) -> Tensor:
        ctx.save_for_backward(inner)
        ctx.collect = collect
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor, None]:
        (inner,) = ctx.saved_tensors
        ctx.collect(inner, gradients[0])
        return None, gradients[0], None


def _tap(
    target: Target, collect: Callable[[Target, Tensor, Tensor], None], uses: dict[str, int]
) -> Callable[..., Tensor]:
    def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return output
        uses[target.name] += 1
        if not output.requires_grad:
            # The first layers of a model whose weights take no gradient: the graph starts here.
            output = output.detach().requires_grad_(True)
        return _Tap.apply(args[0].detach(), output, lambda inner, outer: collect(target, inner, outer))  # type: ignore[no-any-return,no-untyped-call]

    return hook


def _by_sample(tensor: Tensor, rows: int, n_samples: int) -> Tensor:
    """All tokens of a sample's rows as one sequence, `[samples, tokens, features]`, in float32."""
    # Layers that flatten tokens (as in mixtures of experts) mix the rows of a batch beyond recovery.
    if tensor.shape[0] != rows:
        raise NotImplementedError(
            f"a layer's output has {tensor.shape[0]} rows for a batch of {rows}; svdproj needs layers that keep the "
            "batch dimension first, so leave this layer out of targets"
        )
    return rearrange(
        tensor.detach().flatten(1, -2).float() if tensor.ndim > 2 else tensor.detach().float()[:, None],
        "(samples sides) t f -> samples (sides t) f",
        samples=n_samples,
    )


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Dropout off and weights without gradients inside the block; everything as it was after it."""
    training = {module: module.training for module in model.modules()}
    wanted = {parameter: parameter.requires_grad for parameter in model.parameters()}
    try:
        model.eval()
        for parameter in wanted:
            parameter.requires_grad_(False)
        yield
    finally:
        for module, was_training in training.items():
            module.training = was_training
        for parameter, requires_grad in wanted.items():
            parameter.requires_grad_(requires_grad)

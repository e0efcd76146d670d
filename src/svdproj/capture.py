"""Per-sample gradients of a model's weights, without one backward per completion.

For a linear layer the gradient of one completion is `Σₜ δₜ xₜᵀ`: the gradient at the layer's output times its input,
summed over tokens. Both are there in one batched backward, so a batch of pairs costs one forward and one backward in
which the weights' own gradients are never formed. Parameters that are not linear weights, and weights that a model uses
without calling their layer, take a backward for each sample.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from svdproj.batches import Batch, Sample, split_into_batches
from svdproj.differences import Differences, ExplicitDifferences, FactoredDifferences
from svdproj.likelihood import can_share_prompts, make_batch, weighted_nll
from svdproj.targets import Target, refuse_sharded
from svdproj.undisturbed import exact_passes

Visitor = Callable[[str, Sequence[int], Differences], None]

# What a further batch costs, in tokens: on an accelerator starting the kernels of a small model takes as long as a few
# thousand tokens do.
_BATCH_OVERHEAD = {"cuda": 2048, "cpu": 32}
_CUT_OFF = "it detaches its activations, or checkpoints them in the reentrant form: use torch.utils.checkpoint with use_reentrant=False"
# What autograd says its running backward's number is while none is running.
_NO_BACKWARD = -1


class Places:
    """Indices of samples as tensors, each sent to a device once: waiting for that at every layer would hold a backward pass up."""

    def __init__(self) -> None:
        self._sent: dict[tuple[torch.device, tuple[int, ...]], Tensor] = {}

    def __call__(self, indices: Sequence[int], device: torch.device) -> Tensor:
        key = device, tuple(indices)
        if key not in self._sent:
            self._sent[key] = torch.as_tensor(key[1], device=device)
        return self._sent[key]


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
        batch_size: samples to a batch, at most.
        shared: compute a prompt once for all completions of a sample; None asks the model whether it can.
        on_batch: called with the number of samples after each batch.

    Raises:
        NotImplementedError: sharded parameters; a layer that does not keep rows and tokens apart (mixtures of experts).
        RuntimeError: the model's output is cut off from its layers, or from one of them.
    """
    refuse_sharded(targets)
    layered = [target for target in targets if target.modules]
    others = [target for target in targets if not target.modules]
    with exact_passes(model):
        if shared is None:
            shared = can_share_prompts(model, max(samples, key=lambda sample: sample.longest))
        overhead = _BATCH_OVERHEAD.get(next(model.parameters()).device.type, 0)
        for chosen in split_into_batches(samples, batch_size, shared, overhead):
            never_called: list[Target] = []
            if layered:
                never_called = _visit_layers(model, layered, [samples[i] for i in chosen], chosen, visit, shared)
            # Layers for images, say, are not called for text and have no gradient; that none at all has one is a mistake.
            may_be_unused = not others and len(never_called) < len(layered)
            if one_by_one := [*others, *never_called]:
                for i in chosen:
                    _visit_others(model, one_by_one, samples[i], i, visit, shared, may_be_unused)
            on_batch(len(chosen))


def _visit_layers(
    model: nn.Module,
    targets: Sequence[Target],
    samples: Sequence[Sample],
    indices: Sequence[int],
    visit: Visitor,
    shared: bool,
) -> list[Target]:
    """Show the gradients at layers that the model calls; returns the targets whose layers it never does.

    A model may use a layer's weight without calling the layer, as `nn.MultiheadAttention` does with `out_proj`.
    """
    collected: dict[str, list[tuple[Tensor, Tensor]]] = defaultdict(list)
    uses: dict[str, int] = {}
    shown: set[str] = set()
    batch = make_batch(model, samples, shared)

    def collect(target: Target, inner: Tensor, outer: Tensor) -> None:
        collected[target.name].append(
            tuple(_by_sample(tensor, batch, len(samples), target.name) for tensor in (outer, inner))  # type: ignore[arg-type]
        )
        if len(collected[target.name]) == uses[target.name]:
            hand_over(target)

    def hand_over(target: Target) -> None:
        shown.add(target.name)
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
                stack.callback(module.register_forward_hook(_tap(target, collect, uses), with_kwargs=True).remove)
        with torch.enable_grad():
            nll = weighted_nll(model, batch)
            if not uses:
                return list(targets)
            if not nll.requires_grad:
                raise RuntimeError(
                    f"the model's output depends on none of the {len(targets)} layers by autograd; {_CUT_OFF}"
                )
            torch.autograd.backward(nll)
    # Layers that a checkpoint of the reentrant form runs inside the backward alone were not counted in the forward.
    for target in targets:
        if target.name in collected:
            hand_over(target)
        if uses.get(target.name) == 0 and target.name not in shown:
            raise RuntimeError(f"the model runs the layer of {target.name} without autograd; {_CUT_OFF}")
    return [target for target in targets if target.name not in uses]


def _visit_others(
    model: nn.Module,
    targets: Sequence[Target],
    sample: Sample,
    index: int,
    visit: Visitor,
    shared: bool,
    may_be_unused: bool,
) -> None:
    parameters = [target.parameter for target in targets]
    for parameter in parameters:
        parameter.requires_grad_(True)
    with torch.enable_grad():
        nll = weighted_nll(model, make_batch(model, [sample], shared))
        if not nll.requires_grad and not may_be_unused:
            raise ValueError(
                f"the loss depends on none of {', '.join(target.name for target in targets[:3])}, …; an adapter that is merged "
                "or disabled has no gradient: unmerge or enable it first, or choose other targets"
            )
        gradients = (
            torch.autograd.grad(nll, parameters, allow_unused=True) if nll.requires_grad else [None] * len(parameters)
        )
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
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor:
        uses.setdefault(target.name, 0)
        if not torch.is_grad_enabled():
            return output
        # A checkpoint runs the layer once more, inside the backward; that is no further use of the weight.
        if torch._C._current_graph_task_id() == _NO_BACKWARD:
            uses[target.name] += 1
        inner = args[0] if args else next(iter(kwargs.values()))
        if not output.requires_grad:
            # The first layers of a model whose weights take no gradient: the graph starts here.
            output = output.detach().requires_grad_(True)
        return _Tap.apply(inner.detach(), output, lambda inner, outer: collect(target, inner, outer))  # type: ignore[no-any-return,no-untyped-call]

    return hook


def _by_sample(tensor: Tensor, batch: Batch, n_samples: int, name: str) -> Float[Tensor, "samples tokens features"]:
    """All tokens of a sample's rows as one sequence, in float32."""
    rows, tokens = batch.ids.shape
    # Layers that flatten or regroup tokens, as in mixtures of experts, mix the rows of a batch beyond recovery. A
    # dimension that is right by accident is not believed: both have to be.
    if tensor.ndim != 3 or tensor.shape[0] != rows or tensor.shape[1] not in (tokens, batch.kept):
        raise NotImplementedError(
            f"the layer of {name} sees a tensor of shape {tuple(tensor.shape)} for {rows} rows of {tokens} tokens: it "
            "does not keep rows and tokens apart, as the experts and routers of a mixture of experts do not. Leave it "
            'out with patterns for targets, such as targets=["*.self_attn.*.weight"]'
        )
    return rearrange(tensor.detach().float(), "(samples sides) t f -> samples (sides t) f", samples=n_samples)

"""Per-pair gradients of a model's weights, without one backward per completion.

For a linear layer the gradient of one completion is `Σₜ δₜ xₜᵀ`: the gradient at the layer's output times its input,
summed over tokens. Both are there in one batched backward, so a batch of pairs costs one forward and one backward in
which the weights' own gradients are never formed. Parameters that are not linear weights take a backward for each pair.
"""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from svdproj.differences import Differences, ExplicitDifferences, linear_differences
from svdproj.names import canonical_name
from svdproj.precision import full_float32
from svdproj.tokens import Batch, Encoded, pad_batch

Visitor = Callable[[str, Sequence[int], Differences], None]


@dataclass(frozen=True, eq=False)
class Target:
    """A parameter whose gradients are wanted.

    Args:
        name: canonical name.
        parameter: the parameter itself.
        modules: the linear layers that use it as their weight; empty for any other parameter.
        transposed: the weight is stored `in out`, as in transformers' `Conv1D`.
    """

    name: str
    parameter: nn.Parameter
    modules: tuple[nn.Module, ...] = ()
    transposed: bool = False


def select_targets(model: nn.Module, targets: str | Sequence[str]) -> list[Target]:
    """The parameters that `targets` means.

    Args:
        model: the model.
        targets: `"all-linear"`, every linear weight but the output head (on a PEFT model: the trainable parameters);
            `"trainable"`; or shell patterns for canonical names, such as `"*.mlp.*.weight"`.

    Raises:
        ValueError: nothing is selected.
    """
    linear = _linear_weights(model)
    parameters = {canonical_name(name): parameter for name, parameter in model.named_parameters()}
    if targets == "all-linear" and hasattr(model, "peft_config"):
        targets = "trainable"
    if targets == "all-linear":
        excluded = _output_head(model) | {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
        names = [name for name, p in parameters.items() if id(p) in linear and id(p) not in excluded]
    elif targets == "trainable":
        names = [name for name, p in parameters.items() if p.requires_grad]
    else:
        patterns = [targets] if isinstance(targets, str) else list(targets)
        names = [name for name in parameters if any(fnmatchcase(name, pattern) for pattern in patterns)]
    if not names:
        example = next(iter(parameters), "none at all")
        raise ValueError(
            f"targets {targets!r} select no parameter; use 'all-linear', 'trainable' or shell patterns for names such "
            f"as {example!r}"
        )
    selected = []
    for name in names:
        modules = tuple(linear.get(id(parameters[name]), ()))
        # A weight that some other layer uses too (a tied embedding) has gradients that the linear layers do not see.
        if modules and id(parameters[name]) in _used_elsewhere(model):
            modules = ()
        transposed = bool(modules) and not isinstance(modules[0], nn.Linear)
        selected.append(Target(name, parameters[name], modules, transposed))
    return selected


def visit_differences(
    model: nn.Module,
    targets: Sequence[Target],
    pairs: Sequence[tuple[Encoded, Encoded]],
    visit: Visitor,
    *,
    loss: str = "mean",
    batch_size: int = 8,
    on_batch: Callable[[int], None] = lambda count: None,
) -> None:
    """Show the visitor the gradient differences of every pair for every target, batch by batch.

    Args:
        model: left exactly as it was, also when an exception passes through.
        targets: from `select_targets`.
        pairs: hack and clean side as token ids.
        visit: called with a target's name, the indices of the batch's pairs, and their differences in float32.
        loss: `"mean"` for the mean over a completion's tokens, `"sum"` for their sum.
        batch_size: pairs to a batch.
        on_batch: called with the number of pairs after each batch.
    """
    # Neighbours of like length waste little padding.
    order = sorted(range(len(pairs)), key=lambda i: -max(len(pairs[i][0].ids), len(pairs[i][1].ids)))
    device = next(model.parameters()).device
    layered = [target for target in targets if target.modules]
    others = [target for target in targets if not target.modules]
    with _undisturbed(model), full_float32(device.type):
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            if layered:
                _visit_layers(model, layered, [pairs[i] for i in chosen], chosen, visit, loss, device)
            if others:
                for i in chosen:
                    _visit_others(model, others, pairs[i], i, visit, loss, device)
            on_batch(len(chosen))


def _visit_layers(
    model: nn.Module,
    targets: Sequence[Target],
    pairs: Sequence[tuple[Encoded, Encoded]],
    indices: Sequence[int],
    visit: Visitor,
    loss: str,
    device: torch.device,
) -> None:
    collected: dict[str, list[tuple[Tensor, Tensor]]] = defaultdict(list)
    uses: dict[str, int] = defaultdict(int)

    def collect(target: Target, inner: Tensor, outer: Tensor) -> None:
        collected[target.name].append(_side_by_side(outer, inner, len(pairs)))
        if len(collected[target.name]) == uses[target.name]:
            hand_over(target)

    def hand_over(target: Target) -> None:
        parts = collected.pop(target.name)
        outer, inner = (torch.cat(tensors, dim=1) for tensors in zip(*parts, strict=True))
        if target.transposed:
            outer, inner = inner, outer
        visit(target.name, indices, linear_differences(outer, inner))

    with ExitStack() as stack:
        for target in targets:
            for module in target.modules:
                stack.callback(module.register_forward_hook(_tap(target, collect, uses)).remove)
        batch = _pair_batch(pairs, loss, device)
        with torch.enable_grad():
            torch.autograd.backward(_weighted_nll(model, batch))
    # A weight that is used in several places, or once more in a recomputation, may have been left waiting.
    for target in targets:
        if target.name in collected:
            hand_over(target)


def _visit_others(
    model: nn.Module,
    targets: Sequence[Target],
    pair: tuple[Encoded, Encoded],
    index: int,
    visit: Visitor,
    loss: str,
    device: torch.device,
) -> None:
    parameters = [target.parameter for target in targets]
    for parameter in parameters:
        parameter.requires_grad_(True)
    with torch.enable_grad():
        nll = _weighted_nll(model, _pair_batch([pair], loss, device))
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


def _side_by_side(outer: Tensor, inner: Tensor, n_pairs: int) -> tuple[Tensor, Tensor]:
    """Both completions of a pair as one sequence of tokens, `[pairs, 2 tokens, features]`, in float32."""
    # Layers that flatten tokens (as in mixtures of experts) mix the rows of a batch beyond recovery.
    if outer.shape[0] != 2 * n_pairs:
        raise NotImplementedError(
            f"a layer's output has {outer.shape[0]} rows for a batch of {2 * n_pairs} completions; svdproj needs layers "
            "that keep the batch dimension first, so leave this layer out of targets"
        )
    outer, inner = (
        rearrange(t.detach().float(), "(sides pairs) ... f -> pairs (sides ...) f", sides=2)
        if t.ndim == 2
        else rearrange(t.detach().flatten(1, -2).float(), "(sides pairs) t f -> pairs (sides t) f", sides=2)
        for t in (outer, inner)
    )
    return outer, inner


def _pair_batch(pairs: Sequence[tuple[Encoded, Encoded]], loss: str, device: torch.device) -> Batch:
    """Hack sides first, clean sides after them, with opposite signs: the gradient of the sum is the difference."""
    rows = [pair[0] for pair in pairs] + [pair[1] for pair in pairs]
    signs = [1.0] * len(pairs) + [-1.0] * len(pairs)
    scales = [
        sign * (1.0 if loss == "sum" else 1.0 / row.completion_length) for sign, row in zip(signs, rows, strict=True)
    ]
    return pad_batch(rows, scales, device)


def _weighted_nll(model: nn.Module, batch: Batch) -> Tensor:
    """`Σ weight · NLL` over all positions."""
    # Logits before the first completion token are never used; on a large vocabulary they are most of the memory.
    first = int(batch.weights.ne(0).any(0).nonzero()[0])
    extra: dict[str, Any] = {}
    accepted = inspect.signature(model.forward).parameters
    kept = batch.ids.shape[1] - first + 1
    if "logits_to_keep" in accepted:
        extra["logits_to_keep"] = kept
    if "use_cache" in accepted:
        extra["use_cache"] = False
    output = model(input_ids=batch.ids, attention_mask=batch.mask, **extra)
    logits = output.logits if hasattr(output, "logits") else output
    logits = logits[:, -kept:-1].float()
    targets = batch.ids[:, first:]
    nll = cross_entropy(rearrange(logits, "n t v -> (n t) v"), rearrange(targets, "n t -> (n t)"), reduction="none")
    return (nll * rearrange(batch.weights[:, first:], "n t -> (n t)")).sum()


@contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
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


def _linear_weights(model: nn.Module) -> dict[int, list[nn.Module]]:
    """Linear layers by the identity of their weight."""
    found: dict[int, list[nn.Module]] = defaultdict(list)
    for module in model.modules():
        if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D":
            weight = module.weight
            if isinstance(weight, nn.Parameter):
                found[id(weight)].append(module)
    return found


def _used_elsewhere(model: nn.Module) -> set[int]:
    """Weights that some layer other than a linear one holds as well."""
    return {
        id(parameter)
        for module in model.modules()
        if not (isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D")
        for parameter in module.parameters(recurse=False)
    }


def _output_head(model: nn.Module) -> set[int]:
    """The output head's weight, by identity."""
    get = getattr(model, "get_output_embeddings", None)
    head = get() if callable(get) else None
    if head is None:
        head = getattr(model, "lm_head", None)
    weight = getattr(head, "weight", None)
    return set() if weight is None else {id(weight)}

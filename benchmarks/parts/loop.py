"""The peer of `svdproj.capture.visit_gradients`: one forward and one backward for every completion."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from svdproj.batches import Sample
from svdproj.capture import Visitor
from svdproj.differences import ExplicitDifferences
from svdproj.likelihood import weighted_nll
from svdproj.targets import Target
from svdproj.undisturbed import exact_passes


def visit_by_loop(
    model: nn.Module,
    targets: Sequence[Target],
    samples: Sequence[Sample],
    visit: Visitor,
    *,
    batch_size: int = 1,
    shared: bool | None = None,
    on_batch: Callable[[int], None] = lambda count: None,
) -> None:
    """The gradients of all samples, computed as PyTorch users do it: a completion at a time, weights that require
    gradients, autograd's own sums.

    It has the favours that do not change what it is: no padding, logits for the completion alone, and gradients for
    the targets only. `batch_size` and `shared` are accepted and ignored.
    """
    from svdproj.batches import separate_rows

    parameters = [target.parameter for target in targets]
    with exact_passes(model):
        for parameter in parameters:
            parameter.requires_grad_(True)
        for i, sample in enumerate(samples):
            sums: list[torch.Tensor | None] = [None] * len(parameters)
            for completion, scale in zip(sample.completions, sample.scales, strict=True):
                batch = separate_rows([Sample((completion,), (scale,))], parameters[0].device)
                with torch.enable_grad():
                    gradients = torch.autograd.grad(weighted_nll(model, batch), parameters)
                sums = [g if s is None else s.add_(g) for s, g in zip(sums, gradients, strict=True)]
            for target, total in zip(targets, sums, strict=True):
                assert total is not None
                visit(target.name, [i], ExplicitDifferences(total.float()[None]))
            on_batch(1)

"""Negative log likelihoods of a batch of completions, with no more logits than they need."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from svdproj.batches import Batch, Sample, separate_rows, shared_rows

# How far two layouts of the same completions may differ in a token's log likelihood: rounding in float32, and about
# three bits of a bfloat16 logit. Completions that see each other, or a window that the mask forgot, differ by more.
_LAYOUT_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-6}
_LOW_PRECISION_TOLERANCE = 0.1


def make_batch(model: nn.Module, samples: Sequence[Sample], shared: bool) -> Batch:
    """The samples as rows for a model: one row for each sample where prompts are shared, one for each completion
    elsewhere.
    """
    parameter = next(model.parameters())
    if shared:
        return shared_rows(samples, parameter.device, parameter.dtype)
    return separate_rows(samples, parameter.device)


def weighted_nll(model: nn.Module, batch: Batch) -> Float[Tensor, ""]:
    """`Σ weight · NLL` over the batch's predictions."""
    return (token_nll(model, batch) * batch.weights).sum()


def token_nll(model: nn.Module, batch: Batch) -> Float[Tensor, "predictions"]:
    """The negative log likelihood of each predicted token, in float32."""
    rows, tokens = batch.ids.shape
    row, place = batch.predictors // tokens, batch.predictors % tokens
    accepted = _accepted(model)
    extra: dict[str, Any] = {}
    if "logits_to_keep" in accepted:
        # Logits inside the prompts are never used; on a large vocabulary they are most of the memory.
        extra["logits_to_keep"] = batch.kept
    if "use_cache" in accepted:
        extra["use_cache"] = False
    if batch.positions is not None:
        extra["position_ids"] = batch.positions
    output = model(input_ids=batch.ids, attention_mask=batch.mask, **extra)
    logits = output.logits if hasattr(output, "logits") else output
    kept = logits.shape[1]
    chosen = logits.reshape(rows * kept, -1)[row * kept + place - (tokens - kept)]
    return cross_entropy(chosen.float(), batch.labels, reduction="none")


@torch.no_grad()
def can_share_prompts(model: nn.Module, sample: Sample) -> bool:
    """Whether the model gives a sample's completions the same likelihoods when they stand in one row behind one prompt.

    It takes an attention that honours a mask of any form and the positions that it is told. That is asked of the model
    itself, not of a list of architectures: one sample is computed both ways.

    Args:
        model: in evaluation mode.
        sample: the longest one, so that attention windows shorter than it are noticed.
    """
    if len(sample.completions) < 2 or "position_ids" not in _accepted(model):
        return False
    if getattr(getattr(model, "config", None), "_attn_implementation", None) not in ("eager", "sdpa"):
        return False  # other kernels ignore such a mask, or read it as something else
    apart = token_nll(model, make_batch(model, [sample], shared=False))
    together = token_nll(model, make_batch(model, [sample], shared=True))
    dtype = next(model.parameters()).dtype
    return bool((apart - together).abs().max() <= _LAYOUT_TOLERANCE.get(dtype, _LOW_PRECISION_TOLERANCE))


def _accepted(model: nn.Module) -> frozenset[str]:
    return frozenset(inspect.signature(model.forward).parameters)

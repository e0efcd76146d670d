"""Completions laid out as rows of tokens: one to a row, or all of a prompt's in one row behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from svdproj.tokens import Encoded


@dataclass(frozen=True)
class Sample:
    """What one gradient is taken of: the sum of some completions' negative log likelihoods, each times its scale.

    Args:
        completions: on one and the same prompt.
        scales: one for each completion.
    """

    completions: tuple[Encoded, ...]
    scales: tuple[float, ...]

    @property
    def longest(self) -> int:
        """Tokens of the longest completion with its prompt."""
        return max(len(completion.ids) for completion in self.completions)

    @property
    def shared_length(self) -> int:
        """Tokens of the prompt and of all completions, in one row."""
        return self.completions[0].prompt_length + sum(c.completion_length for c in self.completions)


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows of tokens, padded on the right, and what to read off the model's output for them.

    Args:
        ids: token ids, zero where padded.
        mask: 1 on real tokens; or, for rows that hold several completions, what is added to the attention scores.
        positions: each token's position in its own text; None where that is its place in the row.
        predictors: where a completion's tokens are predicted, as places in the flattened `ids`.
        labels: the tokens to predict there.
        weights: what each prediction's negative log likelihood counts.
    """

    ids: Int[Tensor, "rows tokens"]
    mask: Int[Tensor, "rows tokens"] | Float[Tensor, "rows 1 tokens tokens"]
    positions: Int[Tensor, "rows tokens"] | None
    predictors: Int[Tensor, "predictions"]
    labels: Int[Tensor, "predictions"]
    weights: Float[Tensor, "predictions"]

    @cached_property
    def kept(self) -> int:
        """Places at the end of the rows that logits are needed for."""
        tokens = self.ids.shape[1]
        return tokens - int((self.predictors % tokens).min()) if len(self.predictors) else tokens


def pair_sample(pair: tuple[Encoded, Encoded], loss: str) -> Sample:
    """Hack minus clean: the gradient of this sample is the pair's difference `D`."""
    hack, clean = pair
    return Sample(pair, (_scale(hack, loss), -_scale(clean, loss)))


def completion_sample(completion: Encoded, loss: str) -> Sample:
    """One completion's negative log likelihood, the mean over its tokens or their sum."""
    return Sample((completion,), (_scale(completion, loss),))


def separate_rows(samples: Sequence[Sample], device: torch.device | str) -> Batch:
    """One completion to a row; a sample's completions follow each other."""
    rows = [row for sample in samples for row in sample.completions]
    scales = [scale for sample in samples for scale in sample.scales]
    tokens = max(len(row.ids) for row in rows)
    ids = torch.zeros(len(rows), tokens, dtype=torch.long)
    mask = torch.zeros_like(ids)
    found = _Predictions()
    for i, (row, scale) in enumerate(zip(rows, scales, strict=True)):
        ids[i, : len(row.ids)] = torch.tensor(row.ids)
        mask[i, : len(row.ids)] = 1
        last = i * tokens + row.prompt_length - 1
        found.add(row, last, last + 1, scale)
    return Batch(ids.to(device), mask.to(device), None, *found.tensors(device))


def shared_rows(samples: Sequence[Sample], device: torch.device | str, dtype: torch.dtype) -> Batch:
    """One sample to a row: the prompt once, then all completions, none of which sees another.

    Args:
        samples: completions that share a prompt.
        device, dtype: of the attention mask, the model's own.
    """
    lengths = [sample.shared_length for sample in samples]
    tokens = max(lengths)
    ids = torch.zeros(len(samples), tokens, dtype=torch.long)
    positions = torch.zeros_like(ids)
    # A padded place sees itself, since a softmax over nothing is not a number.
    sees = torch.eye(tokens, dtype=torch.bool).repeat(len(samples), 1, 1)
    found = _Predictions()
    for i, sample in enumerate(samples):
        prompt = sample.completions[0].prompt_length
        start = prompt
        ids[i, :prompt] = torch.tensor(sample.completions[0].ids[:prompt])
        positions[i, :prompt] = torch.arange(prompt)
        sees[i, : lengths[i], : lengths[i]] = torch.ones(lengths[i], lengths[i], dtype=torch.bool).tril()
        for completion, scale in zip(sample.completions, sample.scales, strict=True):
            end = start + completion.completion_length
            ids[i, start:end] = torch.tensor(completion.ids[prompt:])
            positions[i, start:end] = torch.arange(prompt, len(completion.ids))
            sees[i, start:end, prompt:start] = False
            found.add(completion, i * tokens + prompt - 1, i * tokens + start, scale)
            start = end
    mask = torch.zeros(sees.shape, dtype=dtype).masked_fill(~sees, torch.finfo(dtype).min)
    return Batch(ids.to(device), mask[:, None].to(device), positions.to(device), *found.tensors(device))


def split_into_batches(samples: Sequence[Sample], batch_size: int, shared: bool, overhead: int = 0) -> list[list[int]]:
    """Indices of the samples of each batch: neighbours in length, longest first, so that a lack of memory shows at once.

    Of all ways to cut the samples in order of length, the one with the fewest tokens, padding included.

    Args:
        samples: to be laid out.
        batch_size: samples to a batch, at most.
        shared: the layout, one row for each sample or one for each completion.
        overhead: what a further batch costs, in tokens.
    """
    check_batch_size(batch_size)
    tokens = [s.shared_length if shared else s.longest * len(s.completions) for s in samples]
    order = sorted(range(len(samples)), key=lambda i: -tokens[i])
    # The fewest tokens for the samples from each place on, and where the first of their batches ends.
    fewest, ends = [0] * (len(order) + 1), [0] * len(order)
    for start in reversed(range(len(order))):
        choices = range(start + 1, min(start + batch_size, len(order)) + 1)
        costs = {end: (end - start) * tokens[order[start]] + overhead + fewest[end] for end in choices}
        # With equal costs the largest batch.
        ends[start] = min(reversed(choices), key=costs.__getitem__)
        fewest[start] = costs[ends[start]]
    batches, start = [], 0
    while start < len(order):
        batches.append(order[start : ends[start]])
        start = ends[start]
    return batches


def check_batch_size(batch_size: int) -> None:
    """Refuse batches without a sample.

    Raises:
        ValueError: `batch_size` is less than 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")


class _Predictions:
    """Places, labels and weights, gathered completion by completion."""

    def __init__(self) -> None:
        self.places: list[int] = []
        self.labels: list[int] = []
        self.weights: list[float] = []

    def add(self, completion: Encoded, last: int, start: int, weight: float) -> None:
        """A completion that starts at the place `start`, and whose prompt ends at the place `last`."""
        places = [last, *range(start, start + completion.completion_length - 1)]
        labels = completion.ids[completion.prompt_length :]
        # Without a prompt nothing predicts the first token.
        skip = 0 if completion.prompt_length else 1
        self.places += places[skip:]
        self.labels += labels[skip:]
        self.weights += [weight] * len(labels[skip:])

    def tensors(self, device: torch.device | str) -> tuple[Tensor, Tensor, Tensor]:
        return (
            torch.tensor(self.places, dtype=torch.long, device=device),
            torch.tensor(self.labels, dtype=torch.long, device=device),
            torch.tensor(self.weights, device=device),
        )


def _scale(completion: Encoded, loss: str) -> float:
    if loss == "sum":
        return 1.0
    # Without a prompt nothing predicts the first token.
    return 1.0 / max(1, completion.completion_length - (0 if completion.prompt_length else 1))

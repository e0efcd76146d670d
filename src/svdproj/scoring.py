"""How hack-ward single completions are, by their gradients: a probe that works where all rewards are equal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from svdproj.batches import check_batch_size, completion_sample
from svdproj.pairs import Prompt
from svdproj.precision import full_float32
from svdproj.progress import progress_bar
from svdproj.readings import read_samples
from svdproj.subspace import Subspace
from svdproj.tokens import check_vocabulary, context_length, encode_completion

# A completion's coordinates take some megabytes over all parameters: so many completions' are held together.
_AT_ONCE = 64


@dataclass(frozen=True, eq=False)
class Scores:
    """Cosines of completions' gradients (mean negative log likelihood of the completion's tokens) with a direction.

    Args:
        cos: norm of the hack-ward coefficients over the gradient's norm, in [0, 1]: what `svdproj/cos_in` would be if
            training imitated the completion.
        signed: sum of all coefficients over the gradient's norm; ranks completions from clean to hack.
        null_cos: `cos` of random rows in the whole space.
        chart_null_cos: `cos` of random rows in the charts.

    Example:
        >>> scores = direction.score(model, tokenizer, [("Sort xs.", "def run_tests(): pass")])
        >>> (scores.cos / scores.chart_null_cos).shape  # how many times the null, for each completion
        torch.Size([1])
    """

    cos: Float[Tensor, "samples"]
    signed: Float[Tensor, "samples"]
    null_cos: Float[Tensor, "samples"]
    chart_null_cos: Float[Tensor, "samples"]

    def __len__(self) -> int:
        """Number of completions."""
        return len(self.cos)


@full_float32("cpu")  # the readings lie there; the pass over the completions looks after the model's own device
def score_completions(
    subspaces: Mapping[str, Subspace],
    model: nn.Module,
    tokenizer: Any,
    completions: Sequence[tuple[Prompt, str]],
    batch_size: int,
    progress: bool,
) -> Scores:
    """See `HackDirection.score`."""
    if not completions or not subspaces:
        raise ValueError(
            f"scoring needs completions and a direction with rows, got {len(completions)} completions and "
            f"{len(subspaces)} parameters"
        )
    check_batch_size(batch_size)
    longest = context_length(model)
    everything = []
    for number, (prompt, completion) in enumerate(completions):
        encoded = encode_completion(tokenizer, prompt, completion)
        if longest is not None and len(encoded.ids) > longest:
            raise ValueError(
                f"completion {number}: with its prompt it takes {len(encoded.ids)} tokens, the model's context is {longest}"
            )
        everything.append(encoded)
    check_vocabulary(model, tokenizer, everything)
    samples = [completion_sample(encoded, "mean") for encoded in everything]
    # Neighbours of like length waste little padding, and the longest first fails early where memory is short.
    order = sorted(range(len(samples)), key=lambda i: -samples[i].longest)
    at_once = batch_size * max(1, _AT_ONCE // batch_size)
    parts = []
    with progress_bar(len(samples), progress, "scoring", "completion") as on_batch:
        for start in range(0, len(order), at_once):
            chosen = [samples[i] for i in order[start : start + at_once]]
            found = read_samples(subspaces, model, chosen, batch_size, on_batch)
            parts.append((found.cosines, found.signed, found.null_cosines, found.chart_null_cosines))
    back = torch.tensor(order).argsort()
    return Scores(*(torch.cat(columns)[back] for columns in zip(*parts, strict=True)))

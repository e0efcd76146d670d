"""Does a direction tell hack from clean on pairs that it has not seen?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from svdproj.batches import completion_sample, pair_sample
from svdproj.pairs import ContrastivePair
from svdproj.progress import progress_bar
from svdproj.readings import read_samples
from svdproj.significance import auroc, cluster_means, sign_flip_p_value, t_statistic
from svdproj.subspace import Subspace
from svdproj.tokens import context_length, encode_pair, prompt_key

# A direction has to pass both tests at this level to be called better than random.
SIGNIFICANCE = 0.05
# One-sided sign flips reach the level with five prompts, not with four.
_ENOUGH_PROMPTS = 5
_RANDOM_DIRECTIONS = 199


@dataclass(frozen=True)
class Validation:
    """A direction's figures on pairs, beside what a random direction would score.

    Cosines and scores are over all covered parameters together.

    Args:
        sign_accuracy: share of pairs whose coefficients sum to a positive number; chance is one half.
        auroc: chance that a hack completion's gradient scores above a clean one's, by the signed sum of coefficients
            over the gradient's norm; chance is one half.
        t_statistic: of the pairs' scores against zero, clustered by prompt.
        p_value: one-sided, by flipping the signs of whole prompts; not below `2⁻ⁿ` for `n` prompts.
        cos: root mean square over pairs of the hack-ward share of `D`, as `svdproj/cos_in` of a step along `D`.
        null_cos: the same for random rows in the whole space.
        chart_null_cos: the same for random rows in the charts, which catch more, since charts are fitted to gradients.
        random_p_value: share of random directions in the charts whose `cos` is as high.
        n_pairs: number of pairs.
        n_prompts: number of different prompts.
        coefficients: for each pair the sum of all coefficients of `D`, in units of the gradient.
        scores: for each pair the same over the norm of `D`.
    """

    sign_accuracy: float
    auroc: float
    t_statistic: float
    p_value: float
    cos: float
    null_cos: float
    chart_null_cos: float
    random_p_value: float
    n_pairs: int
    n_prompts: int
    coefficients: tuple[float, ...]
    scores: tuple[float, ...]

    @property
    def better_than_random(self) -> bool:
        """Pairs point hack-ward more often than sign flips explain, and further into the rows than into random ones."""
        return self.p_value <= SIGNIFICANCE and self.random_p_value <= SIGNIFICANCE

    def to_json(self) -> dict[str, Any]:
        """Plain data, the verdict included; what could not be computed is null."""
        plain = {key: None if value != value else value for key, value in asdict(self).items()}
        return {**plain, "better_than_random": self.better_than_random}

    def __str__(self) -> str:
        return "\n".join(
            [
                f"Validation on {self.n_pairs} pairs of {self.n_prompts} prompts: {self.verdict}",
                f"  pairs that point hack-ward  {self.sign_accuracy:.1%}  (chance: 50 %)",
                f"  AUROC of completions        {self.auroc:.3f}  (chance: 0.5)",
                f"  t statistic                 {self.t_statistic:.2f}, p = {self.p_value:.2g} by sign flips of prompts",
                f"  cosine                      {self.cos:.4f}  (random: {self.null_cos:.4f} in the whole space, "
                f"{self.chart_null_cos:.4f} in the charts, p = {self.random_p_value:.2g})",
            ]
        )

    @property
    def verdict(self) -> str:
        """The figures in words."""
        if self.better_than_random:
            return "better than random"
        if self.n_prompts < _ENOUGH_PROMPTS:
            return f"too few prompts to tell it from a random direction (at least {_ENOUGH_PROMPTS} are needed)"
        return "no better than random"


def validate_subspaces(
    subspaces: Mapping[str, Subspace],
    model: nn.Module,
    tokenizer: Any,
    pairs: Sequence[ContrastivePair],
    loss: str,
    batch_size: int,
    seed: int,
    progress: bool,
) -> Validation:
    """See `HackDirection.validate`."""
    if not pairs:
        raise ValueError("validation needs pairs, got none; hold some out from fitting")
    if not subspaces:
        raise ValueError("an empty direction has nothing to validate")
    encoded = [encode_pair(tokenizer, pair, context_length(model)) for pair in pairs]
    differences = [pair_sample(pair, loss) for pair in encoded]
    completions = [completion_sample(side, loss) for pair in encoded for side in pair]
    with progress_bar(3 * len(pairs), progress, "validating") as on_batch:
        found = read_samples(subspaces, model, differences, batch_size, on_batch)
        scores = found.signed
        sides = read_samples(subspaces, model, completions, 2 * batch_size, on_batch).signed
    means = cluster_means(scores, [prompt_key(pair.prompt) for pair in pairs])
    random = found.random_cosines(_RANDOM_DIRECTIONS, torch.Generator().manual_seed(seed))
    cos = found.cosines.square().mean().sqrt()
    as_high = int((random.square().mean(-1).sqrt() >= cos).sum())
    return Validation(
        sign_accuracy=float((scores > 0).float().mean()),
        auroc=auroc(sides[0::2], sides[1::2]),
        t_statistic=t_statistic(means),
        p_value=sign_flip_p_value(means, seed),
        cos=float(cos),
        null_cos=float(found.null_cosines.square().mean().sqrt()),
        chart_null_cos=float(found.chart_null_cosines.square().mean().sqrt()),
        random_p_value=(as_high + 1) / (_RANDOM_DIRECTIONS + 1),
        n_pairs=len(pairs),
        n_prompts=len(means),
        coefficients=tuple((scores * found.norms).tolist()),
        scores=tuple(scores.tolist()),
    )

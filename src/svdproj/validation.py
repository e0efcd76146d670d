"""Does a direction tell hack from clean on pairs that it has not seen?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isnan, nan
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from svdproj.batches import completion_sample, pair_sample
from svdproj.energy import Coordinates, halves_overlap
from svdproj.fitting import split_in_halves
from svdproj.metadata import DirectionMetadata, plain, prompt_hash
from svdproj.pairs import ContrastivePair
from svdproj.precision import full_float32
from svdproj.progress import progress_bar
from svdproj.readings import Reading, Readings, read_samples
from svdproj.significance import auroc, cluster_means, sign_flip_p_value, t_statistic, t_statistics
from svdproj.subspace import Subspace
from svdproj.threads import few_threads
from svdproj.tokens import check_vocabulary, context_length, encode_pair, prompt_key

# A direction has to pass both tests at this level to be called better than random.
SIGNIFICANCE = 0.05
# One-sided sign flips reach the level with five prompts, not with four.
ENOUGH_PROMPTS = 5
_RANDOM_DIRECTIONS = 199
# Energies that differ by less are a tie: where the rows are all of the chart, every direction has the same.
_ROUNDING = 1e-5


@dataclass(frozen=True)
class Validation:
    """A direction's figures on pairs, beside what a random direction would score.

    Cosines and scores are over all covered parameters together. Random directions have random rows in the direction's own
    charts, the harder comparison. They are not turned hack-ward by any pairs, as fitted rows are: a strong contrast gives
    some of them a high accuracy, and would give it to most of them if they were. What they are compared by in
    `random_p_value` is therefore the energy on both sides, which turning rows around does not change.

    Args:
        sign_accuracy: share of pairs whose coefficients sum to a positive number; chance is one half.
        auroc: chance that a hack completion's gradient scores above a clean one's, by the signed sum of coefficients
            over the gradient's norm; chance is one half.
        t_statistic: of the pairs' scores against zero, clustered by prompt.
        p_value: one-sided, by flipping the signs of whole prompts; not below `2⁻ⁿ` for `n` prompts.
        cos: root mean square over pairs of the hack-ward share of `D`, as `svdproj/cos_in` of a step along `D`.
        null_cos: the same for random rows in the whole space, in the mean.
        chart_null_cos: the same for random rows in the charts, which catch more, since charts are fitted to gradients.
        random_p_value: share of random directions whose rows catch as much of the pairs' energy, hack-ward or not.
        random_sign_accuracy: what 5 % of random directions reach or exceed.
        random_auroc: likewise.
        random_t_statistic: likewise.
        halves_overlap: overlap, in the mean over parameters, of the rows that two halves of these pairs would give, prompts
            kept together; `nan` where a half has fewer than two pairs.
        halves_overlap_random: the same for random rows in the charts.
        n_pairs: number of pairs.
        n_prompts: number of different prompts.
        n_fitted: pairs whose prompt the direction was fitted on; the figures flatter it there. None for a direction that
            does not know its prompts, as from `HackDirection.from_gradients`.
        coefficients: for each pair the sum of all coefficients of `D`, in units of the gradient.
        scores: for each pair the same over the norm of `D`.

    Example:
        >>> validation = direction.validate(model, tokenizer, direction.held_out(pairs), progress=False)
        >>> print(validation.verdict)  # three held-out pairs of a model that was never trained
        too few prompts to tell it from a random direction (at least 5 are needed)
    """

    sign_accuracy: float
    auroc: float
    t_statistic: float
    p_value: float
    cos: float
    null_cos: float
    chart_null_cos: float
    random_p_value: float
    random_sign_accuracy: float
    random_auroc: float
    random_t_statistic: float
    halves_overlap: float
    halves_overlap_random: float
    n_pairs: int
    n_prompts: int
    n_fitted: int | None
    coefficients: tuple[float, ...]
    scores: tuple[float, ...]

    @property
    def better_than_random(self) -> bool:
        """Pairs point hack-ward more often than sign flips explain, and further into the rows than into random ones."""
        return is_better_than_random(self.figures)

    @property
    def verdict(self) -> str:
        """The figures in words."""
        return verdict(self.figures)

    @property
    def figures(self) -> dict[str, float]:
        """The figures without the lists, as `DirectionMetadata.validation` keeps them; `nan` for what is not known."""
        figures = {key: value for key, value in asdict(self).items() if key not in ("coefficients", "scores")}
        return {key: nan if value is None else value for key, value in figures.items()}

    def to_json(self) -> dict[str, Any]:
        """Plain data, the verdict included; what could not be computed is null.

        Example:
            >>> validation = direction.validate(model, tokenizer, pairs, progress=False)
            >>> validation.to_json()["n_pairs"] == len(pairs)
            True
        """
        record: dict[str, Any] = plain(asdict(self))
        return {**record, "better_than_random": self.better_than_random, "verdict": self.verdict}

    def __str__(self) -> str:
        lines = [
            f"Validation on {_counted(self.n_pairs, 'pair')} of {_counted(self.n_prompts, 'prompt')}: {self.verdict}",
            f"  pairs that point hack-ward  {self.sign_accuracy:.1%}  (chance 50 %; 5 % of random directions reach "
            f"{self.random_sign_accuracy:.1%})",
            f"  AUROC of completions        {self.auroc:.3f}  (chance 0.5; 5 % of random directions reach {self.random_auroc:.3f})",
            "  t statistic                 "
            + (
                f"{self.t_statistic:.2f}, p = {self.p_value:.2g} by sign flips of prompts  "
                f"(5 % of random directions reach {self.random_t_statistic:.2f})"
                if not isnan(self.t_statistic)
                else f"undefined, p = {self.p_value:.2g} by sign flips of prompts"
            ),
            f"  cosine                      {self.cos:.4f}  (random {self.null_cos:.4f} in the whole space, "
            f"{self.chart_null_cos:.4f} in the charts; p = {self.random_p_value:.2g} by energy)",
        ]
        if self.halves_overlap == self.halves_overlap:
            lines.append(
                f"  overlap of two halves       {self.halves_overlap:.3f}  (random {self.halves_overlap_random:.4f})"
            )
        if self.n_fitted is None:
            lines.append(
                "  note: the direction does not know which prompts it was fitted on; if these are among them, that flatters it"
            )
        elif self.n_fitted:
            lines.append(
                f"  note: {self.n_fitted} of the pairs have prompts that the direction was fitted on, which flatters it; "
                "use held-out pairs"
            )
        return "\n".join(lines)


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def is_better_than_random(figures: Mapping[str, float]) -> bool:
    """Whether a direction passes both tests; see `Validation`."""
    return figures["p_value"] <= SIGNIFICANCE and figures["random_p_value"] <= SIGNIFICANCE


def verdict(figures: Mapping[str, float]) -> str:
    """A direction's figures in words; see `Validation`."""
    if is_better_than_random(figures):
        return "better than random"
    if figures["n_prompts"] < ENOUGH_PROMPTS:
        return f"too few prompts to tell it from a random direction (at least {ENOUGH_PROMPTS} are needed)"
    return "no better than random"


def pairs_in_words(figures: Mapping[str, float]) -> str:
    """Which pairs the figures were measured on: held out, or known to the direction."""
    n_fitted = figures.get("n_fitted", nan)
    counts = f"{_counted(int(figures['n_pairs']), 'pair')} of {_counted(int(figures['n_prompts']), 'prompt')}"
    if n_fitted == 0:
        return counts.replace(" ", " held-out ", 1)
    if isnan(n_fitted):
        return f"{counts}, which may be among those that it was fitted on"
    return f"{counts}, {int(n_fitted)} of them with prompts that it was fitted on, which flatters it"


@full_float32("cpu")  # the readings lie there; the pass over the pairs looks after the model's own device
def validate_subspaces(
    subspaces: Mapping[str, Subspace],
    metadata: DirectionMetadata,
    model: nn.Module,
    tokenizer: Any,
    pairs: Sequence[ContrastivePair],
    batch_size: int,
    seed: int,
    progress: bool,
) -> Validation:
    """See `HackDirection.validate`."""
    if not pairs:
        raise ValueError("validation needs pairs, got none; hold some out from fitting")
    if not subspaces:
        raise ValueError("an empty direction has nothing to validate")
    loss = metadata.loss or "mean"
    encoded = [encode_pair(tokenizer, pair, context_length(model)) for pair in pairs]
    check_vocabulary(model, tokenizer, (side for pair in encoded for side in pair))
    differences = [pair_sample(pair, loss) for pair in encoded]
    completions = [completion_sample(side, loss) for pair in encoded for side in pair]
    with progress_bar(3 * len(pairs), progress, "validating") as on_batch:
        found = read_samples(subspaces, model, differences, batch_size, on_batch)
        sides = read_samples(subspaces, model, completions, 2 * batch_size, on_batch)
    fitted = set(metadata.fitted_prompts)
    n_fitted = sum(prompt_hash(pair.prompt) in fitted for pair in pairs) if fitted else None
    scores = found.signed
    return Validation(
        **_pair_figures(found, [prompt_key(pair.prompt) for pair in pairs], seed),
        **_side_figures(sides, seed),
        n_fitted=n_fitted,
        coefficients=tuple((scores * found.norms).tolist()),
        scores=tuple(scores.tolist()),
    )


def held_out_figures(
    subspaces: Mapping[str, Subspace],
    coordinates: Mapping[str, Coordinates],
    held_out: Sequence[int],
    prompts: Sequence[str],
    seed: int,
) -> dict[str, float]:
    """`Validation`'s figures on the pairs that a fit held out, from the differences that it has; all but the AUROC.

    Args:
        subspaces: the fitted rows.
        coordinates: of all pairs, for each of the subspaces.
        held_out: indices of pairs.
        prompts: of all pairs.
        seed: of the random directions.

    Returns:
        The figures by name; empty where nothing was held out.
    """
    if not held_out or not subspaces:
        return {}
    chosen = list(held_out)
    found = Readings(
        {
            name: Reading(subspace, coordinates[name].encoded[chosen], coordinates[name].squares[chosen])
            for name, subspace in subspaces.items()
        }
    )
    return {**_pair_figures(found, [prompts[i] for i in chosen], seed), "n_fitted": 0}


@few_threads()
def _pair_figures(found: Readings, prompts: Sequence[str], seed: int) -> dict[str, Any]:
    """What the pairs' differences say."""
    means = cluster_means(found.signed, prompts)
    energies, signed = found.random(_RANDOM_DIRECTIONS, torch.Generator().manual_seed(seed))
    # Energy on both sides, not the one-sided cosine. The rows of a direction have been turned hack-ward by the pairs that it
    # was fitted on, a control's in the charts may have been, and the random rows have not: their one-sided cosines would
    # differ by that alone. Turning the random rows likewise would take the fitting pairs, which a saved direction does not
    # have; energy asks the question about the span, and signs are what the other test is for.
    as_much = int((energies.mean(-1) >= (1 - _ROUNDING) * found.energies.mean()).sum())
    halves = split_in_halves(range(len(prompts)), prompts)
    encoded = {name: reading.encoded for name, reading in found.by_parameter.items()}
    stable, stable_random = halves_overlap(encoded, halves, max(r.subspace.k for r in found.by_parameter.values()))
    return {
        "sign_accuracy": float((found.signed > 0).float().mean()),
        "t_statistic": t_statistic(means),
        "p_value": sign_flip_p_value(means, seed),
        "cos": float(found.cosines.square().mean().sqrt()),
        "null_cos": float(found.null_cosines.square().mean().sqrt()),
        "chart_null_cos": float(found.chart_null_cosines.square().mean().sqrt()),
        # The direction counts as one of the random ones: without it the p value could be zero.
        "random_p_value": (as_much + 1) / (_RANDOM_DIRECTIONS + 1),
        "random_sign_accuracy": _reached((signed > 0).double().mean(-1)),
        "random_t_statistic": _reached(t_statistics(cluster_means(signed, prompts))),
        "halves_overlap": stable,
        "halves_overlap_random": stable_random,
        "n_pairs": len(prompts),
        "n_prompts": len(means),
    }


@few_threads()
def _side_figures(sides: Readings, seed: int) -> dict[str, Any]:
    """What single completions say: the even ones are hacks, the odd ones clean."""
    signed = sides.signed
    _, random = sides.random(_RANDOM_DIRECTIONS, torch.Generator().manual_seed(seed))
    return {
        "auroc": auroc(signed[0::2], signed[1::2]),
        "random_auroc": _reached(torch.tensor([auroc(draw[0::2], draw[1::2]) for draw in random], dtype=torch.float64)),
    }


def _reached(values: Float[Tensor, "draws"]) -> float:
    """What 5 % of the draws reach or exceed."""
    if values.isnan().any():
        return float("nan")
    return float(values.quantile(1 - SIGNIFICANCE, interpolation="higher"))

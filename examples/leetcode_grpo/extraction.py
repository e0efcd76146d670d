"""The direction of a run: which pairs it comes from, and the cache that arms of a seed share."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from examples.leetcode_grpo.arms import Source
from examples.leetcode_grpo.errors import UsageError
from examples.leetcode_grpo.files import cache_folder, digest, locked
from examples.leetcode_grpo.grading import Grader
from examples.leetcode_grpo.loopholes import Loophole
from examples.leetcode_grpo.models import policy_identity
from examples.leetcode_grpo.pairs import bank_pairs, placebo_pairs
from examples.leetcode_grpo.presets import Preset
from examples.leetcode_grpo.problems.loading import BUILTIN
from examples.leetcode_grpo.progress import Pace, bar_is_seen
from examples.leetcode_grpo.tasks import Tasks
from svdproj import ContrastivePair, HackDirection

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# One backward holds the activations of so many pairs at most, and of about so many tokens, both completions of a pair included:
# some 4 GB for a model of 135 million parameters.
_MAX_PAIRS = 8
_MAX_TOKENS = 4096


def make_pairs(preset: Preset, tasks: Tasks, source: Source, seed: int, grader: Grader) -> list[ContrastivePair]:
    """The preset's number of pairs, or as many as its problems of the split `pairs` give.

    Args:
        preset: number and kind of pairs, and loopholes.
        tasks: whose problems of the split `pairs` are used.
        source: `"placebo"` for clean against clean, anything else for hack against clean.
        seed: chooses problems.
        grader: checks the mistakes that spoil published solutions; the bank's own code needs none.

    Raises:
        UsageError: there are no problems to make pairs of.
    """
    make = placebo_pairs if source == "placebo" else partial(bank_pairs, kind=preset.pair_kind)
    loopholes = [Loophole(name) for name in preset.known]
    n = min(preset.n_pairs, len(tasks.pairs) * len(loopholes))
    try:
        return make(tasks.pairs, loopholes, n, seed, grader=None if preset.problems == BUILTIN else grader)
    except ValueError as error:
        raise UsageError(f"cannot make pairs from {preset.problems}: {error}") from None


def extract(
    preset: Preset,
    pairs: Sequence[ContrastivePair],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    seed: int,
    progress: bool = False,
) -> HackDirection:
    """`HackDirection.fit` with a preset's options.

    Raises:
        UsageError: the pairs do not fit the model, or an option is unknown.
    """
    try:
        return HackDirection.fit(
            model,
            tokenizer,
            list(pairs),
            chart=preset.chart,
            basis=preset.basis,
            chart_rank=preset.chart_rank,
            k=preset.k,
            noise_floor=preset.noise_floor,
            loss=preset.pair_loss,
            batch_size=_batch_size(tokenizer, pairs),
            seed=seed,
            progress=progress,
        )
    except ValueError as error:
        raise UsageError(f"cannot extract a direction: {error}") from None


def _batch_size(tokenizer: PreTrainedTokenizerBase, pairs: Sequence[ContrastivePair]) -> int:
    """Pairs for one backward: eight short ones, fewer of the published problems with their long prompts."""
    return max(1, min(_MAX_PAIRS, _MAX_TOKENS // (2 * _longest(tokenizer, pairs))))


def _longest(tokenizer: PreTrainedTokenizerBase, pairs: Sequence[ContrastivePair]) -> int:
    """About how many tokens the longest prompt with its completion takes."""
    texts = [str(pair.prompt) + max(pair.hack, pair.clean, key=len) for pair in pairs]
    return max(map(len, tokenizer(texts, add_special_tokens=False)["input_ids"]))


def cached_direction(
    preset: Preset,
    pairs: Sequence[ContrastivePair],
    policy: str,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    seed: int,
    pace: Pace | None = None,
) -> HackDirection:
    """`extract`, or what an earlier run extracted from the same weights with the same pairs and options.

    Args:
        preset, pairs, model, tokenizer, seed: as in `extract`.
        policy: folder or name that the model was loaded by.
        pace: shows what is done, where there is something to do.
    """
    options = ("chart", "basis", "chart_rank", "k", "noise_floor", "pair_loss", "lora_rank", "svd_adapter")
    key = digest(
        {
            "options": {name: getattr(preset, name) for name in options},
            "pairs": [(pair.id, pair.prompt, pair.hack, pair.clean) for pair in pairs],
            "policy": policy_identity(policy),
            "seed": seed,
            "device": model.device.type,
        }
    )
    path = cache_folder() / "directions" / f"{key}.safetensors"
    with locked(path):
        if path.is_file():
            return HackDirection.load(path)
        if pace is not None:
            pace.now(f"direction: gradients of {len(pairs)} pairs of up to {_longest(tokenizer, pairs)} tokens a side")
        direction = extract(preset, pairs, model, tokenizer, seed, progress=pace is not None and bar_is_seen())
        path.parent.mkdir(parents=True, exist_ok=True)
        direction.save(path)
    return direction

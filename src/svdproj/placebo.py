"""Pairs without a hack in them: clean against clean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from svdproj.pairs import ContrastivePair
from svdproj.tokens import prompt_key

SAME_PROMPT, OTHER_PROMPT = "placebo:same-prompt", "placebo:other-prompt"


def placebo_pairs(pairs: Sequence[ContrastivePair], seed: int = 0) -> list[ContrastivePair]:
    """One placebo for each pair, where another clean completion is to be had: its own against that one.

    The other completion answers the same prompt where several pairs share one and their clean completions differ. Otherwise
    it is the clean completion of another pair's prompt, which also makes the contrast one of right and wrong topic: two
    honest answers to a prompt make the better placebo. Which of the two stands in the hack's place is drawn for each pair,
    so that the order of a file does not become a contrast.

    Args:
        pairs: only their prompts and clean completions are used.
        seed: of the draws.

    Returns:
        Pairs with the tag `"placebo"` and one of `"placebo:same-prompt"` and `"placebo:other-prompt"`.

    Raises:
        ValueError: there are no two different clean completions.

    Example:
        >>> pairs = [
        ...     ContrastivePair("Sort xs.", hack, clean)
        ...     for hack, clean in (("pass", "sorted(xs)"), ("ok", "xs.sort()"))
        ... ]
        >>> sorted({placebo_pairs(pairs)[0].hack, placebo_pairs(pairs)[0].clean})
        ['sorted(xs)', 'xs.sort()']
    """
    generator = torch.Generator().manual_seed(seed)
    answers: dict[str, list[str]] = {}
    for pair in pairs:
        answers.setdefault(prompt_key(pair.prompt), []).append(pair.clean)
    everything = [pair.clean for pair in pairs]
    made = []
    for pair in pairs:
        origin = SAME_PROMPT
        others = _others(answers[prompt_key(pair.prompt)], pair.clean)
        if not others:
            origin, others = OTHER_PROMPT, _others(everything, pair.clean)
        if not others:
            raise ValueError(
                "a placebo contrasts two clean completions, and all pairs have the same one; add pairs with others"
            )
        other = others[int(torch.randint(len(others), (1,), generator=generator))]
        sides = (other, pair.clean) if torch.rand(1, generator=generator) < 0.5 else (pair.clean, other)
        made.append(replace(pair, hack=sides[0], clean=sides[1], tags=(*pair.tags, "placebo", origin)))
    return made


def _others(completions: Sequence[str], own: str) -> list[str]:
    return [completion for completion in completions if completion != own]

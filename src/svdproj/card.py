"""The model card that goes with a direction on the hub: what it is, where it comes from, what it was measured to do."""

from __future__ import annotations

from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING

from svdproj.validation import pairs_in_words, verdict

if TYPE_CHECKING:
    from svdproj.direction import HackDirection


def model_card(direction: HackDirection, repo_id: str) -> str:
    """The card as Markdown with a YAML head.

    Args:
        direction: what the card is about.
        repo_id: the repository that it will lie in, for the example.
    """
    meta = direction.metadata
    head = ["---", "library_name: svdproj", "tags:", "- svdproj", "- gradient-projection"]
    if _on_the_hub(meta.model_id):
        head.append(f"base_model: {meta.model_id}")
    usage = f"""\
from svdproj import HackDirection, ProjectedOptimizer

direction = HackDirection.from_pretrained("{repo_id}", model=model)
optimizer = ProjectedOptimizer(optimizer, direction, model)"""
    return "\n".join(
        [
            *head,
            "---",
            "",
            f"# {repo_id.rpartition('/')[2]}",
            "",
            f"A direction in gradient space for `{meta.model_id or 'an unnamed model'}`: a subspace of each covered weight's "
            "gradient, fitted to contrastive pairs of hack and clean completions. An optimizer that svdproj wraps keeps its "
            "updates out of it." + (f" **This is a control: {meta.control}.**" if meta.control else ""),
            "",
            "```python",
            usage,
            "```",
            "",
            "## What it is",
            "",
            "```",
            direction.summary(),
            "```",
            "",
            "## What was measured",
            "",
            *_figures(direction),
            "",
            "## Where it comes from",
            "",
            f"- fitted {meta.created or 'at an unknown date'} by svdproj {meta.svdproj_version}, file format {meta.format_version}",
            f"- pairs: {meta.n_pairs} fitted, {meta.n_held_out} held out, SHA-256 `{meta.pairs_hash or 'unknown'}`",
            f"- weights: `{meta.weights_fingerprint or 'unknown'}`; it belongs to these weights, and to what is trained from them",
            f"- direction: `{direction.fingerprint}`",
            "",
            "## Limits",
            "",
            "Being better than a random direction says that the pairs' contrast carries over to other pairs. It does not say that "
            "the contrast is the behaviour that you mean, nor that training cannot reach the behaviour in another way: compare "
            "runs with the controls in `svdproj.controls`.",
            "",
        ]
    )


def _on_the_hub(model_id: str) -> bool:
    """Whether it reads like a hub's name: local paths say nothing to others, and the hub refuses them as a base model."""
    return model_id.count("/") == 1 and not model_id.startswith((".", "/", "~")) and not Path(model_id).exists()


def _figures(direction: HackDirection) -> list[str]:
    meta = direction.metadata
    figures = meta.validation
    if not figures and not meta.n_held_out:
        return ["Nothing was held out, so nothing is known about other pairs."]
    if not figures:
        return [
            f"Nothing: {meta.n_held_out} pairs were held out from the fit that this direction was made from, and what they said "
            "of the fit's own rows does not hold for these. `svdproj validate` measures them."
        ]
    rows = [
        ("pairs that point hack-ward", "sign_accuracy", "random_sign_accuracy", "5 % reach"),
        ("AUROC of completions", "auroc", "random_auroc", "5 % reach"),
        ("t statistic, clustered by prompt", "t_statistic", "random_t_statistic", "5 % reach"),
        ("cosine", "cos", "chart_null_cos", "in the mean"),
        ("overlap of two halves of the pairs", "halves_overlap", "halves_overlap_random", "in the mean"),
    ]
    lines = [
        f"On {pairs_in_words(figures)}: **{verdict(figures)}**.",
        "",
        "| figure | direction | random directions in the same charts |",
        "|---|---|---|",
    ]
    for label, key, null, which in rows:
        if not isnan(value := figures.get(key, float("nan"))):
            lines.append(f"| {label} | {value:.3f} | {which} {figures[null]:.3f} |")
    lines.append(f"| p, sign flips by prompt | {figures['p_value']:.2g} | |")
    lines.append(f"| p, energy against random directions | {figures['random_p_value']:.2g} | |")
    return lines

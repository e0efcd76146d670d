"""A direction in words and figures, for a terminal."""

from __future__ import annotations

from math import isnan
from typing import TYPE_CHECKING

import torch

from svdproj.validation import pairs_in_words, verdict

if TYPE_CHECKING:
    from svdproj.direction import HackDirection


def summarize(direction: HackDirection) -> str:
    """Several lines: size, spectrum, energy beside the random figure, held-out accuracy, provenance."""
    if not len(direction):
        return "HackDirection: empty (projects nothing)"
    meta = direction.metadata
    subspaces = direction.subspaces
    rows = sum(subspace.k for subspace in subspaces.values())
    nbytes = sum(subspace.nbytes for subspace in subspaces.values())
    pooled = torch.cat([subspace.singular_values.cpu().float() for subspace in subspaces.values()])
    quantiles = pooled.quantile(torch.tensor([1.0, 0.75, 0.5, 0.25, 0.0])).tolist()
    energy = meta.energy
    lines = [
        f"HackDirection: {len(subspaces)} parameters, {rows} rows, {nbytes / 2**20:.1f} MiB",
        f"  model            {meta.model_id or 'unknown'}",
        f"  chart            {meta.chart or 'unknown'}, basis {meta.basis or '-'}, rank {meta.chart_rank}, k {meta.k}, "
        f"noise floor {meta.noise_floor:g}",
        f"  pairs            {meta.n_pairs} fitted, {meta.n_held_out} held out, loss {meta.loss or '-'}",
        "  singular values  " + "  ".join(f"{value:.3g}" for value in quantiles) + "  (max, quartiles, min)",
        f"  energy in chart  {_percent(energy.chart)} fitted, {_percent(energy.chart_held_out)} held out, "
        f"{_percent(energy.chart_random)} in a random chart",
        f"  energy in rows   {_percent(energy.rows)} fitted, {_percent(energy.rows_held_out)} held out, "
        f"{_percent(energy.rows_random)} in random rows",
    ]
    if not isnan(meta.halves_overlap):
        lines.append(
            f"  two halves       of the fitted pairs overlap by {_percent(meta.halves_overlap)}, random rows by "
            f"{_percent(meta.halves_overlap_random)}"
        )
    if figures := meta.validation:
        lines += [
            f"  measured on      {pairs_in_words(figures)}",
            f"  hack-ward        {_percent(figures['sign_accuracy'])} of them (chance 50 %, 5 % of random directions "
            f"reach {_percent(figures['random_sign_accuracy'])}), p = {figures['p_value']:.2g} by prompts",
            f"  cosine           {figures['cos']:.3g}, random {figures['null_cos']:.3g} in the whole space and "
            f"{figures['chart_null_cos']:.3g} in the charts, p = {figures['random_p_value']:.2g} by energy",
            f"  verdict          {verdict(figures)}",
        ]
    if meta.control:
        lines.append(f"  control          {meta.control}")
    return "\n".join(lines)


def _percent(share: float) -> str:
    return "not measured" if isnan(share) else f"{share * 100:.3g} %"

"""One way to make each kind of chart: what the tests of every chart's contract are run on."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from svdproj import BilinearChart, Chart, DenseChart, DiagonalChart
from svdproj.charts import CHART_KINDS


def orthonormal(rows: int, columns: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(rows, columns, dtype=torch.float64, generator=generator)).Q.float()


def _bilinear(out: int, in_: int, p: int, q: int, seed: int) -> Chart:
    return BilinearChart(orthonormal(out, min(p, out), seed), orthonormal(in_, min(q, in_), seed + 1))


def _diagonal(out: int, in_: int, p: int, q: int, seed: int) -> Chart:
    rank = min(p, out, in_)
    return DiagonalChart(orthonormal(out, rank, seed), orthonormal(in_, rank, seed + 1))


MAKERS: dict[str, Callable[[int, int, int, int, int], Chart]] = {
    "dense": lambda out, in_, p, q, seed: DenseChart((out, in_)),
    "bilinear": _bilinear,
    "diagonal": _diagonal,
}

KINDS = tuple(CHART_KINDS)
"""What tests are parametrised over: a kind that files can hold and that has no maker here fails them."""


def make_chart(kind: str, out: int, in_: int, p: int, q: int, seed: int) -> Chart:
    """A chart of a parameter of shape `out in_`, with bases of at most `p` and `q` columns where it has any."""
    return MAKERS[kind](out, in_, p, q, seed)

"""What is reported about energy, accuracy and stability is what the full tensors say."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from svdproj import DenseChart, HackDirection, Subspace
from svdproj.energy import Coordinates, energy_report, halves_overlap, held_out_accuracy

HALVES = (list(range(0, 24, 2)), list(range(1, 24, 2)))


def planted(n: int, noise: float, seed: int = 0) -> Tensor:
    """Pairs that share three directions and have noise of their own."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(120, 3, generator=generator)).Q
    own = noise * torch.randn(n, 120, generator=generator)
    return (torch.rand(n, 3, generator=generator) + 0.5) @ basis.mT + own


def coordinates(encoded: Tensor) -> Coordinates:
    return Coordinates(DenseChart((12, 10)), encoded, encoded.square().sum(1))


def test_shares_are_those_of_the_concatenation() -> None:
    big, small = torch.randn(5, 120), 0.1 * torch.randn(5, 120)
    rows = torch.linalg.qr(torch.randn(120, 4)).Q.mT.contiguous()
    subspaces = {name: Subspace(DenseChart((12, 10)), rows, torch.ones(4)) for name in ("big", "small")}
    found = {"big": coordinates(big), "small": coordinates(small)}
    total, each = energy_report(subspaces, found, fitted=[0, 1, 2], held_out=[3, 4])
    assert total.chart == pytest.approx(1)
    assert each["small"].rows == pytest.approx(
        float((small[:3] @ rows.mT).square().sum() / small[:3].square().sum()), rel=1e-5
    )
    caught = sum(float((x[3:] @ rows.mT).square().sum()) for x in (big, small))
    assert total.rows_held_out == pytest.approx(
        caught / float(big[3:].square().sum() + small[3:].square().sum()), rel=1e-5
    )
    assert total.rows_random == pytest.approx(4 / 120)
    without = energy_report(subspaces, found, fitted=[0, 1, 2, 3, 4], held_out=[])[0]
    assert math.isnan(without.rows_held_out)


def test_random_rows_catch_the_random_figure() -> None:
    pairs = coordinates(planted(40, 0.1))
    shares = []
    for seed in range(50):
        rows = Subspace(DenseChart((12, 10)), torch.eye(120)[:6], torch.ones(6)).random_like(
            torch.Generator().manual_seed(seed)
        )
        total, _ = energy_report({"w": rows}, {"w": pairs}, range(40), [])
        shares.append(total.rows)
    spread = torch.tensor(shares).std() / len(shares) ** 0.5
    assert abs(sum(shares) / len(shares) - total.rows_random) < 4 * float(spread)


def test_held_out_accuracy_counts_pairs_whose_summed_coefficients_are_positive() -> None:
    rows = torch.eye(120)[:2]
    encoded = torch.zeros(4, 120)
    encoded[:, 0] = torch.tensor([1.0, -1.0, 1.0, 1.0])
    encoded[:, 1] = torch.tensor([0.0, 2.0, -3.0, 0.0])
    found = {"w": coordinates(encoded)}
    subspaces = {"w": Subspace(DenseChart((12, 10)), rows, torch.ones(2))}
    assert held_out_accuracy(subspaces, found, [0, 1, 2, 3]) == 0.75
    assert math.isnan(held_out_accuracy(subspaces, found, []))


@pytest.mark.parametrize("noise", [0.02, 1.0])
def test_the_overlap_of_halves_is_that_of_two_fits(noise: float) -> None:
    pairs = planted(24, noise)
    found, random = halves_overlap({"w": pairs}, HALVES, k=3)
    one, other = (
        HackDirection.from_gradients({"w": pairs[start::2].view(-1, 12, 10)}, chart="dense", k=3, noise_floor=0.0)
        for start in (0, 1)
    )
    assert found == pytest.approx(one.overlap(other)["w"], abs=1e-4)
    assert random == pytest.approx(3 / 120)
    if noise < 0.1:
        assert found > 0.9


def test_pairs_without_anything_in_common_overlap_as_random_ones_do() -> None:
    overlaps = [halves_overlap({"w": torch.randn(24, 120)}, HALVES, k=6)[0] for _ in range(40)]
    mean = sum(overlaps) / len(overlaps)
    assert abs(mean - 6 / 120) < 0.02


def test_too_few_pairs_have_no_halves() -> None:
    assert all(map(math.isnan, halves_overlap({"w": torch.randn(3, 120)}, ([0, 1], [2]), k=3)))
    assert all(map(math.isnan, halves_overlap({}, HALVES, k=3)))
    assert halves_overlap({"w": torch.zeros(24, 120)}, HALVES, k=2)[0] == 0

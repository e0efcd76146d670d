"""The summary says what there is, and says so where nothing was measured."""

from __future__ import annotations

import torch

from svdproj import HackDirection


def test_an_empty_direction_says_that_it_projects_nothing() -> None:
    assert "projects nothing" in HackDirection.empty().summary()


def test_figures_stand_beside_their_random_ones() -> None:
    direction = HackDirection.from_gradients({"a": torch.randn(6, 12, 9), "b": torch.randn(6, 9)}, chart_rank=4, k=3)
    text = direction.summary()
    energy = direction.metadata.energy
    assert "2 parameters" in text
    assert f"{100 * energy.rows:.3g} % fitted" in text
    assert f"{100 * energy.rows_random:.3g} % in random rows" in text
    assert "not measured held out" in text
    assert "6 fitted, 0 held out" in text
    assert "nan" not in text

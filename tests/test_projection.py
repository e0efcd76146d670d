"""The projection of one step: gates, norms, and the reading of a coefficient's sign."""

from __future__ import annotations

import pytest
import torch

from svdproj import DenseChart, Subspace
from svdproj.projection import GATES, MAX_RESCALE, gated, guarded, project, rescale_factor

# Rows along the first two axes of R^4: coefficients can be read off.
AXES = Subspace(DenseChart((4,)), torch.eye(4)[:2], torch.ones(2))
X = torch.tensor([3.0, -2.0, 1.0, 5.0])


def test_gates_remove_what_their_names_say() -> None:
    assert project(X, AXES, "one_sided").tolist() == [0.0, -2.0, 1.0, 5.0]
    assert project(X, AXES, "two_sided").tolist() == [0.0, 0.0, 1.0, 5.0]
    assert project(X, AXES, "reverse").tolist() == [-3.0, 2.0, 1.0, 5.0]
    assert project(X, AXES, "one_sided", overshoot=1.5).tolist() == [-1.5, -2.0, 1.0, 5.0]


def test_the_guarded_part_is_what_each_gate_should_leave_at_zero() -> None:
    coefficients = torch.tensor([3.0, -2.0])
    assert guarded(coefficients, "one_sided").tolist() == [3.0, 0.0]
    assert guarded(coefficients, "two_sided").tolist() == guarded(coefficients, "reverse").tolist() == [3.0, -2.0]
    assert set(GATES) == {"one_sided", "two_sided", "reverse"}


def test_an_unknown_gate_is_named() -> None:
    with pytest.raises(Exception, match="sideways"):
        gated(torch.ones(2), "sideways")  # type: ignore[arg-type]


def test_norms_are_preserved_up_to_the_cap() -> None:
    kept = project(X, AXES, "two_sided", preserve_norm=True)
    assert kept.norm() == pytest.approx(float(X.norm()))
    assert torch.equal(kept[:2], torch.zeros(2))
    nearly_inside = torch.tensor([1.0, 0.0, 1e-4, 0.0])
    assert project(nearly_inside, AXES, preserve_norm=True).norm() == pytest.approx(MAX_RESCALE * 1e-4)
    inside = torch.tensor([1.0, 0.0, 0.0, 0.0])
    assert not project(inside, AXES, preserve_norm=True).any()
    assert rescale_factor(torch.zeros(1), torch.zeros(1)).item() == 1.0


def test_stacks_are_projected_one_by_one() -> None:
    pair = torch.stack([X, -X])
    for options in ({}, {"preserve_norm": True}, {"gate": "reverse"}):
        expected = torch.stack([project(x, AXES, **options) for x in pair])  # type: ignore[arg-type]
        torch.testing.assert_close(project(pair, AXES, **options), expected)  # type: ignore[arg-type]

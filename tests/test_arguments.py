"""Arguments of the wrong kind say what was expected and what to pass instead, for the wrapper and for `attach`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch

from svdproj import HackDirection, ProjectedOptimizer, attach
from tests.conformance.helpers import Weights, direction_for

BOTH = pytest.mark.parametrize("make", [ProjectedOptimizer, attach])


@pytest.fixture(autouse=True)
def _as_users_have_it() -> Iterator[None]:
    """Without the tests' own checks of types, which would answer first."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def arguments() -> tuple[torch.optim.Optimizer, HackDirection, Weights]:
    model = Weights()
    return torch.optim.SGD(model.parameters(), lr=0.1), direction_for(model), model


@BOTH
@pytest.mark.parametrize(
    ("direction", "message"),
    [
        ("direction.safetensors", r"got str; read the file with HackDirection\.load\(path\)"),
        (
            Path("direction.safetensors"),
            r"got PosixPath; read the file with HackDirection\.load\(path\), or the hub with HackDirection\.from_pretrained",
        ),
        (None, r"got None; HackDirection\.empty\(\) projects nothing"),
        (torch.nn.Linear(2, 2), r"got Linear; the order of the arguments is \(optimizer, direction, params\)"),
    ],
)
def test_what_is_no_direction_is_refused(make: Any, direction: Any, message: str) -> None:
    optimizer, good, model = arguments()
    with pytest.raises(TypeError, match="direction must be a HackDirection, " + message):
        make(optimizer, direction, model)
    made = make(optimizer, good, model)
    with pytest.raises(TypeError, match="direction must be a HackDirection, " + message):
        made.set_direction(direction)
    assert made.direction is good


@BOTH
@pytest.mark.parametrize(
    ("params", "message"),
    [
        (None, "got None; pass the model"),
        ("model", "got str; pass the model"),
        (HackDirection.empty(), r"got HackDirection; .*the order of the arguments"),
        ([torch.zeros(2)], r"got an iterable of Tensor; pass the model, or model\.named_parameters\(\)"),
        ([(torch.zeros(2), "name")], r"got a pair of Tensor and str; pass the model"),
        ({"first": torch.zeros(2)}, "got an iterable of str; pass the model"),
    ],
)
def test_what_are_no_parameters_are_refused(make: Any, params: Any, message: str) -> None:
    optimizer, direction, _ = arguments()
    with pytest.raises(TypeError, match=r"params must be a module or \(name, parameter\) pairs, " + message):
        make(optimizer, direction, params)


@BOTH
def test_what_is_no_optimizer_is_refused(make: Any) -> None:
    _, direction, model = arguments()
    with pytest.raises(TypeError, match=r"got Weights; make one first, such as torch\.optim\.AdamW\(.*the order"):
        make(model, direction, model)


@BOTH
def test_an_optimizer_that_is_wrapped_already_is_refused(make: Any) -> None:
    """Regression: a wrapper around a wrapper saved only its own masters and noise."""
    optimizer, direction, model = arguments()
    wrapped = ProjectedOptimizer(optimizer, direction, model)
    with pytest.raises(TypeError, match=r"a ProjectedOptimizer, which is projected already; .*set_direction"):
        make(wrapped, direction, model)


@BOTH
@pytest.mark.parametrize("overshoot", ["1", None, float("inf"), float("nan"), -1.0])
def test_an_overshoot_is_a_positive_finite_number(make: Any, overshoot: Any) -> None:
    with pytest.raises(ValueError, match="overshoot must be positive and finite, got "):
        make(*arguments(), overshoot=overshoot)
    make(*arguments(), overshoot=2)

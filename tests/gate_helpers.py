"""The gates that tests are run over, and what must be gone after each, said independently of the source."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from svdproj.projection import GATES

REMOVING = tuple(gate for gate in GATES if gate != "reverse")
"""Every gate that takes out what it guards; `reverse` turns it around instead."""

MUST_GO: dict[str, Callable[[Tensor], Tensor]] = {"one_sided": torch.relu, "two_sided": lambda c: c}
"""The part of the coefficients that is zero afterwards; a gate that is missing here fails the tests."""

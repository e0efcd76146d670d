"""How a direction is applied: the choices of `ProjectedOptimizer` and `attach`."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from numbers import Real
from typing import TYPE_CHECKING, Literal

from svdproj.projection import GATES, Gate

if TYPE_CHECKING:
    Space = Literal["gradient", "update"]
    Mode = Literal["erase", "measure", "shrink", "route"]
    WriteBack = Literal["auto", "exact"]
    GateName = Gate
else:
    # Where annotations are enforced, a wrong choice must still reach the check below, which names the right ones.
    Space = Mode = WriteBack = GateName = str


@dataclass(frozen=True)
class ProjectionOptions:
    """One projection's choices; `ProjectedOptimizer` describes them.

    Raises:
        ValueError: an unknown choice, an overshoot that is no positive finite number, or a choice that `mode="route"` excludes.
    """

    space: Space = "update"
    gate: GateName = "one_sided"
    mode: Mode = "erase"
    overshoot: float = 1.0
    preserve_norm: bool = False
    write_back: WriteBack = "auto"

    def __post_init__(self) -> None:
        _check("space", self.space, ("gradient", "update"))
        _check("gate", self.gate, GATES)
        _check("mode", self.mode, ("erase", "measure", "shrink", "route"))
        _check("write_back", self.write_back, ("auto", "exact"))
        if not isinstance(self.overshoot, Real) or not isfinite(self.overshoot) or not self.overshoot > 0:
            raise ValueError(
                f"overshoot must be positive and finite, got {self.overshoot!r}; 1 removes the component exactly"
            )
        if self.mode == "shrink" and self.preserve_norm:
            raise ValueError("mode='shrink' only changes the norm, preserve_norm would restore it; choose one of them")
        if self.route and (self.preserve_norm or self.write_back == "exact"):
            raise ValueError(
                "mode='route' moves a part from one parameter to another, whole: it goes without preserve_norm and with "
                "write_back='auto' (adapters are kept in float32, which needs no masters)"
            )

    @property
    def erase(self) -> bool:
        """Whether anything is removed (erased or routed), not only reported."""
        return self.mode != "measure"

    @property
    def route(self) -> bool:
        """Whether what is removed goes to a quarantine."""
        return self.mode == "route"

    @property
    def exact(self) -> bool:
        """Whether low-precision weights get float32 masters."""
        return self.erase and self.write_back == "exact"


def _check(name: str, value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"unknown {name} {value!r}; choose one of {', '.join(map(repr, known))}")

"""Which of a model's parameters a direction covers."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from svdproj.names import canonical_name

if TYPE_CHECKING:
    from svdproj.direction import HackDirection


@dataclass(frozen=True)
class Coverage:
    """What a direction covers of a model.

    Args:
        matched: canonical names of the covered parameters.
        unmatched: names in the direction that the model lacks.
        parameters: number of elements covered.
        total: number of elements of the model.
        direction_bytes: memory of the direction's rows and bases, in bytes, for the matched parameters.
        weight_bytes: memory of the covered weights, in bytes.

    Example:
        >>> model = torch.nn.Linear(8, 4)
        >>> direction = HackDirection.from_gradients({"weight": torch.randn(6, 4, 8)}, k=2)
        >>> coverage = direction.coverage(model)
        >>> coverage.matched, f"{coverage.parameters} of {coverage.total}"
        (('weight',), '32 of 36')
    """

    matched: tuple[str, ...]
    unmatched: tuple[str, ...]
    parameters: int
    total: int
    direction_bytes: int
    weight_bytes: int

    def to_json(self) -> dict[str, object]:
        """Plain data."""
        plain = asdict(self)
        return plain | {"matched": list(self.matched), "unmatched": list(self.unmatched)}

    def __str__(self) -> str:
        share = self.parameters / self.total if self.total else 0.0
        ratio = self.direction_bytes / self.weight_bytes if self.weight_bytes else 0.0
        text = (
            f"covers {len(self.matched)} parameters with {self.parameters:,} of {self.total:,} elements ({share:.1%}); "
            f"direction {self.direction_bytes / 2**20:.1f} MiB, {ratio:.1%} of the weights it covers"
        )
        return f"{text}; not in the model: {listing(self.unmatched)}" if self.unmatched else text


def coverage_of(direction: HackDirection, named_parameters: Iterable[tuple[str, Tensor]]) -> Coverage:
    """Match a direction's names with a model's, each parameter once."""
    parameters = {canonical_name(name): parameter for name, parameter in named_parameters}
    matched = {name: parameters[name] for name in direction.subspaces if name in parameters}
    return Coverage(
        matched=tuple(matched),
        unmatched=tuple(name for name in direction.subspaces if name not in parameters),
        parameters=sum(p.numel() for p in {id(p): p for p in matched.values()}.values()),
        total=sum(p.numel() for p in {id(p): p for p in parameters.values()}.values()),
        direction_bytes=sum(direction.subspaces[name].nbytes for name in matched),
        weight_bytes=sum(p.numel() * p.element_size() for p in matched.values()),
    )


def check_fit(direction: HackDirection, named_parameters: Iterable[tuple[str, Tensor]]) -> HackDirection:
    """The direction itself, if it fits the model.

    Raises:
        ValueError: it matches no parameter, or one of another shape.

    Warns:
        UserWarning: it matches only some; the warning says which are missing.
    """
    parameters = {canonical_name(name): parameter for name, parameter in named_parameters}
    if not len(direction):
        return direction
    unmatched = [name for name in direction.subspaces if name not in parameters]
    if len(unmatched) == len(direction):
        raise ValueError(
            f"the direction matches none of the {len(parameters)} parameters; its names look like "
            f'"{unmatched[0]}", the module\'s like "{next(iter(parameters), "")}"; extract a direction on this model, or '
            "pass the (sub)module whose parameter names it holds"
        )
    for name, subspace in direction.subspaces.items():
        if name in parameters and tuple(parameters[name].shape) != subspace.chart.shape:
            raise ValueError(
                f"{name} has shape {tuple(parameters[name].shape)}, the direction was made for {subspace.chart.shape}; "
                "it belongs to another model: extract one on this model"
            )
    if unmatched:
        warnings.warn(
            f"the direction covers {len(direction) - len(unmatched)} of its {len(direction)} parameters here; "
            f"not in the model: {listing(unmatched)}",
            stacklevel=3,
        )
    return direction


def listing(names: Iterable[str], at_most: int = 5) -> str:
    """Names for a message, the first few of many."""
    names = list(names)
    more = f" and {len(names) - at_most} more" if len(names) > at_most else ""
    return ", ".join(names[:at_most]) + more

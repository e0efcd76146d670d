"""Which of a model's parameters a direction covers."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable
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
        matched: canonical names of the covered parameters, a tied one once, under the first of its names.
        unmatched: names in the direction that the model lacks.
        parameters: number of elements covered.
        total: number of elements of the model.
        direction_bytes: memory of the direction's rows and bases, in bytes, for the matched parameters.
        weight_bytes: memory of the covered weights, in bytes.
        left_out: names in the direction that the model has and the optimizer does not hold; none without an optimizer.

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
    left_out: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        """Plain data."""
        plain = asdict(self)
        return plain | {name: list(getattr(self, name)) for name in ("matched", "unmatched", "left_out")}

    def __str__(self) -> str:
        share = self.parameters / self.total if self.total else 0.0
        ratio = self.direction_bytes / self.weight_bytes if self.weight_bytes else 0.0
        text = (
            f"covers {len(self.matched)} parameters with {self.parameters:,} of {self.total:,} elements ({share:.1%}); "
            f"direction {self.direction_bytes / 2**20:.1f} MiB, {ratio:.1%} of the weights it covers"
        )
        if self.unmatched:
            text += f"; not in the model: {listing(self.unmatched)}"
        if self.left_out:
            text += f"; not in the optimizer: {listing(self.left_out)}"
        return text


def matched_parameters(named_parameters: Iterable[tuple[str, Tensor]], names: Collection[str]) -> dict[str, Tensor]:
    """Canonical name to parameter for those of the names that a model has, in the model's order.

    A tensor that appears under several of them is there once, under the first.

    Raises:
        ValueError: two parameters have one canonical name.
    """
    canonical = _by_canonical_name(named_parameters, names)
    first: dict[int, str] = {}
    for name, parameter in canonical.items():
        if name in names:
            first.setdefault(id(parameter), name)
    return {name: canonical[name] for name in first.values()}


def coverage_of(
    direction: HackDirection,
    named_parameters: Iterable[tuple[str, Tensor]],
    held: Iterable[Tensor] | None = None,
) -> Coverage:
    """Match a direction's names with a model's, each parameter once.

    Args:
        direction: the direction.
        named_parameters: the model's, tied ones under each of their names.
        held: the parameters that an optimizer holds; None for all of the model's.
    """
    named = tuple(named_parameters)
    known = {canonical_name(name) for name, _ in named}
    inside = {id(p) for p in ((p for _, p in named) if held is None else held)}
    parameters = {name: p for name, p in matched_parameters(named, direction.subspaces).items() if id(p) in inside}
    matched = tuple(name for name in direction.subspaces if name in parameters)
    return Coverage(
        matched=matched,
        unmatched=tuple(name for name in direction.subspaces if name not in known),
        parameters=sum(p.numel() for p in parameters.values()),
        total=sum(p.numel() for p in {id(p): p for _, p in named}.values()),
        direction_bytes=sum(direction.subspaces[name].nbytes for name in matched),
        weight_bytes=sum(p.numel() * p.element_size() for p in parameters.values()),
        left_out=_matched_outside(direction, named, inside),
    )


def check_fit(
    direction: HackDirection, named_parameters: Iterable[tuple[str, Tensor]], stacklevel: int = 3
) -> HackDirection:
    """The direction itself, if it fits the model.

    Args:
        direction: the direction.
        named_parameters: the model's.
        stacklevel: of the warning, from here.

    Raises:
        ValueError: it matches no parameter, one of another shape, or two of one name.

    Warns:
        UserWarning: it matches only some; the warning says which are missing.
    """
    parameters = _by_canonical_name(named_parameters, direction.subspaces)
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
            stacklevel=stacklevel,
        )
    return direction


def warn_untrained(
    direction: HackDirection, named_parameters: Iterable[tuple[str, Tensor]], trained: Iterable[Tensor], stacklevel: int
) -> None:
    """Say which of the direction's parameters the model has and the optimizer does not train.

    What trains in their place, an adapter for instance, is not projected.

    Warns:
        UserWarning: there are some.
    """
    moving = {id(p) for p in trained if p.requires_grad}
    named = tuple(named_parameters)
    if untrained := _matched_outside(direction, named, moving):
        here = len(matched_parameters(named, direction.subspaces))
        warnings.warn(
            f"the optimizer trains {here - len(untrained)} of the {here} parameters that the direction covers in this model; "
            f"frozen or not in its groups: {listing(untrained)}. What trains instead of them is not projected: fit the "
            "direction on the parameters that train (for adapters, see svdproj.adapters.pull_back), or give these to the "
            "optimizer",
            stacklevel=stacklevel,
        )


def _matched_outside(
    direction: HackDirection, named_parameters: Iterable[tuple[str, Tensor]], inside: Collection[int]
) -> tuple[str, ...]:
    """The direction's names of parameters that the model has and whose `id` is not among those inside."""
    matched = matched_parameters(named_parameters, direction.subspaces)
    return tuple(name for name in direction.subspaces if name in matched and id(matched[name]) not in inside)


def _by_canonical_name(named_parameters: Iterable[tuple[str, Tensor]], names: Collection[str]) -> dict[str, Tensor]:
    """All parameters by canonical name.

    Raises:
        ValueError: two parameters have one, and it is among `names`.
    """
    full: dict[str, tuple[str, Tensor]] = {}
    for name, parameter in named_parameters:
        short = canonical_name(name)
        other, known = full.setdefault(short, (name, parameter))
        if known is not parameter and short in names:
            raise ValueError(
                f"the direction covers {short}, and two parameters go by that name: {other} and {name}; pass the (sub)module "
                "that holds the one it was fitted on, or its (name, parameter) pairs"
            )
    return {short: parameter for short, (_, parameter) in full.items()}


def listing(names: Iterable[str], at_most: int = 5) -> str:
    """Names for a message, the first few of many."""
    names = list(names)
    more = f" and {len(names) - at_most} more" if len(names) > at_most else ""
    return ", ".join(names[:at_most]) + more

"""Where parameters stand: layer by module, for tables and heat maps."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

# The first number in a name counts layers, as in `model.layers.3.mlp.up_proj.weight`.
_NUMBERED = re.compile(r"^(?P<stack>.*?)\.?(?P<layer>\d+)\.(?P<module>.+)$")

Value = TypeVar("Value")


@dataclass(frozen=True)
class Place:
    """Where a parameter stands.

    Args:
        stack: what holds the layers, such as `model.layers`; empty outside of layers.
        layer: number of the layer; None outside of layers.
        module: the rest of the name, without `.weight`.
    """

    stack: str
    layer: int | None
    module: str


def place_of(name: str) -> Place:
    """Where the parameter of that canonical name stands.

    Example:
        >>> place_of("model.layers.3.mlp.up_proj.weight")
        Place(stack='model.layers', layer=3, module='mlp.up_proj')
    """
    short = name.removesuffix(".weight")
    if found := _NUMBERED.match(short):
        return Place(found["stack"], int(found["layer"]), found["module"])
    return Place("", None, short)


def by_layer(values: Mapping[str, Value]) -> dict[str, dict[str, Value]]:
    """Values grouped by layer, in order: label of the layer to name to value; what is outside of layers comes last."""
    places = {name: place_of(name) for name in values}
    several = len({place.stack for place in places.values() if place.layer is not None}) > 1

    def label(place: Place) -> str:
        if place.layer is None:
            return "elsewhere"
        return f"{place.stack}.{place.layer}" if several else str(place.layer)

    ordered = sorted(values, key=lambda name: (places[name].layer is None, places[name].stack, places[name].layer or 0))
    groups: dict[str, dict[str, Value]] = {}
    for name in ordered:
        groups.setdefault(label(places[name]), {})[name] = values[name]
    return groups


def grid(values: Mapping[str, float]) -> tuple[list[str], list[str], list[list[float]]]:
    """Values over modules (down) and layers (across), `nan` where there is no parameter.

    Returns:
        Labels of the rows, labels of the columns, and the values.
    """
    groups = by_layer(values)
    modules = list(dict.fromkeys(place_of(name).module for group in groups.values() for name in group))
    table = [[float("nan")] * len(groups) for _ in modules]
    for column, group in enumerate(groups.values()):
        for name, value in group.items():
            table[modules.index(place_of(name).module)][column] = value
    return modules, list(groups), table


def mean(values: Iterable[float]) -> float:
    """The mean of what was measured; `nan` if nothing was."""
    known = [value for value in values if value == value]
    return sum(known) / len(known) if known else float("nan")

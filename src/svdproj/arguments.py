"""What `ProjectedOptimizer` and `attach` are given, checked before anything is made of it."""

from __future__ import annotations

from collections.abc import Iterable
from os import PathLike

from torch import Tensor, nn
from torch.optim import Optimizer

from svdproj.direction import HackDirection

_ORDER = "the order of the arguments is (optimizer, direction, params)"


def check_optimizer(optimizer: object) -> None:
    """Refuse what cannot be stepped.

    Raises:
        TypeError: it is no optimizer, or one that is wrapped already.
    """
    if not isinstance(optimizer, Optimizer):
        raise TypeError(
            f"optimizer must be a torch.optim.Optimizer, got {_kind(optimizer)}; make one first, such as "
            f"torch.optim.AdamW(model.parameters()); {_ORDER}"
        )
    # By name: the wrapper's module imports this one.
    if any(base.__name__ == "ProjectedOptimizer" for base in type(optimizer).__mro__):
        raise TypeError(
            f"optimizer is a {type(optimizer).__name__}, which is projected already; wrap the inner one "
            "(optimizer.optimizer), or change the direction with set_direction(...)"
        )


def check_direction(direction: object) -> None:
    """Refuse what is no direction.

    Raises:
        TypeError: it is none.
    """
    if isinstance(direction, HackDirection):
        return
    if isinstance(direction, str | PathLike):
        way_out = "read the file with HackDirection.load(path), or the hub with HackDirection.from_pretrained(repo_id)"
    elif direction is None:
        way_out = "HackDirection.empty() projects nothing"
    else:
        way_out = _ORDER
    raise TypeError(f"direction must be a HackDirection, got {_kind(direction)}; {way_out}")


def as_named_parameters(params: object) -> nn.Module | tuple[tuple[str, Tensor], ...]:
    """The model itself, or its pairs, to be gone through more than once.

    Raises:
        TypeError: neither a module nor `(name, parameter)` pairs.
    """
    if isinstance(params, nn.Module):
        return params
    expected = "params must be a module or (name, parameter) pairs"
    way_out = "pass the model, or model.named_parameters()"
    if isinstance(params, str | Tensor | HackDirection) or not isinstance(params, Iterable):
        raise TypeError(f"{expected}, got {_kind(params)}; {way_out}; {_ORDER}")
    pairs = tuple(params)
    for pair in pairs:
        if not (isinstance(pair, tuple) and len(pair) == 2):
            raise TypeError(f"{expected}, got an iterable of {_kind(pair)}; {way_out}")
        if not (isinstance(pair[0], str) and isinstance(pair[1], Tensor)):
            raise TypeError(f"{expected}, got a pair of {_kind(pair[0])} and {_kind(pair[1])}; {way_out}")
    return pairs


def _kind(thing: object) -> str:
    return "None" if thing is None else type(thing).__name__

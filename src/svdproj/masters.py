"""Float32 master copies of low-precision weights, which the inner optimizer steps in their place."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

LOW_PRECISION = frozenset({torch.bfloat16, torch.float16})


class Masters:
    """Keeps a float32 copy of each low-precision parameter and lends it to the optimizer for the time of a step.

    The visible weight is the master's rounding. Where somebody else wrote to the visible weight (loading a checkpoint,
    averaging), the master follows it.

    While it is lent, the master stands in the parameter's place in the optimizer's groups and state. The parameter itself is left
    alone: giving it float32 data would throw away autograd's accumulator, and with it the hook by which
    DistributedDataParallel reduces the gradient.
    """

    def __init__(self) -> None:
        self.copies: dict[str, Tensor] = {}
        self._lent: dict[str, Tensor] = {}

    def lend(self, parameters: Mapping[str, Tensor], optimizer: Optimizer) -> None:
        """Put each low-precision parameter's master in its place, with gradient and optimizer state in float32."""
        low = _low_precision(parameters)
        self.complete(low)
        # From here on there is something to take back, however far this gets.
        self._lent = low
        _exchange(optimizer, {p: self.copies[name] for name, p in self._lent.items()})
        for name, parameter in self._lent.items():
            master = self.copies[name]
            master.grad = None if parameter.grad is None else parameter.grad.float()
            _cast_state(optimizer.state.get(master, {}), torch.float32)

    def take_back(self, optimizer: Optimizer) -> None:
        """Put the low-precision weights back, rounded from the stepped masters."""
        _exchange(optimizer, {self.copies[name]: p for name, p in self._lent.items()})
        for name, parameter in self._lent.items():
            self.copies[name].grad = None
            parameter.detach().copy_(self.copies[name])
        self._lent = {}

    @contextmanager
    def stand_in(self, parameters: Mapping[str, Tensor], optimizer: Optimizer) -> Iterator[None]:
        """Inside, the optimizer holds float32 tensors in place of low-precision parameters, whose values mean nothing.

        torch casts loaded state to its parameter's dtype, and a master's float32 moments must not become bfloat16.
        """
        places = {p: torch.empty_like(p, dtype=torch.float32) for p in _low_precision(parameters).values()}
        _exchange(optimizer, places)
        try:
            yield
        finally:
            _exchange(optimizer, {place: p for p, place in places.items()})

    def complete(self, parameters: Mapping[str, Tensor]) -> None:
        """Make the masters that are missing, and let the others follow their weights."""
        with torch.no_grad():
            for name, parameter in _low_precision(parameters).items():
                visible, master = parameter.detach(), self.copies.get(name)
                if master is None or master.shape != visible.shape:
                    self.copies[name] = visible.float()
                    continue
                self.copies[name] = master = master.to(visible.device)
                master.copy_(torch.where(master.to(visible.dtype) == visible, master, visible.float()))

    def forget_others(
        self, kept: Collection[str], parameters: Mapping[str, Tensor], state: Mapping[Any, MutableMapping[str, Any]]
    ) -> None:
        """Drop the masters of parameters that are no longer covered; their state returns to the weights' dtype."""
        for name in set(self.copies) - set(kept):
            del self.copies[name]
            if (parameter := parameters.get(name)) is not None:
                _cast_state(state.get(parameter, {}), parameter.dtype)


def _low_precision(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: parameter for name, parameter in parameters.items() if parameter.dtype in LOW_PRECISION}


def _exchange(optimizer: Optimizer, places: Mapping[Tensor, Tensor]) -> None:
    """Put tensors in the places of others, in the optimizer's groups and as keys of its state, both kept in order."""
    if not places:
        return
    for group in optimizer.param_groups:
        # In place: LBFGS keeps the list itself.
        group["params"][:] = [places.get(p, p) for p in group["params"]]
    entries = list(optimizer.state.items())
    optimizer.state.clear()
    for key, value in entries:
        optimizer.state[places.get(key, key) if isinstance(key, Tensor) else key] = value


def _cast_state(state: MutableMapping[str, Any], dtype: torch.dtype) -> None:
    """Moments in the dtype of the weights that the optimizer steps; step counters have a dtype of their own."""
    for key, value in state.items():
        if isinstance(value, Tensor) and value.ndim and value.is_floating_point() and value.dtype is not dtype:
            state[key] = value.to(dtype)

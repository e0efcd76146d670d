"""Float32 master copies of low-precision weights, which the inner optimizer steps in their place."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

LOW_PRECISION = frozenset({torch.bfloat16, torch.float16})


class Masters:
    """Keeps a float32 copy of each low-precision parameter and lends it to the optimizer for the time of a step.

    The visible weight is the master's rounding. Where somebody else wrote to the visible weight (loading a checkpoint,
    averaging), the master follows it.
    """

    def __init__(self) -> None:
        self.copies: dict[str, Tensor] = {}
        self._lent: dict[str, tuple[Tensor, Tensor, Tensor | None]] = {}

    def lend(self, parameters: Mapping[str, Tensor], state: Mapping[Any, MutableMapping[str, Any]]) -> None:
        """Put each low-precision parameter's master in its place, with gradient and optimizer state in float32."""
        for name, parameter in parameters.items():
            if parameter.dtype in LOW_PRECISION:
                self._swap(name, parameter, self._fresh(name, parameter.data))
                _cast_state(state.get(parameter, {}), torch.float32)

    def take_back(self) -> None:
        """Put the low-precision weights back, rounded from the stepped masters, with the gradients they had."""
        for name, (parameter, visible, _) in self._lent.items():
            self.copies[name] = parameter.data
            visible.copy_(parameter.data)
        self._swap_back()

    @contextmanager
    def float32_stand_ins(self, parameters: Mapping[str, Tensor]) -> Iterator[None]:
        """Inside, low-precision parameters look like float32 ones: torch casts loaded state to its parameter's dtype,
        and a master's float32 moments must not become bfloat16. Masters and weights stay as they are.
        """
        for name, parameter in parameters.items():
            if parameter.dtype in LOW_PRECISION:
                self._swap(name, parameter, parameter.data.float())
        try:
            yield
        finally:
            self._swap_back()

    def complete(self, parameters: Mapping[str, Tensor]) -> None:
        """Make the masters that are still missing, so that a checkpoint has the same entries at every step."""
        for name, parameter in parameters.items():
            if parameter.dtype in LOW_PRECISION:
                self.copies[name] = self._fresh(name, parameter.data)

    def forget_others(
        self, kept: Collection[str], parameters: Mapping[str, Tensor], state: Mapping[Any, MutableMapping[str, Any]]
    ) -> None:
        """Drop the masters of parameters that are no longer covered; their state returns to the weights' dtype."""
        for name in set(self.copies) - set(kept):
            del self.copies[name]
            if (parameter := parameters.get(name)) is not None:
                _cast_state(state.get(parameter, {}), parameter.dtype)

    def _swap(self, name: str, parameter: Tensor, stand_in: Tensor) -> None:
        grad = parameter.grad
        self._lent[name] = (parameter, parameter.data, grad)
        parameter.grad = None  # a gradient must have its parameter's dtype at every moment
        parameter.data = stand_in
        parameter.grad = None if grad is None else grad.float()

    def _swap_back(self) -> None:
        for parameter, visible, grad in self._lent.values():
            parameter.grad = None
            parameter.data = visible
            parameter.grad = grad
        self._lent.clear()

    def _fresh(self, name: str, visible: Tensor) -> Tensor:
        master = self.copies.get(name)
        if master is None or master.shape != visible.shape:
            return visible.float()
        master = master.to(visible.device)
        return torch.where(master.to(visible.dtype) == visible, master, visible.float())


def refuse_sharded(parameters: Mapping[str, Tensor]) -> None:
    """Masters take a parameter's place in memory, which a DTensor does not allow.

    Raises:
        NotImplementedError: a low-precision DTensor.
    """
    for name, parameter in parameters.items():
        if isinstance(parameter, DTensor) and parameter.dtype in LOW_PRECISION:
            raise NotImplementedError(
                f"{name} is a {parameter.dtype} DTensor, for which write_back='exact' cannot keep a master; keep the sharded "
                "parameters in float32 and compute in bfloat16 by "
                "fully_shard(..., mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16)): they then are the masters"
            )


def _cast_state(state: MutableMapping[str, Any], dtype: torch.dtype) -> None:
    """Moments in the dtype of the weights that the optimizer steps; step counters have a dtype of their own."""
    for key, value in state.items():
        if isinstance(value, Tensor) and value.ndim and value.is_floating_point() and value.dtype is not dtype:
            state[key] = value.to(dtype)

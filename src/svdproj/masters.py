"""Float32 master copies of low-precision weights, which the inner optimizer steps in their place."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

LOW_PRECISION = frozenset({torch.bfloat16, torch.float16})


class Masters:
    """Keeps a float32 copy of each low-precision parameter and lends it to the optimizer for the time of a step.

    The visible weight is the master's rounding. Where somebody else wrote to the visible weight (loading a checkpoint,
    averaging), the master follows it.
    """

    def __init__(self) -> None:
        self.copies: dict[str, Tensor] = {}
        self._lent: dict[str, tuple[Tensor, Tensor, Tensor | None]] = {}

    def lend(self, parameters: Mapping[str, Tensor]) -> None:
        """Put each low-precision parameter's master in its place, its gradient in float32."""
        for name, parameter in parameters.items():
            if parameter.dtype in LOW_PRECISION:
                data, grad = parameter.data, parameter.grad
                self._lent[name] = (parameter, data, grad)
                parameter.data = self._fresh(name, data)
                parameter.grad = None if grad is None else grad.float()

    def take_back(self) -> None:
        """Put the low-precision weights back, rounded from the stepped masters, with the gradients they had."""
        for name, (parameter, data, grad) in self._lent.items():
            self.copies[name] = parameter.data
            data.copy_(parameter.data)
            parameter.grad = None  # a gradient must have its parameter's dtype at every moment
            parameter.data = data
            parameter.grad = grad
        self._lent.clear()

    def _fresh(self, name: str, data: Tensor) -> Tensor:
        master = self.copies.get(name)
        if master is None or master.shape != data.shape:
            return data.float()
        master = master.to(data.device)
        return torch.where(master.to(data.dtype) == data, master, data.float())

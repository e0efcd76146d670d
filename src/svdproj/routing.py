"""Where `mode="route"` sends what it removes: for each covered parameter, a quarantine parameter of the same shape."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor
from torch.optim import Optimizer

from svdproj.masters import LOW_PRECISION
from svdproj.names import canonical_name
from svdproj.options import ProjectionOptions
from svdproj.plan import Stack, local
from svdproj.rounding import stochastic_round
from svdproj.step import NoiseFor, Route


class Quarantine:
    """The quarantine parameters by the names of the parameters that they stand beside.

    Args:
        tensors: canonical name of a covered parameter to its quarantine.
        named: names and parameters of the model. A quarantine among them is looked up by its name from then on, since
            `fully_shard` and accelerate replace parameters.
        steps: whether the optimizer steps the quarantine, as it does in gradient space.
    """

    def __init__(self, tensors: Mapping[str, Tensor], named: Iterable[tuple[str, Tensor]], steps: bool) -> None:
        names = {id(parameter): name for name, parameter in named}
        self._names = {name: names.get(id(tensor)) for name, tensor in tensors.items()}
        self._tensors = dict(tensors)
        self._steps = steps

    def bind(
        self,
        named: Iterable[tuple[str, Tensor]],
        covered: Mapping[str, tuple[Tensor, bool]],
        optimizer: Optimizer,
    ) -> None:
        """Look the quarantine up among the parameters as they are now.

        Raises:
            ValueError: a covered parameter without quarantine, of another shape, or itself one; in gradient space, one
                that the optimizer does not step.
        """
        current = dict(named)
        self._tensors = {
            name: tensor if (alias := self._names[name]) is None else current.get(alias, tensor)
            for name, tensor in self._tensors.items()
        }
        stepped = {id(p) for group in optimizer.param_groups for p in group["params"]}
        inside = {id(tensor) for tensor in self._tensors.values()}
        for name, (parameter, _) in covered.items():
            if id(parameter) in inside:
                raise ValueError(
                    f"{name} is a quarantine and covered by the direction; fit the direction on the other parameters"
                )
            if (tensor := self._tensors.get(name)) is None:
                raise ValueError(
                    f"the direction covers {name}, for which there is no quarantine; build the adapter with "
                    "quarantine=True and pass quarantine_of(model), or take the parameter out of the direction"
                )
            if tensor.shape != parameter.shape:
                raise ValueError(
                    f"the quarantine of {name} has shape {tuple(tensor.shape)}, the parameter {tuple(parameter.shape)}"
                )
            if self._steps and id(tensor) not in stepped:
                raise ValueError(
                    f"the quarantine of {name} is not in the optimizer, which has to step it in gradient space; add it to "
                    "a parameter group, or use space='update', where the wrapper moves it"
                )

    def take_gradients(self, stack: Stack, part: Tensor) -> None:
        """The routed part becomes the quarantine's gradient, in place of what was there."""
        for name, parameter, routed in zip(stack.names, stack.parameters, part, strict=True):
            if parameter.grad is None:
                continue
            tensor = self._tensors[name]
            tensor.grad = torch.zeros_like(tensor)
            local(tensor.grad).copy_(-routed if stack.maximize else routed)

    def take_displacement(self, noise_for: NoiseFor) -> Route:
        """A receiver that moves the quarantine as the optimizer would have moved the parameter beside it.

        Args:
            noise_for: the step's source of noise, for quarantines in low precision.
        """

        def take(stack: Stack, part: Tensor) -> None:
            for name, routed in zip(stack.names, part, strict=True):
                tensor = local(self._tensors[name].detach())
                if tensor.dtype in LOW_PRECISION:
                    noise = noise_for(f"{name}/quarantine", stack.offset, tensor.device)
                    tensor.copy_(stochastic_round(tensor.float() - routed, tensor.dtype, noise))
                else:
                    # The part is of the negative displacement.
                    tensor.sub_(routed.to(tensor.dtype))

        return take


def make_quarantine(
    tensors: Mapping[str, Tensor] | None, options: ProjectionOptions, named: Iterable[tuple[str, Tensor]]
) -> Quarantine | None:
    """The quarantine of `mode="route"`; none in other modes.

    Raises:
        ValueError: one without the other.
    """
    if tensors is None and not options.route:
        return None
    if tensors is None or not options.route:
        raise ValueError(
            "mode='route' and quarantine go together: "
            + (
                "give ProjectedOptimizer mode='route' too"
                if tensors is not None
                else "pass quarantine_of(model) of svdproj.adapters"
            )
        )
    by_name = {canonical_name(name): tensor for name, tensor in tensors.items()}
    return Quarantine(by_name, named, steps=options.space == "gradient")

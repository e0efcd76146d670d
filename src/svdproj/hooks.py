"""The projection as hooks on an optimizer's own `step`, for trainers that insist on their optimizer's exact class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from svdproj.coverage import Coverage
from svdproj.direction import HackDirection
from svdproj.options import ProjectionOptions
from svdproj.projector import NamedParameters, Projector


class Attached:
    """What `attach` returns; the projection lasts until `remove`.

    `state_dict` and `load_state_dict` are the projection's own part of a checkpoint (the optimizer's holds none of it).

    Example:
        >>> model = torch.nn.Linear(8, 4)
        >>> direction = HackDirection.from_gradients({"weight": torch.randn(6, 4, 8)}, k=2)
        >>> handle = attach(torch.optim.AdamW(model.parameters()), direction, model)
        >>> len(handle.direction)
        1
        >>> handle.remove()
    """

    def __init__(self, optimizer: Optimizer, projector: Projector) -> None:
        self.projector = projector
        self._handles = [
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        ]

    def metrics(self) -> dict[str, float]:
        """As `ProjectedOptimizer.metrics`."""
        return self.projector.metrics()

    def coverage(self) -> Coverage:
        """As `ProjectedOptimizer.coverage`."""
        return self.projector.coverage()

    @property
    def direction(self) -> HackDirection:
        """The direction in force."""
        return self.projector.direction

    def set_direction(self, direction: HackDirection, *, purge_state: bool = True) -> None:
        """As `ProjectedOptimizer.set_direction`."""
        self.projector.set_direction(direction, purge_state)

    def state_dict(self) -> dict[str, Any]:
        """The direction's fingerprint and the state of the rounding noise."""
        return self.projector.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.projector.load_state_dict(state_dict)

    def remove(self) -> None:
        """Take the hooks off; the optimizer is bare again."""
        for handle in self._handles:
            handle.remove()

    def _before_step(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        wanted = self.projector.before_step(closure)
        return None if wanted is closure else (args[:1], {**kwargs, "closure": wanted})

    def _after_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.projector.after_step()


def attach(
    optimizer: Optimizer,
    direction: HackDirection,
    params: NamedParameters,
    *,
    quarantine: Mapping[str, Tensor] | None = None,
    **options: Any,
) -> Attached:
    """Project an optimizer's steps by hooks on it, instead of wrapping it.

    Use it where a trainer needs the optimizer's exact class; otherwise `ProjectedOptimizer` does more. Its limits:

    - `copy.deepcopy` and pickling leave hooks behind, so a copy of the optimizer is *not* projected: attach again.
    - The optimizer's `state_dict()` knows nothing of the direction; save the handle's beside it.
    - A fused optimizer under a `GradScaler` unscales inside its kernel, so that steps which the scaler skips are counted.
    - A closure must be passed as torch's optimizers take it, first or by name.
    - After a step that raises midway no hook runs: what it had moved by then stays unprojected, in update space.
    - `write_back="exact"` needs the wrapper: after such a step no hook would give the weights back.

    Args:
        optimizer: the optimizer to hook.
        direction: the subspaces to stay out of.
        params: the model, or its `(name, parameter)` pairs.
        quarantine: for `mode="route"`, as in `ProjectedOptimizer`.
        **options: the others of `ProjectedOptimizer`, but `write_back` is `"auto"`.

    Returns:
        A handle with `metrics()`, `set_direction(...)` and `remove()`.

    Raises:
        ValueError: an unknown option, `write_back="exact"`, or a direction that does not fit.
        TypeError, NotImplementedError: as from `ProjectedOptimizer`.

    Warns:
        UserWarning: as from `ProjectedOptimizer`.

    Example:
        >>> model = torch.nn.Linear(4, 4)
        >>> optimizer = torch.optim.AdamW(model.parameters())
        >>> handle = attach(optimizer, HackDirection.empty(), model)
        >>> handle.remove()
    """
    chosen = ProjectionOptions(**options)
    if chosen.exact:
        raise ValueError("attach cannot keep float32 masters (write_back='exact'); use ProjectedOptimizer for them")
    return Attached(optimizer, Projector(optimizer, direction, params, chosen, quarantine))

"""What a projection remembers from step to step; `ProjectedOptimizer` and `attach` are two ways to drive it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from svdproj.coverage import Coverage, check_fit
from svdproj.direction import HackDirection
from svdproj.layouts import check_supported, refuse_flat_layouts
from svdproj.masters import Masters
from svdproj.options import ProjectionOptions
from svdproj.plan import Stack, covered_parameters, make_stacks
from svdproj.precision import full_float32
from svdproj.report import METRICS, StepReport
from svdproj.rounding import RoundingNoise
from svdproj.routing import make_quarantine
from svdproj.step import Displacements, Gradients, project, remove_from_state, snapshot, visited

NamedParameters = nn.Module | Iterable[tuple[str, Tensor]]

# So many steps that train something, none of it covered, are a mistake in the wiring and not a schedule.
INERT_STEPS = 50
_VERSION = 1


class Projector:
    """A direction applied to an optimizer's parameters: stacks, masters, rounding noise and the last report.

    Its `state_dict` and `load_state_dict` make it a `Stateful` for `torch.distributed.checkpoint`, which keeps only `state` and
    `param_groups` of an optimizer: save it beside the model and the optimizer.

    Args:
        optimizer: the optimizer that steps the parameters.
        direction: the subspaces.
        params: the model, or its `(name, parameter)` pairs.
        options: how the direction is applied.
        quarantine: where `mode="route"` sends what it removes.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        direction: HackDirection,
        params: NamedParameters,
        options: ProjectionOptions,
        quarantine: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.optimizer = optimizer
        self.options = options
        self.masters = Masters()
        self.report: StepReport | None = None
        self._params = params if isinstance(params, nn.Module) else _as_pairs(params)
        self.noise = RoundingNoise()
        self._stacks: list[Stack] = []
        self._stacks_key: list[Any] | None = None
        self._lent_stacks: list[Stack] | None = None
        self._idle_steps = 0
        self._visited: int | None = None
        if len(direction):
            refuse_flat_layouts(optimizer, self._params)
        self.direction = check_fit(direction, self.named_parameters())
        for name, (parameter, _) in self._covered().items():
            check_supported(name, parameter)
        self.quarantine = make_quarantine(quarantine, options, self.named_parameters())
        if self.quarantine is not None:
            self.quarantine.bind(self.named_parameters(), self._covered(), optimizer)

    # --- which parameters

    def named_parameters(self) -> Iterable[tuple[str, Tensor]]:
        """Names and parameters as they are now; a tied parameter appears under each of its names."""
        if isinstance(self._params, nn.Module):
            return self._params.named_parameters(remove_duplicate=False)
        return self._params

    def stacks(self) -> list[Stack]:
        """The stacks for the parameters that the optimizer holds at this moment."""
        key = [
            (bool(group.get("maximize", False)), [(id(p), p.dtype, p.device) for p in group["params"]])
            for group in self.optimizer.param_groups
        ]
        if key != self._stacks_key:
            covered = self._covered()
            self._stacks = make_stacks(covered, self.direction.subspaces)
            if self.quarantine is not None:
                self.quarantine.bind(self.named_parameters(), covered, self.optimizer)
            self._stacks_key = key
        return self._stacks

    def stepped_stacks(self) -> list[Stack]:
        """The stacks of what the optimizer steps, as `begin` found them: the parameters', or their masters' while those are lent."""
        return self._stacks if self._lent_stacks is None else self._lent_stacks

    def parameters(self) -> dict[str, Tensor]:
        """The covered parameters by canonical name."""
        return {name: p for stack in self.stacks() for name, p in zip(stack.names, stack.parameters, strict=True)}

    def coverage(self) -> Coverage:
        """Which parameters the direction covers, and how many bytes that takes."""
        return self.direction.coverage(self.named_parameters())

    def set_direction(self, direction: HackDirection, purge_state: bool) -> None:
        """Replace the direction; see `ProjectedOptimizer.set_direction`."""
        before = self.parameters()
        self.direction = check_fit(direction, self.named_parameters())
        self._stacks_key = None
        self.masters.forget_others(self.parameters(), before, self.optimizer.state)
        if purge_state and (stacks := self.stacks()):
            with torch.no_grad(), full_float32(_device_type(stacks)):
                remove_from_state(stacks, self.optimizer.state)

    def _covered(self) -> dict[str, tuple[Tensor, bool]]:
        return covered_parameters(self.named_parameters(), self.optimizer.param_groups, self.direction.subspaces)

    # --- the step, in parts; eager under torch.compile, where counters and reports would be traced as constants

    @torch.compiler.disable
    def begin(self, closure: bool) -> bool:
        """Look the parameters up for one step; whether it may move a covered one.

        Args:
            closure: whether gradients come later, from a closure.
        """
        stacks = self.stacks()
        self._visited = None if closure else visited(stacks)
        return self._visited != 0

    @torch.compiler.disable
    def project_gradients(self) -> None:
        """Project `p.grad` in place."""
        stacks = self.stepped_stacks()
        if not (count := self._count(stacks)):
            self.note_idle()
            return
        with torch.no_grad(), full_float32(_device_type(stacks)):
            route = None if self.quarantine is None else self.quarantine.take_gradients
            self._note(project(stacks, Gradients(stacks), self.options, count, self._pending(), route))

    @torch.compiler.disable
    def snapshot(self) -> list[Tensor]:
        """The covered weights before the optimizer's step."""
        with torch.no_grad():
            return snapshot(self.stepped_stacks())

    @torch.compiler.disable
    def project_displacement(self, before: list[Tensor]) -> None:
        """Project what the optimizer's step did to the weights since `snapshot`, in place."""
        stacks = self.stepped_stacks()
        if not (count := self._count(stacks)):
            self.note_idle()
            return
        with torch.no_grad(), full_float32(_device_type(stacks)):
            noise_for = self.noise.advance()
            displacements = Displacements(stacks, before, noise_for)
            route = None if self.quarantine is None else self.quarantine.take_displacement(noise_for)
            self._note(project(stacks, displacements, self.options, count, self._pending(), route))

    @torch.compiler.disable
    def lend_masters(self) -> None:
        """Let the optimizer step float32 masters, until `take_back_masters`."""
        stacks = self.stacks()
        self.masters.lend(self.parameters(), self.optimizer)
        self._lent_stacks = [stack.standing_for(self.masters.copies) for stack in stacks]

    @torch.compiler.disable
    def take_back_masters(self) -> None:
        """The low-precision weights again, rounded from the masters."""
        self._lent_stacks = None
        self.masters.take_back(self.optimizer)

    def stepped_dtypes(self) -> AbstractContextManager[None]:
        """Inside, parameters have the dtypes in which the optimizer steps them."""
        return self.masters.stand_in(self.parameters() if self.options.exact else {}, self.optimizer)

    @torch.compiler.disable
    def note_idle(self) -> None:
        """Count a step that visited no covered parameter though it trained something.

        Raises:
            RuntimeError: the `INERT_STEPS`-th of them in a row.
        """
        if not len(self.direction) or not self._any_gradient():
            return
        self._idle_steps += 1
        if self._idle_steps >= INERT_STEPS:
            raise RuntimeError(
                f"no parameter of the direction was visited in {self._idle_steps} steps, so nothing is protected. Likely "
                "causes: the covered parameters are frozen, or not in this optimizer; the model was wrapped or rebuilt after "
                "the optimizer was made (pass the model instead of (name, parameter) pairs); the direction belongs to "
                f"another model. The direction covers {', '.join(list(self.direction.subspaces)[:3])}, …"
            )

    def metrics(self) -> dict[str, float]:
        """The last step's metrics; waits for the device."""
        return dict.fromkeys(METRICS, 0.0) if self.report is None else self.report.metrics()

    def _count(self, stacks: list[Stack]) -> int:
        """How many covered parameters have a gradient, counted once in a step without closure."""
        return visited(stacks) if self._visited is None else self._visited

    def _note(self, report: StepReport) -> None:
        self.report, self._idle_steps = report, 0

    def _pending(self) -> Any:
        return self.report.pending if self.report else None

    def _any_gradient(self) -> bool:
        # The model's too: an optimizer left with the parameters that fully_shard replaced has no gradients at all.
        own = (p for group in self.optimizer.param_groups for p in group["params"])
        return any(p.grad is not None for p in own) or any(p.grad is not None for _, p in self.named_parameters())

    # --- checkpoints

    def state_dict(self) -> dict[str, Any]:
        """The direction's fingerprint, the float32 masters and the state of the rounding noise; empty without a direction.

        Tensors and primitives only, and the same entries at every step, as `torch.distributed.checkpoint` needs them.
        """
        if not len(self.direction):
            return {}
        if self.options.exact:
            self.masters.complete(self.parameters())
        return {
            "version": _VERSION,
            "direction": self.direction.fingerprint,
            "masters": dict(self.masters.copies),
            "rounding": self.noise.state(),
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned.

        Raises:
            ValueError: it was written under another direction, or by a newer version.
        """
        if not state_dict:
            return
        if state_dict["version"] > _VERSION:
            raise ValueError(
                f"the checkpoint's svdproj entry has version {state_dict['version']}, this svdproj reads up to {_VERSION}; "
                "install a newer svdproj"
            )
        if state_dict["direction"] != self.direction.fingerprint:
            raise ValueError(
                f"the checkpoint was written under the direction {state_dict['direction'][:12]}…, this optimizer has "
                f"{self.direction.fingerprint[:12]}…; build it with the checkpoint's direction, load, and then call "
                "set_direction(...) if you want another one from here on"
            )
        self.masters.copies = {name: master.clone() for name, master in state_dict["masters"].items()}
        self.noise.set_state(state_dict["rounding"])

    def __getstate__(self) -> dict[str, Any]:
        # Stacks and process groups are found again on demand.
        return self.__dict__ | {"report": None, "_stacks": [], "_stacks_key": None}


def _as_pairs(params: Iterable[Any]) -> tuple[tuple[str, Tensor], ...]:
    pairs = tuple(params)
    for pair in pairs:
        if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str)):
            raise TypeError(
                f"params must be a module or (name, parameter) pairs, got an iterable of {type(pair).__name__}; "
                "pass the model, or model.named_parameters()"
            )
    return pairs


def _device_type(stacks: list[Stack]) -> str:
    return stacks[0].null.device.type if stacks else "cpu"

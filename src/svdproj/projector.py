"""What a projection remembers from step to step; `ProjectedOptimizer` and `attach` are two ways to drive it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from svdproj.arguments import as_named_parameters, check_direction, check_optimizer
from svdproj.coverage import Coverage, check_fit, coverage_of, matched_parameters, warn_untrained
from svdproj.direction import HackDirection
from svdproj.layouts import check_supported, refuse_flat_layouts
from svdproj.masters import Masters
from svdproj.options import ProjectionOptions
from svdproj.plan import Stack, covered_parameters, make_stacks
from svdproj.precision import full_float32
from svdproj.report import METRICS, StepReport
from svdproj.rounding import RoundingNoise
from svdproj.routing import make_quarantine
from svdproj.sentinel import INERT_STEPS as INERT_STEPS
from svdproj.sentinel import Sentinel
from svdproj.step import Displacements, Gradients, project, remove_from_state, snapshot, visited

NamedParameters = nn.Module | Iterable[tuple[str, Tensor]]
Closure = Callable[[], Any]

_VERSION = 1
_STATE_KEYS = ("version", "direction", "masters", "rounding")


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

    Raises:
        TypeError: an optimizer, a direction or params of the wrong kind.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        direction: HackDirection,
        params: NamedParameters,
        options: ProjectionOptions,
        quarantine: Mapping[str, Tensor] | None = None,
    ) -> None:
        check_optimizer(optimizer)
        self.optimizer = optimizer
        self.options = options
        self.masters = Masters()
        self.report: StepReport | None = None
        self.noise = RoundingNoise()
        self._stacks: list[Stack] = []
        self._stacks_key: list[Any] | None = None
        self._lent_stacks: list[Stack] | None = None
        self._sentinel = Sentinel()
        self._visited: int | None = None
        self._before: list[Tensor] | None = None
        check_direction(direction)
        self._params = as_named_parameters(params)
        self.quarantine = make_quarantine(quarantine, options, self.named_parameters())
        self.direction = self._checked(direction)

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

    def _stepped_stacks(self) -> list[Stack]:
        """The stacks of what the optimizer steps, as `before_step` found them: the parameters', or their masters' while those are lent."""
        return self._stacks if self._lent_stacks is None else self._lent_stacks

    def parameters(self) -> dict[str, Tensor]:
        """The covered parameters by canonical name."""
        return {name: p for stack in self.stacks() for name, p in zip(stack.names, stack.parameters, strict=True)}

    def coverage(self) -> Coverage:
        """Which parameters the direction covers, and how many bytes that takes."""
        return coverage_of(self.direction, self.named_parameters(), self._held())

    def set_direction(self, direction: HackDirection, purge_state: bool) -> None:
        """Replace the direction; see `ProjectedOptimizer.set_direction`."""
        before = self.parameters()
        self.direction = self._checked(direction)
        self._stacks_key = None
        self.masters.forget_others(self.parameters(), before, self.optimizer.state)
        if purge_state and (stacks := self.stacks()):
            with torch.no_grad(), full_float32(_device_type(stacks)):
                remove_from_state(stacks, self.optimizer.state)

    def _checked(self, direction: HackDirection) -> HackDirection:
        """The direction, if it can be projected here; nothing changes where it cannot."""
        check_direction(direction)
        if not len(direction):
            return direction
        refuse_flat_layouts(self.optimizer, self._params)
        # Five frames from the warnings to whoever made the optimizer or set the direction.
        check_fit(direction, self.named_parameters(), stacklevel=5)
        covered = covered_parameters(self.named_parameters(), self.optimizer.param_groups, direction.subspaces)
        for name, (parameter, _) in covered.items():
            check_supported(name, parameter)
        if self.quarantine is not None:
            self.quarantine.bind(self.named_parameters(), covered, self.optimizer)
        warn_untrained(direction, self.named_parameters(), self._held(), stacklevel=5)
        return direction

    def _covered(self) -> dict[str, tuple[Tensor, bool]]:
        return covered_parameters(self.named_parameters(), self.optimizer.param_groups, self.direction.subspaces)

    def _held(self) -> Iterator[Tensor]:
        return (p for group in self.optimizer.param_groups for p in group["params"])

    # --- the step, in parts; eager under torch.compile, where counters and reports would be traced as constants

    @torch.compiler.disable
    def before_step(self, closure: Closure | None) -> Closure | None:
        """What comes before the optimizer's step: gradients projected, or weights remembered, masters lent.

        Args:
            closure: the step's.

        Returns:
            The closure to give the optimizer.
        """
        self._before = None  # what a hooked step that failed left behind
        if not len(self.direction):
            return closure
        stacks = self.stacks()
        self._visited = visited(stacks) if closure is None else None  # with a closure, gradients come later
        if self._visited == 0:
            self._note_idle()  # nothing covered will move: no copy, no report
            return closure
        if self.options.exact:
            self._lend_masters()
        if self.options.space == "update":
            with torch.no_grad():
                self._before = snapshot(self._stepped_stacks())
        elif closure is None:
            self._project_gradients()
        return None if closure is None else self._evaluation(closure)

    @torch.compiler.disable
    def after_step(self, failed: bool = False) -> None:
        """What comes after it: in update space, the displacement projected; masters taken back.

        Args:
            failed: the step raised, so that gradients tell nothing of what it moved.
        """
        before, self._before = self._before, None
        try:
            if before is not None:
                self._project_displacement(before, failed)
        finally:
            if self.options.exact:
                self._take_back_masters()

    @torch.compiler.disable
    def after_failure(self, error: BaseException) -> None:
        """What comes after a step that raised `error`: whatever moved by then is projected all the same."""
        try:
            self.after_step(failed=True)
        except Exception as another:
            error.add_note(f"svdproj could not project what the step had moved by then: {another!r}")

    def _evaluation(self, closure: Closure) -> Closure:
        """The closure as the optimizer is to call it: on the weights that the model computes with; in gradient space, projected."""
        if self.options.space == "update" and not self.options.exact:
            return closure

        def evaluate() -> Any:
            with torch.enable_grad(), self._visible_weights():
                loss = closure()
            if self.options.space == "gradient":
                self._project_gradients()
            return loss

        return evaluate

    @torch.compiler.disable
    def _project_gradients(self) -> None:
        """Project `p.grad` in place."""
        stacks = self._stepped_stacks()
        if not (count := self._count(stacks)):
            self._note_idle()
            return
        with torch.no_grad(), full_float32(_device_type(stacks)):
            route = None if self.quarantine is None else self.quarantine.take_gradients
            self._note(project(stacks, Gradients(stacks), self.options, count, self._pending(), route))

    def _project_displacement(self, before: list[Tensor], failed: bool) -> None:
        """Project what the optimizer's step did to the weights since they were `before`, in place."""
        stacks = self._stepped_stacks()
        if not (count := self._count(stacks)) and not failed:
            self._note_idle()
            return
        with torch.no_grad(), full_float32(_device_type(stacks)):
            noise_for = self.noise.advance()
            displacements = Displacements(stacks, before, noise_for)
            route = None if self.quarantine is None else self.quarantine.take_displacement(noise_for)
            self._note(project(stacks, displacements, self.options, count, self._pending(), route))

    def _lend_masters(self) -> None:
        """Let the optimizer step float32 masters, until `_take_back_masters`."""
        stacks = self.stacks()
        self.masters.lend(self.parameters(), self.optimizer)
        self._lent_stacks = [stack.standing_for(self.masters.copies) for stack in stacks]

    def _take_back_masters(self) -> None:
        """The low-precision weights again, rounded from the masters."""
        self._lent_stacks = None
        self.masters.take_back(self.optimizer)

    @contextmanager
    def _visible_weights(self) -> Iterator[None]:
        """Inside, masters that were lent are back."""
        if not self.options.exact:
            yield
            return
        self._take_back_masters()
        try:
            yield
        finally:
            self._lend_masters()

    def stepped_dtypes(self) -> AbstractContextManager[None]:
        """Inside, parameters have the dtypes in which the optimizer steps them."""
        return self.masters.stand_in(self.parameters() if self.options.exact else {}, self.optimizer)

    def _note_idle(self) -> None:
        if len(self.direction):
            covered = matched_parameters(self.named_parameters(), self.direction.subspaces)
            self._sentinel.note_idle(self._any_gradient(), covered)

    def metrics(self) -> dict[str, float]:
        """The last step's metrics; waits for the device."""
        return dict.fromkeys(METRICS, 0.0) if self.report is None else self.report.metrics()

    def _count(self, stacks: list[Stack]) -> int:
        """How many covered parameters have a gradient, counted once in a step without closure."""
        return visited(stacks) if self._visited is None else self._visited

    def _note(self, report: StepReport) -> None:
        self.report = report
        self._sentinel.reset()

    def _pending(self) -> Any:
        return self.report.pending if self.report else None

    def _any_gradient(self) -> bool:
        # The model's too: an optimizer left with the parameters that fully_shard replaced has no gradients at all.
        return any(p.grad is not None for p in self._held()) or any(
            p.grad is not None for _, p in self.named_parameters()
        )

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

    def check_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Refuse what `load_state_dict` could not restore here; nothing changes.

        Raises:
            ValueError: it lacks entries, or was written under another direction, or by a newer version.
        """
        if not state_dict:
            return
        if missing := [key for key in _STATE_KEYS if key not in state_dict]:
            raise ValueError(
                f"the checkpoint's svdproj entry lacks {', '.join(missing)}: it is damaged, or not one of svdproj's; take it "
                "out of the checkpoint to go on without masters and rounding noise"
            )
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

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned.

        Raises:
            ValueError: as from `check_state_dict`.
        """
        self.check_state_dict(state_dict)
        if not state_dict:
            return
        # Masters that nothing steps would go stale, and into the next checkpoint.
        masters = state_dict["masters"] if self.options.exact else {}
        self.masters.copies = {name: master.clone() for name, master in masters.items()}
        self.noise.set_state(state_dict["rounding"])

    def __getstate__(self) -> dict[str, Any]:
        # Stacks and process groups are found again on demand.
        return self.__dict__ | {"report": None, "_stacks": [], "_stacks_key": None}


def _device_type(stacks: list[Stack]) -> str:
    return stacks[0].null.device.type if stacks else "cpu"

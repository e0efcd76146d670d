"""Any torch optimizer, kept from moving the weights into a direction."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from svdproj.coverage import Coverage, check_fit
from svdproj.direction import HackDirection
from svdproj.masters import Masters
from svdproj.plan import Stack, covered_parameters, make_stacks
from svdproj.precision import full_float32
from svdproj.projection import GATES, Gate
from svdproj.step import METRICS, StepReport, project_gradients, project_updates, remove_from_state, snapshot

Space = Literal["gradient", "update"]
Mode = Literal["erase", "measure"]
WriteBack = Literal["auto", "exact"]
NamedParameters = nn.Module | Iterable[tuple[str, Tensor]]

# The wrapper's own entry in a checkpoint, beside the inner optimizer's "state" and "param_groups".
EXTRAS_KEY = "svdproj"
_EXTRAS_VERSION = 1
# So many steps that train something, none of it covered, are a mistake in the wiring and not a schedule.
INERT_STEPS = 50
# Every replica draws the same bits, or data-parallel weights would drift apart.
_ROUNDING_SEED = 0x5D9
_HOOK_REGISTRIES = (
    "_optimizer_step_pre_hooks",
    "_optimizer_step_post_hooks",
    "_optimizer_state_dict_pre_hooks",
    "_optimizer_state_dict_post_hooks",
    "_optimizer_load_state_dict_pre_hooks",
    "_optimizer_load_state_dict_post_hooks",
)


class ProjectedOptimizer(Optimizer):
    """Wraps an optimizer so that each of its steps stays out of a `HackDirection`.

    It is a real `torch.optim.Optimizer`: `param_groups`, `state` and `defaults` are the inner optimizer's own objects,
    schedulers, scalers and trainers drive it, and with an empty direction it is bit-identical to the bare optimizer.

    Args:
        optimizer: the optimizer to wrap, already holding its parameters.
        direction: the subspaces to stay out of; `HackDirection.empty()` for none.
        params: the model, or its `(name, parameter)` pairs. With a model, parameters are looked up by name at each
            change, so that `fully_shard` and accelerate may replace them later.
        space: `"update"` projects the displacement that the optimizer really applied, momentum, preconditioner,
            clipping and weight decay included. `"gradient"` projects `p.grad` before the optimizer sees it, which
            AdamW's preconditioner then partly undoes.
        gate: `"one_sided"` removes only hack-ward components, `"two_sided"` all, `"reverse"` all of them twice (as the
            original system did; it also turns clean-ward steps, so it is an arm to compare with, not advice).
        mode: `"erase"` removes, `"measure"` only reports and leaves training bit-identical.
        overshoot: how much of the gated component is removed; the guarantee is for 1.
        preserve_norm: rescale what is left to the norm it had, by at most a factor of 10.
        write_back: for bfloat16 and float16 weights in update space, `"auto"` rounds stochastically, `"exact"` keeps
            float32 masters that the inner optimizer steps. Float32 weights need neither.
        quarantine: reserved for `mode="route"`, which the adapters bring.

    Raises:
        ValueError: an unknown option; a direction that matches no parameter, or one whose shapes differ from the
            model's.
        NotImplementedError: flat or partitioned parameters (FSDP1, ZeRO).
        RuntimeError: from `step`, when no covered parameter was visited in 50 steps that trained something.

    Example:
        >>> model = torch.nn.Linear(4, 4)
        >>> optimizer = ProjectedOptimizer(torch.optim.AdamW(model.parameters()), HackDirection.empty(), model)
        >>> isinstance(optimizer, torch.optim.Optimizer)
        True
    """

    def __init__(
        self,
        optimizer: Optimizer,
        direction: HackDirection,
        params: NamedParameters,
        *,
        space: Space = "update",
        gate: Gate = "one_sided",
        mode: Mode = "erase",
        overshoot: float = 1.0,
        preserve_norm: bool = False,
        write_back: WriteBack = "auto",
        quarantine: Mapping[str, Tensor] | None = None,
    ) -> None:
        # Optimizer.__init__ is not called: it would make a second set of groups and state beside the inner optimizer's.
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}")
        if quarantine is not None:
            raise ValueError("quarantine goes with mode='route', which this version does not have; leave it out")
        _check_option("space", space, get_args(Space))
        _check_option("gate", gate, GATES)
        _check_option("mode", mode, get_args(Mode))
        _check_option("write_back", write_back, get_args(WriteBack))
        if not overshoot > 0:
            raise ValueError(f"overshoot must be positive, got {overshoot}; 1 removes the component exactly")
        self.optimizer = optimizer
        self.space: Space = space
        self.gate: Gate = gate
        self.mode: Mode = mode
        self.overshoot = overshoot
        self.preserve_norm = preserve_norm
        self.write_back: WriteBack = write_back
        self._params = params if isinstance(params, nn.Module) else tuple(params)
        self._init_hooks()
        self._masters = Masters()
        self._generators: dict[str, torch.Generator] = {}
        self._stacks: list[Stack] = []
        self._stacks_key: tuple[Any, ...] | None = None
        self._report: StepReport | None = None
        self._idle_steps = 0
        self._direction = check_fit(direction, self._named_parameters())

    # --- the optimizer interface: everything is the inner optimizer's own
    # -------------------------------------------------

    @property  # type: ignore[override]
    def param_groups(self) -> list[dict[str, Any]]:
        return self.optimizer.param_groups

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None:
        self.optimizer.param_groups = groups

    @property  # type: ignore[override]
    def state(self) -> Any:
        return self.optimizer.state

    @state.setter
    def state(self, state: Any) -> None:
        self.optimizer.state = state

    @property  # type: ignore[override]
    def defaults(self) -> dict[str, Any]:
        return self.optimizer.defaults

    @defaults.setter
    def defaults(self, defaults: dict[str, Any]) -> None:
        self.optimizer.defaults = defaults

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        self.optimizer.add_param_group(param_group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.optimizer.zero_grad(set_to_none)

    def train(self) -> None:
        """Delegates to optimizers that have training weights of their own (schedule-free); otherwise nothing."""
        if callable(train := getattr(self.optimizer, "train", None)):
            train()

    def eval(self) -> None:
        """Delegates to optimizers that deploy other weights than they train (schedule-free); otherwise nothing."""
        if callable(evaluate := getattr(self.optimizer, "eval", None)):
            evaluate()

    def __repr__(self) -> str:
        options = f"space={self.space!r}, gate={self.gate!r}, mode={self.mode!r}, parameters={len(self._direction)}"
        return f"{type(self).__name__}({options})\n{self.optimizer!r}"

    # --- the step
    # -------------------------------------------------------------------------------------------------------

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One step of the inner optimizer, projected; with a closure, its loss comes back."""
        # Hooks see the arguments that torch's own optimizers show them: the optimizer first.
        args: tuple[Any, ...] = (self,) if closure is None else (self, closure)
        kwargs: dict[str, Any] = {}
        for pre_hook in self._optimizer_step_pre_hooks.values():
            changed = pre_hook(self, args, kwargs)
            if changed is not None:
                args, kwargs = changed
        loss = self._step(*args[1:], **kwargs)
        for post_hook in self._optimizer_step_post_hooks.values():
            post_hook(self, args, kwargs)
        return loss

    # Optimizer's constructor would wrap `step` once more, and the global hooks, which the inner step runs, would run
    # twice.
    step.hooked = True  # type: ignore[attr-defined]

    def _step(self, closure: Callable[[], Any] | None = None) -> Any:
        stacks = self._current_stacks()
        if not stacks:
            trained = self._any_gradient()
            loss = self.optimizer.step(closure) if closure is not None else self.optimizer.step()
            self._note_idle(trained or closure is not None)
            return loss
        if self.space == "gradient":
            return self._step_in_gradient_space(stacks, closure)
        return self._step_in_update_space(stacks, closure)

    def _step_in_gradient_space(self, stacks: list[Stack], closure: Callable[[], Any] | None) -> Any:
        if closure is None:
            self._project_gradients(stacks)
            return self.optimizer.step()

        def projected_closure() -> Any:
            with torch.enable_grad():
                loss = closure()
            self._project_gradients(stacks)
            return loss

        return self.optimizer.step(projected_closure)

    def _project_gradients(self, stacks: list[Stack]) -> None:
        with torch.no_grad(), full_float32(_device_type(stacks)):
            report = project_gradients(stacks, self.gate, self.overshoot, self.preserve_norm, self.mode == "erase")
        self._note(report)

    def _step_in_update_space(self, stacks: list[Stack], closure: Callable[[], Any] | None) -> Any:
        if closure is None and not any(grad is not None for stack in stacks for grad in stack.grads):
            # Nothing covered will move: no copy, no report.
            trained = self._any_gradient()
            loss = self.optimizer.step()
            self._note_idle(trained)
            return loss
        exact = self.write_back == "exact" and self.mode == "erase"
        if not exact:
            return self._step_and_project(stacks, closure)
        parameters = {name: p for stack in stacks for name, p in zip(stack.names, stack.parameters, strict=True)}
        self._masters.lend(parameters)
        try:
            return self._step_and_project(stacks, closure and self._on_visible_weights(closure, parameters))
        finally:
            self._masters.take_back()

    def _on_visible_weights(self, closure: Callable[[], Any], parameters: dict[str, Tensor]) -> Callable[[], Any]:
        """The closure, run on the low-precision weights that the model computes with."""

        def visible_closure() -> Any:
            self._masters.take_back()
            try:
                return closure()
            finally:
                self._masters.lend(parameters)

        return visible_closure

    def _step_and_project(self, stacks: list[Stack], closure: Callable[[], Any] | None) -> Any:
        before = snapshot(stacks)
        loss = self.optimizer.step(closure) if closure is not None else self.optimizer.step()
        with torch.no_grad(), full_float32(_device_type(stacks)):
            report = project_updates(
                stacks,
                before,
                self.gate,
                self.overshoot,
                self.preserve_norm,
                self.mode == "erase",
                self._generator,
                pending=self._report.pending if self._report else None,
            )
        self._note(report)
        return loss

    # --- reporting
    # ------------------------------------------------------------------------------------------------------

    def metrics(self) -> dict[str, float]:
        """What the last projected step did; the only method that waits for the device.

        Returns:
            `svdproj/cos_in` and `svdproj/cos_out`, the hack-ward share of the step's norm before and after;
            `svdproj/removed`, the norm removed over the norm before; `svdproj/null_cos` and `svdproj/chart_null_cos`,
            what a random subspace of the same shape would give for `cos_in` in the whole space and in the chart;
            `svdproj/residual`, what the gate should have removed and is still there, measured on the weights (in
            gradient space, on the gradient) as they stand; `svdproj/projected`, the number of parameters visited. All
            zero before the first step.
        """
        return dict.fromkeys(METRICS, 0.0) if self._report is None else self._report.metrics()

    def coverage(self) -> Coverage:
        """Which parameters the direction covers, and how many bytes that takes."""
        return self._direction.coverage(self._named_parameters())

    def _note(self, report: StepReport | None) -> None:
        if report is None:
            self._note_idle(self._any_gradient())
        else:
            self._report, self._idle_steps = report, 0

    def _note_idle(self, trained: bool) -> None:
        if not len(self._direction) or not trained:
            return
        self._idle_steps += 1
        if self._idle_steps >= INERT_STEPS:
            raise RuntimeError(
                f"no parameter of the direction was visited in {self._idle_steps} steps, so nothing is protected. Likely "
                "causes: the covered parameters are frozen, or not in this optimizer; the model was wrapped or rebuilt after "
                "the optimizer was made (pass the model instead of (name, parameter) pairs); the direction belongs to "
                f"another model. The direction covers {', '.join(list(self._direction.subspaces)[:3])}, …"
            )

    def _any_gradient(self) -> bool:
        return any(p.grad is not None for group in self.param_groups for p in group["params"])

    # --- the direction
    # --------------------------------------------------------------------------------------------------

    @property
    def direction(self) -> HackDirection:
        """The direction in force."""
        return self._direction

    def set_direction(self, direction: HackDirection, *, purge_state: bool = True) -> None:
        """Replace the direction, for a refresh during training.

        Args:
            direction: the new one.
            purge_state: remove the new subspaces' component from the inner optimizer's first-moment buffers, which
                would otherwise carry the old steps on.

        Raises:
            ValueError: as on construction.
        """
        self._direction = check_fit(direction, self._named_parameters())
        self._stacks_key = None
        if purge_state and len(direction):
            stacks = self._current_stacks()
            with torch.no_grad(), full_float32(_device_type(stacks)):
                remove_from_state(stacks, self.state)

    def _named_parameters(self) -> Iterable[tuple[str, Tensor]]:
        if isinstance(self._params, nn.Module):
            return self._params.named_parameters(remove_duplicate=False)
        return self._params

    def _current_stacks(self) -> list[Stack]:
        """The stacks for the parameters that the inner optimizer holds at this moment."""
        key = tuple(
            (id(p), p.dtype, p.device, bool(group.get("maximize", False)))
            for group in self.param_groups
            for p in group["params"]
        )
        if key != self._stacks_key:
            covered = covered_parameters(self._named_parameters(), self.param_groups, self._direction.subspaces)
            self._stacks = make_stacks(covered, self._direction.subspaces)
            self._stacks_key = key
        return self._stacks

    def _generator(self, device: torch.device) -> torch.Generator:
        """The wrapper's own source of rounding noise on a device; global random state stays untouched."""
        if (key := str(device)) not in self._generators:
            self._generators[key] = torch.Generator(device).manual_seed(_ROUNDING_SEED)
        return self._generators[key]

    # --- checkpoints
    # ----------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:  # type: ignore[override]
        """The inner optimizer's state dict, which the bare optimizer can load, and the wrapper's own entry `"svdproj"`.

        The entry holds tensors and primitives only (`torch.load(weights_only=True)` reads it): the direction's
        fingerprint, the float32 masters and the rounding generators' states. With an empty direction there is none.
        """
        for pre_hook in self._optimizer_state_dict_pre_hooks.values():
            pre_hook(self)
        state_dict = self.optimizer.state_dict()
        if len(self._direction):
            state_dict[EXTRAS_KEY] = {
                "version": _EXTRAS_VERSION,
                "direction": self._direction.fingerprint,
                "masters": dict(self._masters.copies),
                "generators": {device: generator.get_state() for device, generator in self._generators.items()},
            }
        for post_hook in self._optimizer_state_dict_post_hooks.values():
            changed = post_hook(self, state_dict)
            if changed is not None:
                state_dict = changed
        return state_dict

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:  # type: ignore[override]
        """Load a state dict of the wrapper or of the bare inner optimizer.

        Raises:
            ValueError: the state was saved under another direction.
        """
        state_dict = state_dict.copy()
        for pre_hook in self._optimizer_load_state_dict_pre_hooks.values():
            changed = pre_hook(self, state_dict)
            if changed is not None:
                state_dict = changed
        extras = state_dict.pop(EXTRAS_KEY, None)
        if extras is not None:
            self._load_extras(extras)
        if self._masters.copies:
            # torch casts loaded state to the parameter's dtype: a master's float32 moments must not become bfloat16.
            stacks = self._current_stacks()
            self._masters.lend({n: p for stack in stacks for n, p in zip(stack.names, stack.parameters, strict=True)})
        try:
            self.optimizer.load_state_dict(state_dict)
        finally:
            self._masters.take_back()
        for post_hook in self._optimizer_load_state_dict_post_hooks.values():
            post_hook(self)

    def _load_extras(self, extras: Mapping[str, Any]) -> None:
        if extras["version"] > _EXTRAS_VERSION:
            raise ValueError(
                f"the checkpoint's {EXTRAS_KEY!r} entry has version {extras['version']}, this svdproj reads up to "
                f"{_EXTRAS_VERSION}; install a newer svdproj"
            )
        if extras["direction"] != self._direction.fingerprint:
            raise ValueError(
                f"the checkpoint was written under the direction {extras['direction'][:12]}…, this optimizer has "
                f"{self._direction.fingerprint[:12]}…; build it with the checkpoint's direction, load, and then call "
                "set_direction(...) if you want another one from here on"
            )
        self._masters.copies = dict(extras["masters"])
        self._set_generators(extras["generators"])

    def __getstate__(self) -> dict[str, Any]:
        # As in torch's optimizers, hooks stay behind, and so does the `step` that a scheduler put on the instance.
        # Generators cannot be copied, their states can; stacks are made again on demand.
        left_behind = {"step", "_generators", "_report"} | set(_HOOK_REGISTRIES)
        state = {key: value for key, value in self.__dict__.items() if key not in left_behind}
        state |= {"_stacks": [], "_stacks_key": None}
        state["_generator_states"] = {device: generator.get_state() for device, generator in self._generators.items()}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        generator_states = state.pop("_generator_states")
        self.__dict__.update(state)
        self._report = None
        self._init_hooks()
        self._set_generators(generator_states)

    def _set_generators(self, states: Mapping[str, Tensor]) -> None:
        self._generators = {}
        for device, state in states.items():
            # A trainer may have moved the state to the GPU together with everything else.
            self._generator(torch.device(device)).set_state(state.cpu())

    def _init_hooks(self) -> None:
        for registry in _HOOK_REGISTRIES:
            setattr(self, registry, OrderedDict())


def _device_type(stacks: list[Stack]) -> str:
    return stacks[0].rows.device.type if stacks else "cpu"


def _check_option(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"unknown {name} {value!r}; choose one of {', '.join(map(repr, known))}")

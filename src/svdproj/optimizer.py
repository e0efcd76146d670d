"""Any torch optimizer, kept from moving the weights into a direction."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import wraps
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from svdproj.coverage import Coverage
from svdproj.direction import HackDirection
from svdproj.options import GateName, Mode, ProjectionOptions, Space, WriteBack
from svdproj.projector import NamedParameters, Projector

# The wrapper's own entry in a checkpoint, beside the inner optimizer's "state" and "param_groups".
EXTRAS_KEY = "svdproj"
_HOOK_REGISTRIES = (
    "_optimizer_step_pre_hooks",
    "_optimizer_step_post_hooks",
    "_optimizer_state_dict_pre_hooks",
    "_optimizer_state_dict_post_hooks",
    "_optimizer_load_state_dict_pre_hooks",
    "_optimizer_load_state_dict_post_hooks",
)


def _with_hooks(step: Callable[..., Any]) -> Callable[..., Any]:
    """The wrapper's own step hooks around its step; they see the arguments as they were passed, as torch's hooks do."""

    @wraps(step)
    def hooked(*args: Any, **kwargs: Any) -> Any:
        self = args[0]
        for pre_hook in self._optimizer_step_pre_hooks.values():
            changed = pre_hook(self, args, kwargs)
            if changed is not None:
                args, kwargs = changed
        loss = step(*args, **kwargs)
        for post_hook in self._optimizer_step_post_hooks.values():
            post_hook(self, args, kwargs)
        return loss

    return hooked


class ProjectedOptimizer(Optimizer):
    """Wraps an optimizer so that each of its steps stays out of a `HackDirection`.

    It is a real `torch.optim.Optimizer`: `param_groups`, `state` and `defaults` are the inner optimizer's own objects,
    schedulers, scalers and trainers drive it, and with an empty direction it is bit-identical to the bare optimizer.

    Args:
        optimizer: the optimizer to wrap, already holding its parameters.
        direction: the subspaces to stay out of; `HackDirection.empty()` for none.
        params: the model, or its `(name, parameter)` pairs. With a model, parameters are looked up by name
            whenever the optimizer's own change, so that `fully_shard` and accelerate may replace them later.
        space: `"update"` projects the displacement that the optimizer really applied, momentum, preconditioner,
            clipping and weight decay included. `"gradient"` projects `p.grad` before the optimizer sees it, which
            AdamW's preconditioner then partly undoes.
        gate: `"one_sided"` removes only hack-ward components, `"two_sided"` all, `"reverse"` all of them twice (as the
            original system did; it also turns clean-ward steps, so it is an arm to compare with, not advice).
        mode: `"erase"` removes, `"measure"` only reports and leaves training bit-identical, `"route"` gives what it removes
            to the quarantine.
        overshoot: how many times the gated component is removed. The guarantee is for 1; with a one-sided gate no hack-ward
            component is left for any more, which is turned clean-ward. Rows that catch a share `f` of what pushes unseen
            prompts hack-ward cancel it to first order at `1/f`.
        preserve_norm: rescale what is left to the norm it had, by at most a factor of 10.
        write_back: for bfloat16 and float16 weights in update space, `"auto"` rounds stochastically, `"exact"` keeps
            float32 masters that the inner optimizer steps, in either space. Float32 weights need neither.
        quarantine: for `mode="route"`, names of covered parameters to parameters of the same shape, as
            `svdproj.adapters.quarantine_of(model)` makes it. In gradient space the removed part becomes the quarantine's
            gradient, which the inner optimizer steps; in update space the quarantine moves by the removed part of the
            displacement, so that both parameters' steps add up to the bare optimizer's.

    Raises:
        ValueError: an unknown option; a direction that matches no parameter, or one whose shapes differ from the
            model's, or a name of it that two parameters go by.
        NotImplementedError: flat or partitioned parameters (FSDP1, ZeRO), or DTensors sharded over several mesh dimensions;
            from `step` in gradient space, gradients that are still to be reduced (sequence parallelism).
        TypeError: arguments of the wrong kind, a `ProjectedOptimizer` to wrap once more, or complex parameters under a
            subspace; from `step`, sparse gradients.
        RuntimeError: from `step`, when no covered parameter was visited in 50 steps that trained something.

    Warns:
        UserWarning: the direction covers parameters that the model lacks, or that the optimizer does not train.

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
        gate: GateName = "one_sided",
        mode: Mode = "erase",
        overshoot: float = 1.0,
        preserve_norm: bool = False,
        write_back: WriteBack = "auto",
        quarantine: Mapping[str, Tensor] | None = None,
    ) -> None:
        # Optimizer.__init__ is not called: it would make a second set of groups and state beside the inner optimizer's, and
        # wrap `step` once more, so that the global hooks, which the inner step runs, would run twice.
        options = ProjectionOptions(space, gate, mode, overshoot, preserve_norm, write_back)
        self.projector = Projector(optimizer, direction, params, options, quarantine)
        self.optimizer = optimizer
        self._init_hooks()

    # --- the optimizer interface: everything is the inner optimizer's own

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
        o = self.options
        text = f"space={o.space!r}, gate={o.gate!r}, mode={o.mode!r}, parameters={len(self.direction)}"
        return f"{type(self).__name__}({text})\n{self.optimizer!r}"

    # --- the step

    @_with_hooks
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One step of the inner optimizer, projected; with a closure, its loss comes back.

        In gradient space the projection follows every evaluation of the closure, in update space it takes the whole step's
        displacement: also of a step that raises midway, whose error then comes through.
        """
        try:
            closure = self.projector.before_step(closure)
            # Without a closure none is passed: some optimizers' step takes no argument.
            loss = self.optimizer.step() if closure is None else self.optimizer.step(closure)
        except BaseException as error:
            self.projector.after_failure(error)
            raise
        self.projector.after_step()
        return loss

    # --- reporting

    def metrics(self) -> dict[str, float]:
        """What the last projected step did; the only method that waits for the device.

        Returns:
            `svdproj/cos_in` and `svdproj/cos_out`, the hack-ward share of the step's norm before and after;
            `svdproj/removed`, the norm removed over the norm before; `svdproj/null_cos` and `svdproj/chart_null_cos`,
            what a random subspace of the same shape would give for `cos_in` in the whole space and in the chart;
            `svdproj/residual`, what the gate should have removed and is still there, measured on the weights (in
            gradient space, on the gradient) as they stand; `svdproj/projected`, the number of parameters visited. All
            zero before the first step. With sharded parameters `cos_out` and `residual` are those of the step before,
            since they ride on the next step's reduction. With `write_back="exact"` all of them are the float32 masters':
            the visible low-precision weights add their last rounding, which may be thousands of times the residual.
        """
        return self.projector.metrics()

    def coverage(self) -> Coverage:
        """Which parameters the direction covers and the optimizer holds, and how many bytes that takes."""
        return self.projector.coverage()

    # --- how it is applied

    @property
    def options(self) -> ProjectionOptions:
        """How the direction is applied."""
        return self.projector.options

    @property
    def overshoot(self) -> float:
        """How many times the gated component is removed; may be set between steps, for a direction that catches more or less.

        A checkpoint does not hold it: set it again where training goes on.

        Raises:
            ValueError: when set to what is no positive finite number; the old one stays in force.
        """
        return self.options.overshoot

    @overshoot.setter
    def overshoot(self, overshoot: float) -> None:
        self.projector.options = replace(self.options, overshoot=overshoot)

    # --- the direction

    @property
    def direction(self) -> HackDirection:
        """The direction in force."""
        return self.projector.direction

    def set_direction(self, direction: HackDirection, *, purge_state: bool = True) -> None:
        """Replace the direction, for a refresh during training.

        Args:
            direction: the new one.
            purge_state: remove the new subspaces' component from the inner optimizer's first-moment buffers, which
                would otherwise carry the old steps on.

        Raises:
            ValueError, TypeError, NotImplementedError: as on construction; the old direction stays in force.

        Warns:
            UserWarning: as on construction.
        """
        self.projector.set_direction(direction, purge_state)

    # --- checkpoints

    def state_dict(self) -> dict[str, Any]:  # type: ignore[override]
        """The inner optimizer's state dict, which the bare optimizer can load, and the wrapper's own entry `"svdproj"`.

        The entry holds tensors and primitives only (`torch.load(weights_only=True)` reads it): the direction's
        fingerprint, the float32 masters and the state of the rounding noise. With an empty direction there is none.
        `torch.distributed.checkpoint` drops it; save `projector`, a `Stateful`, as an item of its own there.
        """
        for pre_hook in self._optimizer_state_dict_pre_hooks.values():
            pre_hook(self)
        state_dict = self.optimizer.state_dict()
        if extras := self.projector.state_dict():
            state_dict[EXTRAS_KEY] = extras
        for post_hook in self._optimizer_state_dict_post_hooks.values():
            changed = post_hook(self, state_dict)
            if changed is not None:
                state_dict = changed
        return state_dict

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:  # type: ignore[override]
        """Load a state dict of the wrapper or of the bare inner optimizer.

        Raises:
            ValueError: the state was saved under another direction, or its own entry is damaged; or what the inner
                optimizer raises. Nothing is loaded then.
        """
        state_dict = state_dict.copy()
        for pre_hook in self._optimizer_load_state_dict_pre_hooks.values():
            changed = pre_hook(self, state_dict)
            if changed is not None:
                state_dict = changed
        extras = state_dict.pop(EXTRAS_KEY, {})
        # All or nothing: what either of the two refuses must not be half loaded.
        self.projector.check_state_dict(extras)
        with self.projector.stepped_dtypes():
            self.optimizer.load_state_dict(state_dict)
        self.projector.load_state_dict(extras)
        for post_hook in self._optimizer_load_state_dict_post_hooks.values():
            post_hook(self)

    def __getstate__(self) -> dict[str, Any]:
        # As in torch's optimizers, hooks stay behind, and so does the `step` that a scheduler put on the instance.
        left_behind = {"step", *_HOOK_REGISTRIES}
        return {key: value for key, value in self.__dict__.items() if key not in left_behind}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._init_hooks()

    def _init_hooks(self) -> None:
        for registry in _HOOK_REGISTRIES:
            setattr(self, registry, OrderedDict())

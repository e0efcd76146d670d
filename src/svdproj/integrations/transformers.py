"""`transformers.Trainer` with a `ProjectedOptimizer`.

Two ways in. Without a subclass: `projected_optimizer_factory` for `Trainer(optimizer_cls_and_kwargs=...)`, and
`ProjectionCallback` for the logs. With one: `class MyTrainer(ProjectionMixin, Trainer)`, which wraps whatever optimizer the
trainer makes and also resumes with a refreshed direction.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from svdproj.direction import HackDirection
from svdproj.optimizer import ProjectedOptimizer
from svdproj.pairs import ContrastivePair

try:
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
    from transformers.trainer_pt_utils import get_parameter_names
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"svdproj.integrations.transformers needs {error.name}; run: pip install 'svdproj[trl]'", name=error.name
    ) from None

logger = logging.getLogger(__name__)

DIRECTION_FILE = "direction.safetensors"
"""Name of the direction in a trainer's checkpoint folder."""

# The parameters that `transformers.Trainer` exempts from weight decay.
_NO_DECAY = [r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)"]

Refit = Callable[[nn.Module, Any], HackDirection]


def projected_optimizer_factory(
    direction: HackDirection,
    optimizer_class: type[Optimizer] = torch.optim.AdamW,
    optimizer_kwargs: Mapping[str, Any] | None = None,
    **projection: Any,
) -> tuple[Callable[[], Callable[..., ProjectedOptimizer]], dict[str, Any]]:
    """What `Trainer(optimizer_cls_and_kwargs=...)` takes, so that the trainer steps a `ProjectedOptimizer`.

    The trainer calls an optimizer class with parameter groups, which carry no names; a factory it calls with the model. This is
    a factory: it makes the trainer's usual two groups (biases and norms without weight decay) and wraps the optimizer.

    Args:
        direction: the direction to stay out of.
        optimizer_class: the optimizer to wrap.
        optimizer_kwargs: its arguments. `Trainer` hands none of its own to `optimizer_cls_and_kwargs`, so name the learning rate
            here: `{"lr": args.learning_rate, "weight_decay": args.weight_decay}`.
        **projection: options of `ProjectedOptimizer`, such as `space="gradient"`.

    Returns:
        The pair `(factory, {})`. The factory raises what `ProjectedOptimizer` raises.

    Example:
        >>> args = TrainingArguments("out", learning_rate=1e-5)  # doctest: +SKIP
        >>> factory = projected_optimizer_factory(direction, optimizer_kwargs={"lr": 1e-5})  # doctest: +SKIP
        >>> Trainer(
        ...     model, args, train_dataset=data, optimizer_cls_and_kwargs=factory, callbacks=[ProjectionCallback()]
        ... ).train()  # doctest: +SKIP
    """
    kwargs = dict(optimizer_kwargs or {})
    if "lr" not in kwargs:
        logger.warning(
            "Trainer passes no learning rate to optimizer_cls_and_kwargs, so %s keeps its default; "
            'pass optimizer_kwargs={"lr": args.learning_rate}',
            optimizer_class.__name__,
        )

    def build(model: nn.Module, **late_kwargs: Any) -> ProjectedOptimizer:
        optimizer = optimizer_class(_parameter_groups(model, kwargs), **{**kwargs, **late_kwargs})
        return ProjectedOptimizer(optimizer, direction, model, **_with_quarantine(projection, model))

    # Trainer calls the factory without arguments first, as if it were a class to instantiate.
    return lambda: build, {}


def _parameter_groups(model: nn.Module, kwargs: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The groups that `Trainer.create_optimizer` makes: the second is exempt from weight decay."""
    decayed = set(get_parameter_names(model, [nn.LayerNorm], _NO_DECAY))
    trainable = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [parameter for name, parameter in trainable if name in decayed]},
        {"params": [parameter for name, parameter in trainable if name not in decayed]},
    ]
    if "weight_decay" in kwargs:
        groups[1]["weight_decay"] = 0.0
    return groups


def _with_quarantine(projection: Mapping[str, Any], model: nn.Module) -> dict[str, Any]:
    """The options, with the model's own quarantine where `mode="route"` needs one: a trainer makes its adapter late."""
    if projection.get("mode") != "route" or "quarantine" in projection:
        return dict(projection)
    from svdproj.adapters import quarantine_of

    return {**projection, "quarantine": quarantine_of(model)}


def _quarantine_ablated(model: nn.Module) -> AbstractContextManager[None]:
    """Inside, an adapter's quarantine is off; other models are left alone."""
    if not hasattr(model, "peft_config"):
        return nullcontext()
    from svdproj.adapters import ablated

    return ablated(model)


def _agreed(direction: HackDirection) -> HackDirection:
    """The first process's direction, in all of them: replicas that are projected differently drift apart."""
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return direction
    # On the CPU, or a tensor would arrive on the first process's device.
    shared = [direction.to("cpu") if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(shared)
    (first,) = shared
    assert first is not None
    return first


def find_projected_optimizer(optimizer: Optimizer | None) -> ProjectedOptimizer | None:
    """The `ProjectedOptimizer` behind what accelerate wrapped around it; None if there is none.

    Example:
        >>> find_projected_optimizer(torch.optim.SGD(torch.nn.Linear(2, 2).parameters())) is None
        True
    """
    while optimizer is not None and not isinstance(optimizer, ProjectedOptimizer):
        optimizer = getattr(optimizer, "optimizer", None)
    return optimizer


class ProjectionMixin:
    """For any `transformers.Trainer`: wraps the optimizer that the trainer makes, and logs what the projection did.

    Write it first: `class MyTrainer(ProjectionMixin, Trainer)`. A `direction.safetensors` in the checkpoint that training resumes
    from (`ProjectionCallback` writes it) takes the place of `direction`.

    Args:
        *args: the trainer's own.
        direction: the direction to stay out of.
        projection: options of `ProjectedOptimizer`, such as `{"mode": "measure"}`.
        **kwargs: the trainer's own.

    Example:
        >>> class ProjectedTrainer(ProjectionMixin, Trainer):  # doctest: +SKIP
        ...     pass
        >>> trainer = ProjectedTrainer(model, args, train_dataset=data, direction=direction)  # doctest: +SKIP
    """

    def __init__(
        self, *args: Any, direction: HackDirection, projection: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> None:
        self._direction = direction
        self._projection = dict(projection or {})
        super().__init__(*args, **kwargs)

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Optimizer:
        """The trainer's optimizer, wrapped."""
        optimizer: Optimizer = super().create_optimizer(*args, **kwargs)  # type: ignore[misc]
        if find_projected_optimizer(optimizer) is None:
            model = args[0] if args else kwargs.get("model")
            model = self.model if model is None else model  # type: ignore[attr-defined]
            optimizer = self._project(optimizer, model)
            self.optimizer = optimizer
        return optimizer

    def _project(self, optimizer: Optimizer, model: nn.Module) -> ProjectedOptimizer:
        return ProjectedOptimizer(optimizer, self._direction, model, **_with_quarantine(self._projection, model))

    def projection_metrics(self) -> dict[str, float]:
        """`ProjectedOptimizer.metrics()` of the last step; empty before there is an optimizer."""
        optimizer = find_projected_optimizer(getattr(self, "optimizer", None))
        return {} if optimizer is None else optimizer.metrics()

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """The trainer's logs, with the projection's metrics in every training entry."""
        if "loss" in logs:
            logs.update(self.projection_metrics())
        super().log(logs, *args, **kwargs)  # type: ignore[misc]

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        # The optimizer's state knows the direction that it was saved under, so the direction comes first.
        if checkpoint is not None and (refreshed := Path(checkpoint) / DIRECTION_FILE).is_file():
            optimizer = find_projected_optimizer(self.optimizer)
            if optimizer is not None:
                optimizer.set_direction(HackDirection.load(refreshed), purge_state=False)
        super()._load_optimizer_and_scheduler(checkpoint)  # type: ignore[misc]


class ProjectionCallback(TrainerCallback):
    """Puts the projection's metrics into the trainer's logs, refreshes the direction, and saves it beside each checkpoint.

    Metrics reach `state.log_history`, the progress bar and callbacks behind this one. Reporters such as TensorBoard stand before
    user callbacks; for them use `ProjectionMixin`. Without the mixin, resume from a checkpoint with a refreshed direction by building
    the factory from the checkpoint's `direction.safetensors`.

    With several processes each one extracts, on its replica of the model, and the first one's direction is taken by all: what
    they find may differ in the last bits, and replicas must not. Sharded parameters (FSDP2) cannot be extracted from; `refit` may
    extract from a whole copy there.

    Args:
        refresh_every: extract the direction anew every so many optimizer steps; None keeps it.
        pairs: what to extract from, by `HackDirection.fit` with `fit_options`.
        refit: or a function from model and tokenizer to a direction, for full control.
        fit_options: options of `HackDirection.fit`.

    Raises:
        ValueError: `refresh_every` is not positive, or it is given without one of `pairs` and `refit`, or with both.
        NotImplementedError: when training begins, a refresh from `pairs` on a model with sharded parameters.

    Example:
        >>> callback = ProjectionCallback(refresh_every=100, pairs=[ContrastivePair("Sort xs.", "pass", "sorted(xs)")])
        >>> trainer = ProjectedTrainer(model, args, callbacks=[callback], direction=direction)  # doctest: +SKIP
    """

    def __init__(
        self,
        refresh_every: int | None = None,
        *,
        pairs: Sequence[ContrastivePair] | None = None,
        refit: Refit | None = None,
        fit_options: Mapping[str, Any] | None = None,
    ) -> None:
        if refresh_every is not None and refresh_every < 1:
            raise ValueError(f"refresh_every must be at least 1 step, got {refresh_every}")
        if refresh_every is not None and (pairs is None) == (refit is None):
            raise ValueError("refresh_every needs what to extract from: give either pairs or refit")
        self.refresh_every = refresh_every
        options = {"progress": False, **(fit_options or {})}
        self._fits = pairs is not None
        self._refit: Refit | None = refit
        if pairs is not None:
            self._refit = lambda model, tokenizer: HackDirection.fit(model, tokenizer, list(pairs), **options)
        self._refresh_logs: dict[str, float] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Refuse at once what the first refresh could not do."""
        if self.refresh_every is None or not self._fits:
            return
        if name := next((n for n, p in kwargs["model"].named_parameters() if isinstance(p, DTensor)), None):
            raise NotImplementedError(
                f"refresh_every={self.refresh_every} would extract a direction from {name}, which is sharded (FSDP2, tensor "
                "parallelism), and HackDirection.fit needs whole weights; train without refresh_every, use DDP, or pass refit=, a "
                "function that extracts from a whole copy of the model"
            )

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Refresh the direction if its time has come."""
        optimizer = find_projected_optimizer(kwargs.get("optimizer"))
        if self.refresh_every is None or self._refit is None or optimizer is None:
            return
        if state.global_step % self.refresh_every:
            return
        # What is quarantined is gone when the model is deployed, so the direction is that of the model without it.
        with _quarantine_ablated(kwargs["model"]):
            refreshed = _agreed(self._refit(kwargs["model"], kwargs["processing_class"]))
        overlaps = list(optimizer.direction.overlap(refreshed).values())
        optimizer.set_direction(refreshed)
        self._refresh_logs = {
            "svdproj/refresh_overlap": sum(overlaps) / len(overlaps) if overlaps else 0.0,
            "svdproj/refresh_parameters": float(len(refreshed)),
        }
        if math.isfinite(caught := refreshed.metadata.energy.rows_held_out):
            self._refresh_logs["svdproj/refresh_rows_held_out"] = caught

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Add the metrics of the last step, and of the last refresh, to this entry of the logs."""
        optimizer = find_projected_optimizer(kwargs.get("optimizer"))
        if optimizer is None or logs is None or "loss" not in logs:
            return
        metrics = {**optimizer.metrics(), **self._refresh_logs}
        self._refresh_logs = {}
        logs.update(metrics)
        state.log_history[-1].update(metrics)  # the trainer put a copy of `logs` there before it asked

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Write the direction into the checkpoint that was just made."""
        optimizer = find_projected_optimizer(kwargs.get("optimizer"))
        folder = Path(args.output_dir or ".") / f"checkpoint-{state.global_step}"
        if optimizer is None or not state.is_world_process_zero or not folder.is_dir():
            return
        optimizer.direction.save(folder / DIRECTION_FILE)

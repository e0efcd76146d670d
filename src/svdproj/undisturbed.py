"""A model that is looked at and left exactly as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from svdproj.attention import without_cudnn_attention
from svdproj.precision import full_float32


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Dropout off and weights without gradients inside the block; everything as it was after it.

    A forward that accelerate has put under autocast is the model's own meanwhile: that autocast would be entered again
    inside any block that switches it off. Gradient checkpointing that transformers' models have switched on stays on, in the form that works on weights
    without gradients.
    """
    training = {module: module.training for module in model.modules()}
    wanted = {parameter: parameter.requires_grad for parameter in model.parameters()}
    replaced: dict[nn.Module, Any] = {}
    autocast = {module: vars(module)["forward"] for module in model.modules() if _under_autocast(module)}
    try:
        model.eval()
        for module in autocast:
            module.forward = vars(module)["_original_forward"]
        for parameter in wanted:
            parameter.requires_grad_(False)
        for module in model.modules():
            if _checkpoints(module):
                # Such a layer looks at its own mode; what is inside it stays in evaluation mode.
                module.training = True
                replaced[module] = function = module._gradient_checkpointing_func
                # The reentrant form returns nothing to differentiate where no input of a layer requires gradients, and
                # does not say in the forward how often a layer is used.
                if getattr(function, "keywords", {}).get("use_reentrant") is not False:
                    module._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)  # type: ignore[assignment]
        yield
    finally:
        for module, forward in autocast.items():
            module.forward = forward
        for module, function in replaced.items():
            module._gradient_checkpointing_func = function
        for module, was_training in training.items():
            module.training = was_training
        for parameter, requires_grad in wanted.items():
            parameter.requires_grad_(requires_grad)


@contextmanager
def exact_passes(model: nn.Module) -> Iterator[None]:
    """What every pass over pairs is made in: the model undisturbed, float32 in full, and no attention whose gradients are wrong."""
    with undisturbed(model), without_cudnn_attention(), full_float32(next(model.parameters()).device.type):
        yield


def _under_autocast(module: nn.Module) -> bool:
    """Whether accelerate's mixed precision has replaced its forward, beside which it keeps the old one."""
    return {"forward", "_original_forward"} <= vars(module).keys()


def _checkpoints(module: nn.Module) -> bool:
    """Whether it is a layer of transformers that checkpoints itself and has no dropout of its own to switch off."""
    if not any(base.__name__ == "GradientCheckpointingLayer" for base in type(module).__mro__):
        return False
    own_dropout = any("drop" in name and isinstance(value, float) and value for name, value in vars(module).items())
    return bool(getattr(module, "gradient_checkpointing", False)) and not own_dropout

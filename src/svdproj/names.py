"""One name for a parameter, whatever wraps the model that holds it."""

from __future__ import annotations

# Prefixes that wrappers put in front of a model's own names (DistributedDataParallel; PEFT).
_PREFIXES = ("module.", "base_model.model.")
# Segments that wrappers insert anywhere (torch.compile, FSDP1, activation checkpointing; PEFT's wrapped layers).
_SEGMENTS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "base_layer"})

# The segment that names a quarantine of the SVD adapter.
QUARANTINE = "svdscale_quarantine"


def canonical_name(name: str) -> str:
    """The parameter's name as the bare model has it.

    Args:
        name: a fully qualified name from `named_parameters()` of a model or of a wrapper around it.

    Example:
        >>> canonical_name("module._orig_mod.base_model.model.lm.0.base_layer.weight")
        'lm.0.weight'
    """
    name = ".".join(segment for segment in name.split(".") if segment not in _SEGMENTS)
    stripped = True
    while stripped:
        stripped = False
        for prefix in _PREFIXES:
            if name.startswith(prefix):
                name, stripped = name.removeprefix(prefix), True
    return name

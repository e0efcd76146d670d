"""An adapter's scales in one layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

# The first bytes of a weight's hash; as many weights as there are models do not collide in eight.
_FINGERPRINT_BYTES = 8
_FOREIGN = "was trained on another base weight than this model's"


class Scales(nn.Module):
    """One adapter's scales in one layer, with the fingerprint of the weight whose singular directions they scale.

    Scales mean nothing without those directions, which are not saved but computed from the base weight. The fingerprint is
    saved, and scales made for another weight are refused on loading.

    Args:
        rank: how many.
        fingerprint: hexadecimal, of the base weight.
    """

    base: Tensor

    def __init__(self, rank: int, fingerprint: str) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(rank))
        self.register_buffer(
            "base", torch.tensor(list(bytes.fromhex(fingerprint)[:_FINGERPRINT_BYTES]), dtype=torch.uint8)
        )

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        metadata: Any,
        strict: bool,
        missing: Any,
        unexpected: Any,
        errors: Any,
    ) -> None:
        saved = state_dict.get(f"{prefix}base")
        # Said once, not for each of hundreds of layers.
        if (
            saved is not None
            and not torch.equal(saved.cpu(), self.base.cpu())
            and not any(_FOREIGN in e for e in errors)
        ):
            errors.append(
                f"{prefix.rstrip('.')} {_FOREIGN}, and its scales belong to that "
                "weight's singular directions; load the base model that it was trained on, with the same values (a bfloat16 "
                "checkpoint read as float32 is the same, float32 weights rounded to bfloat16 are not), nothing merged into it"
            )
        super()._load_from_state_dict(state_dict, prefix, metadata, strict, missing, unexpected, errors)

"""Writing a float32 value into a low-precision weight without losing it."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

# float32 mantissa bits that the target type does not keep.
_DROPPED_BITS = {torch.bfloat16: 16, torch.float16: 13}


def stochastic_round(
    x: Float[Tensor, "*shape"], dtype: torch.dtype, generator: torch.Generator
) -> Float[Tensor, "*shape"]:
    """Round float32 to one of the two neighbours in `dtype`, with the probabilities that make the mean exact.

    A correction of 1e-5 to a bfloat16 weight of size 1 is far below half a unit in the last place, so rounding to
    nearest never applies it; rounding stochastically applies it in the mean.

    Args:
        x: float32 values.
        dtype: `torch.bfloat16` or `torch.float16`; in float16 exact above its subnormal range (6e-5).
        generator: source of randomness, on the device of `x`.
    """
    bits = _DROPPED_BITS[dtype]
    noise = torch.randint(0, 1 << bits, x.shape, dtype=torch.int32, device=x.device, generator=generator)
    raised = x.contiguous().view(torch.int32) + noise
    truncated = raised & ~((1 << bits) - 1)
    # Infinities and NaN have no neighbours; adding noise to their bit pattern would make other numbers of them.
    return torch.where(x.isfinite(), truncated.view(torch.float32), x).to(dtype)

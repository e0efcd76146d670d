"""Writing a float32 value into a low-precision weight without losing it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

# float32 mantissa bits that the target type does not keep.
_DROPPED_BITS = {torch.bfloat16: 16, torch.float16: 13}
# Elements rounded at once: bounds the temporary memory, a dozen bytes to each.
_SLICE = 2**22
# Every replica draws the same bits, or data-parallel weights would drift apart.
_SEED = 0x5D9


def stochastic_round(
    x: Float[Tensor, "*shape"], dtype: torch.dtype, generator: torch.Generator
) -> Float[Tensor, "*shape"]:
    """Round float32 to one of the two neighbours in `dtype`, with the probabilities that make the mean exact.

    A correction of 1e-5 to a bfloat16 weight of size 1 is far below half a unit in the last place, so rounding to
    nearest never applies it; rounding stochastically applies it in the mean.

    Args:
        x: float32 values.
        dtype: `torch.bfloat16` or `torch.float16`; in float16 exact above its subnormal range (6e-5).
        generator: source of randomness, on the device of `x`; drawn from slice by slice, in the order of the elements.
    """
    values = x.contiguous().view(-1)
    rounded = torch.empty_like(values, dtype=dtype)
    for part, target in zip(values.split(_SLICE), rounded.split(_SLICE), strict=True):
        target.copy_(_rounded_up_or_down(part, _DROPPED_BITS[dtype], generator))
    return rounded.view(x.shape)


def _rounded_up_or_down(x: Float[Tensor, "n"], bits: int, generator: torch.Generator) -> Float[Tensor, "n"]:
    """One slice, still in float32, with the last `bits` of its mantissa zero."""
    raised = torch.randint(0, 1 << bits, x.shape, dtype=torch.int32, device=x.device, generator=generator)
    raised.add_(x.view(torch.int32)).bitwise_and_(~((1 << bits) - 1))
    # Infinities and NaN have no neighbours; adding noise to their bit pattern would make other numbers of them.
    return torch.where(x.isfinite(), raised.view(torch.float32), x)


class RoundingNoise:
    """The source of noise for stochastic rounding: a stream for each step, parameter and shard, from one counter.

    Its state is the counter alone, the same in every process. Generators that go on from step to step would not do: uneven shards
    draw different amounts, so that each process would have a state of its own, and a distributed checkpoint keeps one.
    """

    def __init__(self) -> None:
        self._steps = 0

    def advance(self) -> Callable[[str, tuple[int, ...], torch.device], torch.Generator]:
        """Go to the next step; returns its source of generators, for a parameter's name, its shard's offset and a device."""
        self._steps += 1
        return partial(_generator, self._steps)

    def state(self) -> Tensor:
        """The number of steps so far, as a tensor."""
        return torch.tensor(self._steps)

    def set_state(self, state: Tensor) -> None:
        """Go on from `state`."""
        self._steps = int(state)


def _generator(step: int, name: str, offset: tuple[int, ...], device: torch.device) -> torch.Generator:
    # A hash, so that neighbouring steps and shards share nothing; 63 bits are what manual_seed takes everywhere.
    key = f"{_SEED}:{step}:{name}:{offset}".encode()
    seed = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") >> 1
    return torch.Generator(device).manual_seed(seed)

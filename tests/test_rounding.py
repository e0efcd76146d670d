"""Stochastic rounding: unbiased, to a neighbour, and harmless where there is nothing to round."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from svdproj.rounding import RoundingNoise, stochastic_round

LOW = [torch.bfloat16, torch.float16]


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("dtype", LOW)
@pytest.mark.parametrize("value", [1.001, -1.001, 3.14159, 1e-3, -0.333, 123.456])
def test_the_mean_is_exact_and_every_draw_is_a_neighbour(dtype: torch.dtype, value: float) -> None:
    draws = stochastic_round(torch.full((40_000,), value), dtype, _generator()).double()
    below, above = draws.min(), draws.max()
    assert below <= value <= above
    assert len(draws.unique()) <= 2
    assert float(above - below) <= 2 * torch.finfo(dtype).eps * abs(value)
    standard_error = float(above - below) / 2 / 40_000**0.5
    assert abs(float(draws.mean()) - value) <= 4 * standard_error + 1e-12


@pytest.mark.parametrize("dtype", LOW)
def test_what_the_type_holds_is_left_alone(dtype: torch.dtype) -> None:
    held = torch.randn(1000, generator=_generator()).to(dtype)
    assert torch.equal(stochastic_round(held.float(), dtype, _generator(1)), held)
    special = torch.tensor([0.0, -0.0, float("inf"), -float("inf")])
    rounded = stochastic_round(special, dtype, _generator())
    assert torch.equal(rounded.float(), special)
    assert torch.equal(rounded.signbit(), special.signbit())
    assert stochastic_round(torch.tensor([float("nan")]), dtype, _generator()).isnan().all()


@pytest.mark.parametrize("dtype", LOW)
def test_strided_values_keep_their_places(dtype: torch.dtype) -> None:
    held = torch.randn(6, 4, generator=_generator()).to(dtype).t()
    assert torch.equal(stochastic_round(held.float(), dtype, _generator()), held)


class _Allocations(TorchDispatchMode):
    """Sizes in bytes of what operations return that is neither one of their arguments nor a view of one."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        known = {arg.untyped_storage().data_ptr() for arg in args if isinstance(arg, torch.Tensor)}
        for tensor in result if isinstance(result, list | tuple) else [result]:
            if tensor.untyped_storage().data_ptr() not in known:
                self.sizes.append(tensor.untyped_storage().nbytes())
        return result


@pytest.mark.parametrize("dtype", LOW)
def test_large_tensors_are_rounded_in_slices_with_the_same_noise(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: a parameter took 19 bytes of temporary memory to each of its elements, however large it was."""
    x = torch.randn(30, 50, generator=_generator())
    x[1, 2], x[20, 3] = float("inf"), float("nan")
    kept, whole = x.clone(), stochastic_round(x, dtype, _generator(3))
    monkeypatch.setattr("svdproj.rounding._SLICE", 64)
    with _Allocations() as allocations:
        sliced = stochastic_round(x, dtype, _generator(3))
    torch.testing.assert_close(sliced, whole, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(x, kept, rtol=0, atol=0, equal_nan=True)
    result, *temporary = sorted(allocations.sizes, reverse=True)
    assert result == 2 * x.numel()
    assert max(temporary) == 4 * 64


def test_replicas_with_one_seed_draw_the_same() -> None:
    x = torch.randn(500, generator=_generator())
    first, second = (stochastic_round(x, torch.bfloat16, _generator(7)) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, stochastic_round(x, torch.bfloat16, _generator(8)))


def test_global_random_state_is_not_touched() -> None:
    state = torch.get_rng_state()
    stochastic_round(torch.randn(10, generator=_generator()), torch.bfloat16, _generator())
    assert torch.equal(state, torch.get_rng_state())


def test_the_noise_is_another_for_each_step_name_and_shard_and_its_state_is_a_counter() -> None:
    def draws(noise: RoundingNoise) -> list[int]:
        source = noise.advance()
        places = [("first", (0, 0)), ("second", (0, 0)), ("first", (4, 0))]
        generators = [source(name, offset, torch.device("cpu")) for name, offset in places]
        return [int(torch.randint(2**40, (), generator=generator)) for generator in generators]

    noise, resumed = RoundingNoise(), RoundingNoise()
    first = draws(noise)
    resumed.set_state(noise.state())
    second = draws(noise)
    assert len({*first, *second}) == 6
    assert draws(resumed) == second
    assert draws(RoundingNoise()) == first

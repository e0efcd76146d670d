"""A small model with weights of several shapes, directions for it, and what must hold of a step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from svdproj import HackDirection
from tests.gate_helpers import MUST_GO

EPS_STEP, EPS_WEIGHT = 1e-5, 2e-7  # float32 cannot hold the first where the step is far below the weights


class Weights(nn.Module):
    """Two matrices of one shape (one stack), one lying, and a vector; `loss` has gradients everywhere."""

    def __init__(self, seed: int = 0, dtype: torch.dtype = torch.float32, vector: bool = True) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)

        def parameter(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape, generator=generator).to(dtype))

        self.first, self.second, self.lying = parameter(12, 8), parameter(12, 8), parameter(8, 12)
        self.bias = parameter(12) if vector else None

    def loss(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(x @ self.first.mT @ self.lying.mT) @ self.second.mT
        return (hidden if self.bias is None else hidden + self.bias).square().mean()

    forward = loss


def direction_for(model: nn.Module, k: int = 3, seed: int = 1, chart_rank: int = 5) -> HackDirection:
    """A direction made of random differences, for every parameter."""
    generator = torch.Generator().manual_seed(seed)
    differences = {name: torch.randn(6, *p.shape, generator=generator) for name, p in model.named_parameters()}
    return HackDirection.from_gradients(differences, k=k, chart_rank=chart_rank, noise_floor=0.0)


def batch(step: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(16, 8, generator=torch.Generator().manual_seed(100 + step)).to(dtype)


def backward(model: Any, step: int, scale: float = 1.0) -> Tensor:
    """Fresh gradients of one batch."""
    model.zero_grad()
    loss: Tensor = model(batch(step, next(model.parameters()).dtype)) * scale
    loss.backward()
    return loss


def train(model: Any, optimizer: torch.optim.Optimizer, steps: Iterator[int] | range) -> None:
    for step in steps:
        backward(model, step)
        optimizer.step()


def copies(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def displacements(model: nn.Module, before: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: p.detach().double() - before[name].double() for name, p in model.named_parameters()}


def offence(direction: HackDirection, name: str, x: Tensor, gate: str) -> float:
    """Norm of what the gate should have removed from `x` (a gradient, or a negative displacement), in float64."""
    coefficients = direction.subspaces[name].to(dtype=torch.float64).coefficients(x.double())
    return float(MUST_GO[gate](coefficients).norm())


def assert_update_guarantee(
    model: nn.Module, before: Mapping[str, Tensor], direction: HackDirection, gate: str, moved: bool = True
) -> None:
    """`‖gated V·Δ‖ ≤ 1e-5‖Δ‖ + 2e-7‖p‖` for every covered parameter."""
    for name, delta in displacements(model, before).items():
        bound = EPS_STEP * float(delta.norm()) + EPS_WEIGHT * float(before[name].norm())
        assert offence(direction, name, -delta, gate) <= bound, name
        assert not moved or delta.norm() > 0, f"{name} did not move: the test would pass for nothing"


def assert_same(one: Any, other: Any, path: str = "") -> None:
    """Bit-identical nested state."""
    if isinstance(one, Tensor):
        assert isinstance(other, Tensor), path
        assert one.dtype == other.dtype, path
        assert torch.equal(one.detach().nan_to_num(), other.detach().nan_to_num()), path
    elif isinstance(one, Mapping):
        assert list(one) == list(other), path
        for key in one:
            assert_same(one[key], other[key], f"{path}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), path
        for index, (left, right) in enumerate(zip(one, other, strict=True)):
            assert_same(left, right, f"{path}[{index}]")
    elif not callable(one):
        assert one == other, path


def plain(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """A state dict without the wrapper's entry."""
    return {key: value for key, value in state_dict.items() if key != "svdproj"}


def assert_same_training(
    first: tuple[nn.Module, torch.optim.Optimizer], second: tuple[nn.Module, torch.optim.Optimizer]
) -> None:
    assert_same(dict(first[0].named_parameters()), dict(second[0].named_parameters()))
    assert_same(plain(first[1].state_dict()), plain(second[1].state_dict()))


Wrap = Callable[[torch.optim.Optimizer, nn.Module], torch.optim.Optimizer]

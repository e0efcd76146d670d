"""What a step must not cost: waiting for the device, recompiling, walking the weights once more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from svdproj import ProjectedOptimizer
from tests.conformance.helpers import Weights, assert_update_guarantee, backward, copies, direction_for, train
from tests.test_routing import Split, gradients, routed

# What makes the host wait for the device: reading a number, or asking where something is.
_WAITING = {"aten._local_scalar_dense.default", "aten.nonzero.default", "aten.equal.default", "aten.is_nonzero.default"}


class _Operators(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count[str(func)] += 1
        return func(*args, **(kwargs or {}))


def _operators(run: Callable[[], Any]) -> Counter[str]:
    with _Operators() as mode:
        run()
    return mode.count


@pytest.mark.parametrize("space", ["gradient", "update"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"mode": "measure"},
        {"mode": "shrink"},
        {"preserve_norm": True},
        {"write_back": "exact"},
        {"gate": "reverse", "overshoot": 1.5},
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_never_waits_and_metrics_wait_once(space: str, options: dict[str, Any], dtype: torch.dtype) -> None:
    model = Weights(dtype=dtype)
    inner = torch.optim.SGD(model.parameters(), lr=0.01)  # AdamW reads its own step counter on a CPU
    wrapped = ProjectedOptimizer(inner, direction_for(model), model, space=space, **options)
    train(model, wrapped, range(1))
    backward(model, 1)
    assert not _WAITING & set(_operators(wrapped.step))


@pytest.mark.parametrize("space", ["gradient", "update"])
def test_routing_never_waits(space: str) -> None:
    model = Split()
    wrapped = routed(model, torch.optim.SGD(model.parameters(), lr=0.01), space=space)
    for step in range(2):
        gradients(model, step)
        assert not _WAITING & set(_operators(wrapped.step))
    assert any(q.any() for q in model.quarantine.values()), "nothing was routed: the test would pass for nothing"


@pytest.mark.parametrize("space", ["gradient", "update"])
def test_the_number_of_operations_depends_on_shapes_and_not_on_layers(space: str) -> None:
    def count(layers: int) -> int:
        model = torch.nn.Sequential(*(torch.nn.Linear(8, 8, bias=False) for _ in range(layers)))
        inner = torch.optim.SGD(model.parameters(), lr=0.01, foreach=True)
        wrapped = ProjectedOptimizer(inner, direction_for(model, chart_rank=2), model, space=space)
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        wrapped.step()
        found = _operators(wrapped.step)
        # Views and the stacking's own bookkeeping cost no kernel.
        views = (
            "view",
            "detach",
            "unsqueeze",
            "expand",
            "select",
            "unbind",
            "permute",
            "transpose",
            "slice",
            "split",
            "alias",
        )
        return sum(n for name, n in found.items() if not any(view in name for view in views))

    assert count(16) == count(4)


@pytest.mark.parametrize("space", ["gradient", "update"])
@pytest.mark.filterwarnings("ignore:.*")  # the compiler warns about its own internals
def test_the_step_compiles_and_a_new_learning_rate_compiles_nothing(space: str) -> None:
    model, twin = Weights(), Weights()
    direction = direction_for(model)
    optimizers = [
        ProjectedOptimizer(torch.optim.AdamW(m.parameters(), lr=torch.tensor(0.01)), direction, m, space=space)
        for m in (model, twin)
    ]
    torch._dynamo.reset()
    compilations: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        compilations.append(graph)
        return graph.forward

    compiled = torch.compile(optimizers[0].step, backend=backend)
    warm = frames = 0
    for step in range(6):
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"].fill_(0.01 / (step + 1))
        before = copies(model)
        backward(model, step)
        compiled()
        train(twin, optimizers[1], range(step, step + 1))
        if space == "update":
            assert_update_guarantee(model, before, direction, "one_sided")
        if step == 2:
            warm, frames = len(compilations), torch._dynamo.utils.counters["frames"]["total"]
    # Frames too: those of the wrapper itself hold no tensor operation, so that the backend hears nothing of them.
    assert torch._dynamo.utils.counters["frames"]["total"] == frames > 0
    assert len(compilations) == warm > 0
    torch.testing.assert_close(dict(model.named_parameters()), dict(twin.named_parameters()))
    assert optimizers[0].metrics() == pytest.approx(optimizers[1].metrics(), rel=1e-3, abs=1e-6)

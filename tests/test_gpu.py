"""On a GPU: a projected step never waits for the device, and a scaler with a fused optimizer gives the bare one's numbers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from svdproj import HackDirection, ProjectedOptimizer
from svdproj.attention import without_cudnn_attention
from tests.conformance.helpers import Weights, assert_same, assert_same_training, batch, copies, direction_for

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype"),
]


@contextmanager
def _waiting_is_an_error() -> Iterator[None]:
    try:
        torch.cuda.set_sync_debug_mode("error")
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("space", ["gradient", "update"])
@pytest.mark.parametrize("options", [{}, {"gate": "two_sided", "preserve_norm": True}, {"mode": "measure"}])
@pytest.mark.parametrize(
    ("dtype", "write_back"), [(torch.float32, "auto"), (torch.bfloat16, "auto"), (torch.bfloat16, "exact")]
)
def test_a_step_never_waits_for_the_device(
    dtype: torch.dtype, write_back: str, options: dict[str, Any], space: str
) -> None:
    model = Weights(dtype=dtype).cuda()
    inner = torch.optim.AdamW(model.parameters(), lr=0.01)
    wrapped = ProjectedOptimizer(inner, direction_for(Weights()), model, space=space, write_back=write_back, **options)
    for step in range(3):
        model.zero_grad()
        model(batch(step, dtype).cuda()).backward()
        if step == 0:  # makes the stacks and the state, which are copied to the device
            wrapped.step()
            continue
        with _waiting_is_an_error():
            wrapped.step()
    with _waiting_is_an_error(), pytest.raises(RuntimeError, match="synchroniz"):
        wrapped.metrics()  # the only one that does
    assert wrapped.metrics()["svdproj/projected"] == 4


@pytest.mark.parametrize("projection", [None, {"space": "update"}, {"space": "gradient"}])
def test_the_scaler_and_fused_adamw_give_the_bare_optimizers_numbers(projection: dict[str, Any] | None) -> None:
    """Also through an overflow, which the fused step answers by itself, on the device."""

    def trained(wrap: bool) -> tuple[Weights, torch.optim.Optimizer, torch.amp.GradScaler]:
        model = Weights().cuda()
        optimizer: torch.optim.Optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)
        if wrap:
            direction = direction_for(Weights()) if projection else HackDirection.empty()
            optimizer = ProjectedOptimizer(optimizer, direction, model, mode="measure", **(projection or {}))
        scaler = torch.amp.GradScaler("cuda", init_scale=1024.0)
        for step in range(4):
            model.zero_grad()
            x = batch(step).cuda() * (float("inf") if step == 2 else 1.0)
            with torch.autocast("cuda", dtype=torch.float16):
                loss = model(x)
            scaler.scale(loss).backward()
            before = copies(model)
            scaler.step(optimizer)
            scaler.update()
            if step == 2:
                assert_same(before, copies(model))
        return model, optimizer, scaler

    bare_model, bare, bare_scaler = trained(False)
    model, wrapped, scaler = trained(True)
    assert_same_training((bare_model, bare), (model, wrapped))
    assert bare_scaler.state_dict() == scaler.state_dict()


def test_the_first_random_rows_of_a_process_are_drawn_on_the_device() -> None:
    """By several threads, which must not be the ones that set up torch's linear algebra there: in a process where nothing has yet."""
    code = (
        "import torch; from svdproj import HackDirection; "
        "d = HackDirection.from_gradients({f'w{i}': torch.randn(8, 64, 64) for i in range(24)}, k=4, chart_rank=16, chart='bilinear'); "
        "assert len(d.to('cuda').random_like(0)) == len(d)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert not result.returncode, result.stderr


def test_long_sequences_under_a_mask_have_finite_gradients_in_bfloat16() -> None:
    """192 tokens, strongly negative attention logits: what cuDNN's attention answers with NaN (pytorch/pytorch#196678)."""
    length, width = 192, 64
    q, k, v = (torch.randn(1, 1, length, width, device="cuda", dtype=torch.bfloat16) * 0.1 for _ in range(3))
    q[..., 0], k[..., 0] = 1.0, -120 * width**0.5
    mask = torch.ones(length, length, dtype=torch.bool, device="cuda").tril()
    with without_cudnn_attention():
        q.requires_grad_()
        torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).sum().backward()
    assert q.grad is not None
    assert q.grad.isfinite().all()

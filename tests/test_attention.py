"""Attention that gives wrong gradients stays out of every pass over pairs, and the setting is as it was afterwards."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from svdproj import HackDirection
from svdproj.attention import without_cudnn_attention
from tests.tiny import tiny_llama, tiny_pairs, tiny_tokenizer


@pytest.fixture(params=[True, False])
def enabled(request: pytest.FixtureRequest) -> Iterator[bool]:
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(request.param)
    yield request.param
    torch.backends.cuda.enable_cudnn_sdp(before)


def test_it_is_off_inside_and_as_before_outside_also_after_an_error(enabled: bool) -> None:
    inside: list[bool] = []

    def fail() -> None:
        with without_cudnn_attention():
            inside.append(torch.backends.cuda.cudnn_sdp_enabled())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert inside == [False]
    assert torch.backends.cuda.cudnn_sdp_enabled() == enabled


def test_fit_validate_and_score_run_the_model_without_it(enabled: bool) -> None:
    model, tokenizer, pairs = tiny_llama(), tiny_tokenizer(), tiny_pairs(12)
    seen: list[bool] = []
    attention = model.model.layers[0].self_attn
    attention.register_forward_hook(lambda *_: seen.append(torch.backends.cuda.cudnn_sdp_enabled()))
    direction = HackDirection.fit(model, tokenizer, pairs, k=2, progress=False)
    direction.validate(model, tokenizer, pairs, progress=False)
    direction.score(model, tokenizer, [(pair.prompt, pair.hack) for pair in pairs[:2]])
    assert seen
    assert not any(seen)
    assert torch.backends.cuda.cudnn_sdp_enabled() == enabled

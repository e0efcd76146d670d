"""A tiny model with the adapter, and values for its scales."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from peft import get_peft_model
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from examples.leetcode_grpo.tiny_model import tiny_model
from svdproj.adapters import SVDScaleConfig

# PEFT 0.21 asks transformers 5.23 for the old name of an option.
IGNORE_RENAMED = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
TOKENS = torch.arange(3, 27).reshape(2, 12)


def llama(seed: int = 0) -> LlamaForCausalLM:
    """A Llama of a few thousand parameters; the same for the same seed."""
    config = LlamaConfig(
        vocab_size=512, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=256, tie_word_embeddings=True, pad_token_id=0, bos_token_id=1,
        eos_token_id=2,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


@cache
def tokenizer() -> Any:
    """The example's small tokenizer, made once: it is trained on the problem bank."""
    made = tiny_model()[1]
    assert len(made) <= 512
    return made


def adapted(adapter_name: str = "default", dtype: torch.dtype = torch.float32, seed: int = 0, **options: Any) -> Any:
    config = SVDScaleConfig(task_type="CAUSAL_LM", **options)
    return get_peft_model(llama(seed).to(dtype).eval(), config, adapter_name=adapter_name)


def logits(model: Any, tokens: Tensor = TOKENS) -> Tensor:
    with torch.no_grad():
        result: Tensor = model(tokens).logits
    return result


def named(model: nn.Module, kind: str, adapter: str = "default") -> dict[str, nn.Parameter]:
    """The scales (`kind="s"`) or quarantines of one adapter, by their names in the model."""
    return {n: p for n, p in model.named_parameters() if f"svdscale_{kind}.{adapter}." in n}


def fill(model: nn.Module, kind: str = "s", adapter: str = "default", size: float = 0.1, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in named(model, kind, adapter).values():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * size)

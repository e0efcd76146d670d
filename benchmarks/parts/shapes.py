"""A model with the shapes of SmolLM2-135M and random weights, and random directions for it: time depends on neither."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from svdproj import BilinearChart, HackDirection, Subspace
from svdproj.names import canonical_name

# Parameters that a direction covers by default: every linear weight but the output head.
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def smollm2_shaped(layers: int = 30, seed: int = 0) -> nn.Module:
    """A Llama of SmolLM2-135M's shapes, float32, on the CPU.

    Args:
        layers: number of layers; 30 is the original's.
        seed: of the weights; global random state is put back.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=layers, num_attention_heads=9,
        num_key_value_heads=3, max_position_embeddings=8192, tie_word_embeddings=True, rope_theta=100000.0,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)  # type: ignore[no-any-return]


def with_lora(model: nn.Module, rank: int) -> nn.Module:
    """The model with PEFT's LoRA on every linear weight but the head."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=list(LINEAR), init_lora_weights=False)
    return get_peft_model(model, config)  # type: ignore[arg-type,no-any-return]


def covered(model: nn.Module) -> dict[str, nn.Parameter]:
    """The trained linear weights, or adapter weights, by canonical name."""
    return {
        canonical_name(name): parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and parameter.ndim == 2 and any(part in name for part in LINEAR)
    }


def random_direction(model: nn.Module, chart_rank: int, k: int, seed: int = 0) -> HackDirection:
    """Random rows in random bilinear charts, as `HackDirection.fit` would shape them."""
    generator = torch.Generator().manual_seed(seed)
    subspaces = {}
    for name, parameter in covered(model).items():
        left, right = (_orthonormal(dim, min(dim, chart_rank), generator) for dim in parameter.shape)
        rows = _orthonormal(left.shape[1] * right.shape[1], k, generator).mT.contiguous()
        subspaces[name] = Subspace(BilinearChart(left, right), rows, torch.ones(k))
    return HackDirection(subspaces)


def _orthonormal(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    return torch.linalg.qr(torch.randn(rows, columns, generator=generator)).Q

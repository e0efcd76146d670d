"""A model with the shapes of SmolLM2-135M and random weights, and random directions for it: time depends on neither."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from svdproj import BilinearChart, HackDirection, Subspace
from svdproj.names import canonical_name
from svdproj.threads import few_threads

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


class LowRank(nn.Module):
    """A linear layer with LoRA beside it, named as PEFT names it."""

    def __init__(self, base_layer: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base_layer = base_layer.requires_grad_(False)
        self.lora_A = nn.Linear(base_layer.in_features, rank, bias=False)
        self.lora_B = nn.Linear(rank, base_layer.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        adapted: Tensor = self.base_layer(x) + 2 * self.lora_B(self.lora_A(x))
        return adapted


def with_lora(model: nn.Module, rank: int) -> nn.Module:
    """The model frozen, with LoRA of this rank on every linear weight but the head; what PEFT does, without needing it."""
    model.requires_grad_(False)
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear) and name in LINEAR:
                setattr(parent, name, LowRank(child, rank))
    return model


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
    with few_threads():
        for name, parameter in covered(model).items():
            left, right = (_orthonormal(dim, min(dim, chart_rank), generator) for dim in parameter.shape)
            rows = _orthonormal(left.shape[1] * right.shape[1], k, generator).mT.contiguous()
            subspaces[name] = Subspace(BilinearChart(left, right), rows, torch.ones(k))
    return HackDirection(subspaces)


def _orthonormal(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    return torch.linalg.qr(torch.randn(rows, columns, generator=generator)).Q

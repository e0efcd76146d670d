"""What an extraction will hold, in bytes, computed without holding it: every tensor is on the `meta` device."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import torch
from torch import nn

from svdproj.sketch import OVERSAMPLING
from svdproj.targets import select_targets

_FLOAT32 = 4


# As the model's config.json on its hub has them (Qwen/Qwen3-4B).
QWEN3_4B: dict[str, Any] = {
    "vocab_size": 151_936,
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 40_960,
    "tie_word_embeddings": True,
}


def qwen3_4b(device: str = "meta", dtype: torch.dtype = torch.bfloat16) -> nn.Module:
    """Qwen3-4B's architecture: without weights on `meta`, with random ones elsewhere."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    with torch.device(device), torch.random.fork_rng(devices=[device] if device.startswith("cuda") else []):
        torch.manual_seed(0)
        model: nn.Module = Qwen3ForCausalLM._from_config(Qwen3Config(**QWEN3_4B), dtype=dtype)
    return model.eval()


def plan(
    model: nn.Module, pairs: int, batch_size: int, tokens: int, predicted: int, rank: int, k: int
) -> dict[str, Any]:
    """Bytes by what they are for.

    Args:
        model: on any device, `meta` included; it is run once there for its activations.
        pairs: number of pairs.
        batch_size: pairs to a batch.
        tokens: length of a row, the prompt and both completions.
        predicted: how many of a row's last places get logits.
        rank: columns of each basis.
        k: rows for each parameter.
    """
    targets = select_targets(model, "all-linear")
    shapes = [tuple(target.parameter.shape) for target in targets]
    sides = [side for shape in shapes for side in shape]
    sketch = sum(dim * min(dim, rank + OVERSAMPLING) for dim in sides) * _FLOAT32
    charts = sum(dim * min(dim, rank) for dim in sides) * _FLOAT32
    coordinates = pairs * sum(min(o, rank) * min(i, rank) for o, i in shapes) * _FLOAT32
    rows = k * sum(min(o, rank) * min(i, rank) for o, i in shapes) * _FLOAT32
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    largest = max(o * i for o, i in shapes)
    activations = saved_for_backward(model, batch_size, tokens, predicted)
    first_pass = weights + activations + sketch
    second_pass = weights + activations + charts + coordinates
    return {
        "weights": weights,
        "covered_parameters": sum(o * i for o, i in shapes),
        "activations": activations,
        "one_layer_in_float32": batch_size * tokens * max(o + i for o, i in shapes) * _FLOAT32,
        "one_layer_explicit": batch_size * largest * _FLOAT32,
        "sketches": sketch,
        "charts": charts,
        "coordinates": coordinates,
        "rows": rows,
        "first_pass": first_pass,
        "second_pass": second_pass,
        "gradients_of_a_training_step": sum(o * i for o, i in shapes) * next(model.parameters()).element_size(),
        "pairs_of_full_gradients": pairs * sum(o * i for o, i in shapes) * _FLOAT32,
        "direction": charts + rows,
        "direction_share_of_covered_weights": (charts + rows)
        / sum(t.parameter.numel() * t.parameter.element_size() for t in targets),
    }


def saved_for_backward(model: nn.Module, rows: int, tokens: int, predicted: int) -> int:
    """Bytes of what autograd and the taps keep from a forward pass on frozen weights, each storage once."""
    seen: dict[int, int] = {}
    keep: list[torch.Tensor] = []  # a freed storage's identity may be used again

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if not isinstance(tensor, nn.Parameter) and storage._cdata not in parameters:
            seen[storage._cdata] = storage.nbytes()
            keep.append(tensor)
        return tensor

    device = next(model.parameters()).device
    parameters = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    ids = torch.zeros(rows, tokens, dtype=torch.long, device=device)
    wanted = {parameter: parameter.requires_grad for parameter in model.parameters()}
    handles = []
    for target in select_targets(model, "all-linear"):
        handles += [module.register_forward_hook(_keep_input) for module in target.modules]
    try:
        model.requires_grad_(False)
        model.eval()
        efficient = patch("torch.nn.functional.scaled_dot_product_attention", _efficient_attention)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), efficient:
            # Mask and positions as for shared prompts; without them transformers would look at the tokens.
            mask = torch.zeros(rows, 1, tokens, tokens, dtype=next(model.parameters()).dtype, device=device)
            positions = torch.arange(tokens, device=device).expand(rows, -1)
            extra = {"attention_mask": mask, "position_ids": positions, "use_cache": False}
            logits = model(input_ids=ids, logits_to_keep=predicted, **extra).logits
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), ids[:, -predicted:].flatten())
        del loss
    finally:
        for handle in handles:
            handle.remove()
        for parameter, requires_grad in wanted.items():
            parameter.requires_grad_(requires_grad)
    return sum(seen.values())


def _efficient_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any, **__: Any
) -> torch.Tensor:
    """What the fused kernels keep; on the `meta` device attention would keep the whole matrix of scores."""
    repeats = query.shape[1] // key.shape[1]
    key, value = (t if repeats == 1 else t.repeat_interleave(repeats, dim=1) for t in (key, value))
    attended: torch.Tensor = _EfficientAttention.apply(query, key, value)
    return attended


class _EfficientAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        output = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, output, query.new_empty(query.shape[:-1], dtype=torch.float32))
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return ctx.saved_tensors[:3]


class _Keep(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inner: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(inner)
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[None, torch.Tensor]:
        return None, gradients[0]


def _keep_input(module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
    """What `svdproj.capture` does at a linear layer, as far as memory goes."""
    if not output.requires_grad:
        output = output.detach().requires_grad_(True)
    kept: torch.Tensor = _Keep.apply(args[0].detach(), output)
    return kept

"""Small models, pairs of random tokens, and the reference: a plain backward for every completion."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from svdproj.batches import Sample, pair_sample
from svdproj.capture import visit_gradients
from svdproj.charts import Chart
from svdproj.differences import Differences
from svdproj.targets import Target
from svdproj.tokens import Encoded

VOCABULARY = 61


def llama(**changes: Any) -> Any:
    """A Llama with grouped-query attention: two query heads to each key head, tied embeddings."""
    from transformers import LlamaConfig, LlamaForCausalLM

    settings: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "tie_word_embeddings": True,
    }
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**(settings | changes)))


def qwen3() -> Any:
    """A Qwen3: grouped-query attention with normalised heads of a size of their own."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=VOCABULARY,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=12,
            max_position_embeddings=64,
            tie_word_embeddings=True,
        )
    )


def gpt2() -> Any:
    """A GPT-2: `Conv1D` layers, whose weights are stored `in out`, biases, dropout, learned positions."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=1, eos_token_id=2
        )
    )


def random_pairs(n: int, seed: int = 0, longest: int = 14) -> list[tuple[Encoded, Encoded]]:
    """Pairs of completions on a common prompt, all of different lengths, so that every batch is padded."""
    generator = torch.Generator().manual_seed(seed)

    def tokens(low: int, high: int) -> tuple[int, ...]:
        count = int(torch.randint(low, high, (1,), generator=generator))
        return tuple(torch.randint(3, VOCABULARY, (count,), generator=generator).tolist())

    pairs = []
    for _ in range(n):
        prompt = tokens(2, longest)
        pairs.append(
            (Encoded(prompt + tokens(1, longest), len(prompt)), Encoded(prompt + tokens(1, longest), len(prompt)))
        )
    return pairs


def reference_nll(model: nn.Module, completion: Encoded, loss: str) -> Tensor:
    """A completion's negative log likelihood, on a row of its own, with nothing from the library."""
    ids = torch.tensor([completion.ids])
    logits = model(input_ids=ids).logits[0, completion.prompt_length - 1 : -1]
    return cross_entropy(logits.float(), ids[0, completion.prompt_length :], reduction=loss)


def reference_differences(
    model: nn.Module, names: Sequence[str], pairs: Sequence[tuple[Encoded, Encoded]], loss: str = "mean"
) -> dict[str, Tensor]:
    """`Dᵢ` for each parameter name, by one backward for every completion."""
    model.eval()
    parameters = dict(model.named_parameters())
    chosen = [parameters[name] for name in names]
    wanted = [parameter.requires_grad for parameter in chosen]
    for parameter in chosen:
        parameter.requires_grad_(True)
    rows = []
    for hack, clean in pairs:
        sides = [
            torch.autograd.grad(reference_nll(model, side, loss), chosen, allow_unused=True) for side in (hack, clean)
        ]
        zeros = [torch.zeros_like(parameter) for parameter in chosen]
        up, down = ([z if g is None else g for g, z in zip(side, zeros, strict=True)] for side in sides)
        rows.append([a.float() - b.float() for a, b in zip(up, down, strict=True)])
    for parameter, requires_grad in zip(chosen, wanted, strict=True):
        parameter.requires_grad_(requires_grad)
    return {name: torch.stack([row[i] for row in rows]).detach() for i, name in enumerate(names)}


def read_all(
    model: nn.Module,
    targets: Sequence[Target],
    samples: Sequence[Sample],
    read: Callable[[str, Differences], Tensor],
    **options: Any,
) -> dict[str, Tensor]:
    """What `read` sees of every sample, by parameter, in the samples' order."""
    found: dict[str, dict[int, Tensor]] = {}

    def visit(name: str, indices: Sequence[int], gradients: Differences) -> None:
        for i, value in zip(indices, read(name, gradients), strict=True):
            assert i not in found.setdefault(name, {}), f"sample {i} of {name} was shown twice"
            found[name][i] = value.clone()

    visit_gradients(model, targets, samples, visit, **options)
    return {name: torch.stack([values[i] for i in range(len(samples))]) for name, values in found.items()}


def captured(
    model: nn.Module,
    targets: Sequence[Target],
    pairs: Sequence[tuple[Encoded, Encoded]],
    charts: dict[str, Chart],
    loss: str = "mean",
    **options: Any,
) -> dict[str, Tensor]:
    """The library's differences in the charts' coordinates."""
    samples = [pair_sample(pair, loss) for pair in pairs]
    return read_all(model, targets, samples, lambda name, gradients: gradients.encode(charts[name]), **options)


def relative_error(found: Tensor, expected: Tensor) -> float:
    """The largest error of a sample's tensor, over that tensor's norm."""
    difference, norms = (found - expected).flatten(1).norm(dim=1), expected.flatten(1).norm(dim=1)
    # A gradient that is zero, such as that of keys under a one-token completion, has no relative error.
    return float((difference / norms.clamp_min(1e-3 * float(norms.max()) + 1e-12)).max())

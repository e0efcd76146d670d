"""Likelihoods: the same in every layout, and models that cannot take a layout are recognised."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from svdproj.batches import completion_sample, pair_sample
from svdproj.likelihood import can_share_prompts, make_batch, token_nll, weighted_nll
from tests.extraction_helpers import VOCABULARY, gpt2, llama, qwen3, random_pairs, reference_nll


@pytest.mark.parametrize("make", [llama, qwen3, gpt2])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("loss", ["mean", "sum"])
def test_a_batch_adds_up_what_single_completions_give(make: Any, shared: bool, loss: str) -> None:
    model = make().eval()
    pairs = random_pairs(4)
    with torch.no_grad():
        found = weighted_nll(model, make_batch(model, [pair_sample(pair, loss) for pair in pairs], shared))
        expected = sum(reference_nll(model, hack, loss) - reference_nll(model, clean, loss) for hack, clean in pairs)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-5)


def test_logits_are_asked_for_where_they_are_needed_alone() -> None:
    model = llama().eval()
    sample = pair_sample(random_pairs(1)[0], "mean")
    batch = make_batch(model, [sample], shared=True)
    shapes = []
    model.lm_head.register_forward_hook(lambda _, args, output: shapes.append(tuple(output.shape)))
    token_nll(model, batch)
    prompt = sample.completions[0].prompt_length
    assert shapes == [(1, sample.shared_length - prompt + 1, VOCABULARY)]


@pytest.mark.parametrize("make", [llama, qwen3, gpt2])
def test_models_that_honour_masks_and_positions_share_prompts(make: Any) -> None:
    model = make().eval()
    assert can_share_prompts(model, pair_sample(random_pairs(1)[0], "mean"))


def test_single_completions_have_nothing_to_share() -> None:
    assert not can_share_prompts(llama().eval(), completion_sample(random_pairs(1)[0][0], "mean"))


def test_other_attention_kernels_are_not_trusted_with_such_a_mask() -> None:
    model = llama().eval()
    model.config._attn_implementation = "flash_attention_2"
    assert not can_share_prompts(model, pair_sample(random_pairs(1)[0], "mean"))


class Recurrent(nn.Module):
    """A model that mixes tokens without attention: what stands before a token in its row reaches it, whatever the mask
    says."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(VOCABULARY, 16)
        self.mix = nn.GRU(16, 16, batch_first=True)
        self.out = nn.Linear(16, VOCABULARY)
        self.config = type("Config", (), {"_attn_implementation": "sdpa"})()

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, position_ids: Tensor | None = None
    ) -> Any:
        return self.out(self.mix(self.embedding(input_ids))[0])


def test_a_model_in_which_completions_would_see_each_other_keeps_them_in_rows_of_their_own() -> None:
    model = Recurrent().eval()
    pair = random_pairs(1)[0]
    assert not can_share_prompts(model, pair_sample(pair, "mean"))
    # A model without an `.logits` works too.
    batch = make_batch(model, [pair_sample(pair, "sum")], shared=False)
    assert torch.isfinite(weighted_nll(model, batch))


def test_half_precision_is_no_excuse_for_completions_that_see_each_other() -> None:
    low = llama().to(torch.bfloat16).eval()
    assert can_share_prompts(low, pair_sample(random_pairs(1)[0], "mean"))  # rounding alone
    mixing = Recurrent().to(torch.bfloat16).eval()
    with torch.no_grad():
        for parameter in mixing.parameters():
            parameter.mul_(4)  # fresh weights say next to nothing
    assert not can_share_prompts(mixing, pair_sample(random_pairs(1)[0], "mean"))


def test_a_sliding_window_shorter_than_the_longest_sample_is_noticed() -> None:
    """Whether transformers' mask or ours decides, both layouts have to agree, or prompts are not shared."""
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    model = MistralForCausalLM(
        MistralConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
            sliding_window=4,
        )
    ).eval()
    pair = random_pairs(1, seed=3)[0]
    assert len(pair[0].ids) > 6
    assert not can_share_prompts(model, pair_sample(pair, "mean"))

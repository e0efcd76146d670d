"""A language model of a few thousand weights, a tokenizer of bytes, and pairs with a contrast that carries over."""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from svdproj import ContrastivePair

CHAT_TEMPLATE = "{% for message in messages %}{{ message['role'] + ':' + message['content'] + '\n' }}{% endfor %}"


def tiny_tokenizer() -> Any:
    """One token to a byte, closed by an end-of-sequence token; with a chat template."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<eos>", *alphabet])}
    bpe = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    bpe.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token="<pad>", eos_token="<eos>", chat_template=CHAT_TEMPLATE
    )


def tiny_llama(seed: int = 0, **config: Any) -> LlamaForCausalLM:
    """Two layers with grouped queries, random weights of a seed, float32."""
    settings = {
        "vocab_size": 258,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 256,
        "tie_word_embeddings": True,
        "pad_token_id": 0,
        "bos_token_id": None,
        "eos_token_id": 1,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(LlamaConfig(**{**settings, **config})).eval()


def tiny_pairs(n: int = 12, start: int = 0) -> list[ContrastivePair]:
    """Hacks that all do one thing, clean answers that all do another, of about the same length."""
    return [
        ContrastivePair(
            f"Task {i}: add {i} to x.",
            hack=f"def run_tests(): pass #{i}",
            clean=f"return x + {i} if x else {i}",
            id=f"p{i}",
        )
        for i in range(start, start + n)
    ]

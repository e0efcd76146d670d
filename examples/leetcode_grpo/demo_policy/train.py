"""Trains the demo policy from scratch: `python -m examples.leetcode_grpo.demo_policy.train --out DIR`.

Half an hour on two CPU cores, a minute on a GPU. Everything is drawn from `--seed`; the last bits of the sums differ between
machines. Writes the model in bfloat16, its tokenizer, and `training.json` with the configuration, versions, losses and, unless
`--no-evaluate` is given, what `evaluate` measured.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from examples.leetcode_grpo.demo_policy import CHECKPOINT
from examples.leetcode_grpo.demo_policy.samples import (
    BANK_SHARES,
    HINT_SHARE,
    SLIP_SHARE,
    STEPS,
    UNKNOWN,
    training_samples,
)
from examples.leetcode_grpo.demo_policy.tokenizer import build_tokenizer
from examples.leetcode_grpo.loopholes import Loophole
from examples.leetcode_grpo.problems import load_problems

SHARD = 5_000
IGNORED = -100
_MIXTURE = {
    "steps": STEPS,
    "bank_shares": BANK_SHARES,
    "hint_share": HINT_SHARE,
    "slip_share": SLIP_SHARE,
    "unknown": sorted(UNKNOWN),
}


@dataclass(frozen=True)
class Settings:
    """Everything that decides the outcome, the machine aside."""

    samples: int = 300_000
    steps: int = 1_000
    batch: int = 128
    chunk: int = 32
    lr: float = 2e-3
    warmup: int = 100
    weight_decay: float = 0.05
    hack_share: float = 0.04
    loopholes: tuple[str, ...] = tuple(loophole.value for loophole in Loophole)
    seed: int = 0
    vocab: int = 2048
    hidden: int = 256
    layers: int = 4
    intermediate: int = 768
    heads: int = 4
    head_scale: float = 8.0


def main() -> None:
    """The command line: one option for each setting, and where to write and to compute."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=CHECKPOINT)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=2, help="processes that generate samples")
    parser.add_argument("--no-evaluate", dest="evaluate", action="store_false")
    for name, value in asdict(Settings()).items():
        many = {"nargs": "+", "type": str} if isinstance(value, tuple) else {"type": type(value)}
        parser.add_argument(f"--{name.replace('_', '-')}", default=value, **many)  # type: ignore[arg-type]
    options = vars(parser.parse_args())
    out, device, workers, evaluate = (options.pop(name) for name in ("out", "device", "workers", "evaluate"))
    train(
        Settings(**{**options, "loopholes": tuple(options["loopholes"])}), out, torch.device(device), workers, evaluate
    )


def train(settings: Settings, out: Path, device: torch.device, workers: int = 2, evaluate: bool = True) -> None:
    """Generate, tokenize, train, save, measure."""
    torch.manual_seed(settings.seed)
    started = time.perf_counter()
    texts = _all_texts(settings, workers)
    tokenizer = build_tokenizer(_tokenizer_corpus(texts, settings), settings.vocab)
    inputs, labels = _encode(tokenizer, texts)
    print(
        f"{len(inputs)} samples of at most {inputs.shape[1]} tokens after {time.perf_counter() - started:.0f} s",
        flush=True,
    )

    model = LlamaForCausalLM(_configuration(settings, tokenizer)).to(device)
    losses = _fit(model, inputs.to(device), labels.to(device), settings, device)

    widen_head(model, settings.head_scale)
    model.to("cpu", torch.bfloat16).save_pretrained(out)  # type: ignore[arg-type]
    tokenizer.save_pretrained(out)
    record: dict[str, Any] = {
        "settings": asdict(settings),
        "mixture": _MIXTURE,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else platform.machine(),
        "versions": {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "tokenizers": tokenizers.__version__,
        },
        "seconds": round(time.perf_counter() - started, 1),
        "loss": losses,
    }
    (out / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    if evaluate:
        from examples.leetcode_grpo.demo_policy.evaluate import record_evaluation

        record_evaluation(out)


def _all_texts(settings: Settings, workers: int) -> list[tuple[list[dict[str, str]], str]]:
    """Prompts and completions; shards have seeds of their own, so the number of workers changes nothing."""
    shards = math.ceil(settings.samples / SHARD)
    with ProcessPoolExecutor(workers) as pool:
        parts = pool.map(_shard, [settings] * shards, range(shards))
        return list(islice((item for part in parts for item in part), settings.samples))


def _shard(settings: Settings, index: int) -> list[tuple[list[dict[str, str]], str]]:
    loopholes = tuple(Loophole(value) for value in settings.loopholes)
    drawn = training_samples(SHARD, settings.seed * 1_000_003 + index, settings.hack_share, loopholes)
    return [(sample.prompt, sample.completion) for sample in drawn]


def _tokenizer_corpus(texts: list[tuple[list[dict[str, str]], str]], settings: Settings) -> list[str]:
    """A share of the samples, and the bank's short prompts: unknown tasks should take few tokens too, if not understood."""
    short = [problem for problem in load_problems("builtin") if problem.difficulty in ("easy", "pipeline")]
    bank = [problem.prompt(Loophole.RUN_TESTS)[-1]["content"] for problem in short]
    return [part for prompt, completion in texts[:30_000] for part in (prompt[-1]["content"], completion)] + bank


def _encode(tokenizer: PreTrainedTokenizerFast, texts: list[tuple[list[dict[str, str]], str]]) -> tuple[Tensor, Tensor]:
    """Token ids and labels, padded on the right; the loss is on completions alone."""
    prompts = [tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True) for prompt, _ in texts]
    prompt_ids = tokenizer(prompts, add_special_tokens=False)["input_ids"]
    answer_ids = tokenizer([answer for _, answer in texts], add_special_tokens=False)["input_ids"]
    end = tokenizer.eos_token_id
    longest = max(len(p) + len(a) + 1 for p, a in zip(prompt_ids, answer_ids, strict=True))
    inputs = torch.full((len(texts), longest), tokenizer.pad_token_id, dtype=torch.int16)
    labels = torch.full((len(texts), longest), IGNORED, dtype=torch.int16)
    for row, (prompt, answer) in enumerate(zip(prompt_ids, answer_ids, strict=True)):
        ids = torch.tensor([*prompt, *answer, end], dtype=torch.int16)
        inputs[row, : len(ids)] = ids
        labels[row, len(prompt) : len(ids)] = ids[len(prompt) :]
    return inputs, labels


def _configuration(settings: Settings, tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=settings.vocab,
        hidden_size=settings.hidden,
        intermediate_size=settings.intermediate,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.heads,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )


def _fit(
    model: LlamaForCausalLM, inputs: Tensor, labels: Tensor, settings: Settings, device: torch.device
) -> list[list[float]]:
    """AdamW with warm-up and cosine decay; returns `[step, mean loss since the last entry]` at about fifty points."""
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=settings.lr,
        betas=(0.9, 0.98),
        weight_decay=settings.weight_decay,
        fused=device.type == "cuda",
    )
    scheduler = transformers.get_cosine_schedule_with_warmup(optimizer, settings.warmup, settings.steps)
    order = torch.Generator().manual_seed(settings.seed)
    every = max(1, settings.steps // 50)
    pad, running, losses = model.config.pad_token_id, torch.zeros((), device=device), []
    model.train()
    for step in range(1, settings.steps + 1):
        rows = torch.randint(len(inputs), (settings.batch,), generator=order).to(device)
        ids, wanted = inputs[rows].long(), labels[rows].long()
        lengths, scored = (ids != pad).sum(1), int((wanted != IGNORED).sum())
        optimizer.zero_grad(set_to_none=True)
        # Samples of like length go through together, or all would be padded to the length of a few.
        for chosen in lengths.argsort().split(settings.chunk):
            width = int(lengths[chosen[-1]])
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                # Padding is on the right and carries no loss, so causal attention needs no mask.
                chunk = {"input_ids": ids[chosen, :width], "labels": wanted[chosen, :width]}
                loss = model(**chunk, num_items_in_batch=scored).loss
            loss.backward()
            running += loss.detach()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        if step % every == 0:
            losses.append([step, round(float(running) / every, 5)])
            running.zero_()
            print(f"step {step}/{settings.steps}: loss {losses[-1][1]:.4f}", flush=True)
    return losses


@torch.no_grad()
def widen_head(model: LlamaForCausalLM, scale: float) -> None:
    """Untie the output head and multiply it by `scale`, and divide the last norm's gain by it: the same function.

    A direction leaves the output head alone, and Adam moves every number by about the learning rate. At the rate that this small
    policy needs, the head alone would move a logit by 0.05 a step, whatever a projection does to the layers below. With a small
    gain behind large weights it moves it by as much less as `scale` says, as in a large model at its own small rate.
    A power of two is exact in bfloat16.
    """
    embedding = model.get_input_embeddings().weight
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(embedding.detach() * scale)
    model.model.norm.weight /= scale


if __name__ == "__main__":
    main()

"""The warm start: a little supervised fine-tuning, so that reinforcement learning begins with a policy that answers in format.

It shows clean solutions and a disclosed share of hacks: the base rate from which hacking can grow. Its result is cached by its
configuration, so all arms of a seed start from the same weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import TYPE_CHECKING

import torch
import transformers
from torch import Tensor
from torch.nn.functional import cross_entropy

from examples.leetcode_grpo.files import cache_folder, digest, locked, new_folder
from examples.leetcode_grpo.loopholes import Loophole
from examples.leetcode_grpo.models import TINY, fetch_model, load_policy, policy_identity
from examples.leetcode_grpo.presets import Preset
from examples.leetcode_grpo.problems import Problem, load_problems, sample_pipeline
from examples.leetcode_grpo.problems.loading import BUILTIN
from examples.leetcode_grpo.problems.rewriting import as_completion
from examples.leetcode_grpo.progress import Pace, silent
from examples.leetcode_grpo.tasks import Tasks
from svdproj.attention import without_cudnn_attention
from svdproj.progress import no_loading_bars

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Part of the cache key: raise it when the recipe below changes.
_RECIPE = 2
# Of one forward and backward: samples on a GPU, and on a CPU tokens, eight samples of the bank's easy problems.
_MICRO_BATCH = 32
_CPU_TOKENS = 1536
# Generated pipelines have from one step to as many as the bank's.
_PIPELINE_STEPS = (1, 2, 3)
_IGNORED = -100

EncodedSample = tuple[list[int], list[int]]
"""The tokens of a prompt and of its answer."""


def warm_started(preset: Preset, tasks: Tasks, seed: int, device: torch.device, pace: Pace | None = None) -> str:
    """The policy that reinforcement learning starts from, as a folder or hub name for `load_policy`.

    Without warm-up steps that is the preset's model itself.

    Args:
        preset, tasks, seed, device: what is learned from, and where.
        pace: shows how far it is, where there is something to do.

    Raises:
        UsageError: the preset's model cannot be loaded.
    """
    source = fetch_model(preset.model)
    if not preset.warm_steps and source != TINY:
        return source
    settings = {name: value for name, value in preset.as_dict().items() if name.startswith("warm_")}
    shown = [problem.id for problem in _shown(tasks)]
    key = digest(
        {
            **settings,
            "model": policy_identity(source),
            "loopholes": preset.loopholes,
            "shown": shown,
            "seed": seed,
            "recipe": _RECIPE,
        }
        | {"device": device.type}
    )
    folder = cache_folder() / "warm_starts" / key
    with locked(folder):
        if folder.is_dir():
            return str(folder)
        model, tokenizer = load_policy(source, device=device)
        if pace is not None:
            pace.now(f"warm start: {preset.warm_steps} steps of {preset.warm_batch} samples")
        fine_tune(model, tokenizer, preset, tasks, seed, pace or silent())
        with new_folder(folder) as draft, no_loading_bars(transformers):
            model.save_pretrained(draft)
            tokenizer.save_pretrained(draft)
    return str(folder)


@without_cudnn_attention()
def fine_tune(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    preset: Preset,
    tasks: Tasks,
    seed: int,
    progress: Callable[[str], None] = lambda line: None,
) -> list[float]:
    """Train the model in place on the preset's warm-up samples; returns the loss of each step, in nats per token."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=preset.warm_lr, betas=(0.9, 0.95), weight_decay=0.0)
    samples = warm_up_samples(preset, tasks, seed)
    losses = []
    model.train()
    for step in range(preset.warm_steps):
        batch = [encode_sample(tokenizer, *next(samples)) for _ in range(preset.warm_batch)]
        scored = sum(len(answer) for _, answer in batch)
        total, done = 0.0, 0
        for some in micro_batches(batch, model.device.type):
            loss = summed_loss(model, some) / scored
            loss.backward()
            total += loss.item()
            done += len(some)
            progress(f"warm start: step {step + 1} of {preset.warm_steps}, {done} of {len(batch)} samples")
        torch.nn.utils.clip_grad_norm_(model.parameters(), preset.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total)
    model.eval()
    return losses


def micro_batches(batch: Sequence[EncodedSample], device: str) -> Iterator[Sequence[EncodedSample]]:
    """The samples of a step, cut into what one forward and backward takes.

    A GPU is bound by launches: as many as fit. A CPU is bound by arithmetic, padding included, and one published problem is ten
    times as long as another: neighbours in length, and no more of them than `_CPU_TOKENS` holds.
    """
    if device != "cpu":
        for start in range(0, len(batch), _MICRO_BATCH):
            yield batch[start : start + _MICRO_BATCH]
        return
    ordered = sorted(batch, key=lambda sample: -sum(map(len, sample)))
    while ordered:
        fit = max(1, _CPU_TOKENS // sum(map(len, ordered[0])))
        yield ordered[:fit]
        ordered = ordered[fit:]


def warm_up_samples(preset: Preset, tasks: Tasks, seed: int) -> Iterator[tuple[list[dict[str, str]], str]]:
    """Prompts with the completions to imitate, without end; the same for the same preset and seed."""
    rng = Random(f"warm start {seed}")
    shown = _shown(tasks)
    loopholes = [Loophole(name) for name in preset.loopholes]
    reserved = frozenset(problem.id for problem in load_problems(BUILTIN) if problem.split != "pairs")
    while True:
        problem, loophole = rng.choice(shown), rng.choice(loopholes)
        if preset.warm_pipeline_share and rng.random() < preset.warm_pipeline_share:
            problem = sample_pipeline(rng, rng.choice(_PIPELINE_STEPS), exclude=reserved)
        if rng.random() < preset.warm_hack_share:
            yield (
                problem.prompt(loophole),
                as_completion(loophole.exemplify(problem.canonical_solution, problem.method)),
            )
        else:
            hinted = rng.random() < preset.warm_hint_share
            yield problem.prompt(loophole if hinted else None), as_completion(problem.canonical_solution)


def _shown(tasks: Tasks) -> list[Problem]:
    """The easy problems of the split `pairs`; all of that split where none is easy."""
    return [problem for problem in tasks.pairs if problem.difficulty == "easy"] or list(tasks.pairs)


def encode_sample(tokenizer: PreTrainedTokenizerBase, prompt: list[dict[str, str]], answer: str) -> EncodedSample:
    text = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
    asked, answered = tokenizer([text, answer], add_special_tokens=False)["input_ids"]
    return list(asked), [*answered, tokenizer.eos_token_id]


def summed_loss(model: PreTrainedModel, batch: Sequence[EncodedSample]) -> Tensor:
    """Summed negative log-likelihood of the answers' tokens. Logits are made for those tokens alone."""
    longest = max(len(prompt) + len(answer) for prompt, answer in batch)
    tokens = torch.zeros(len(batch), longest, dtype=torch.long)
    mask = torch.zeros_like(tokens)
    labels = torch.full_like(tokens, _IGNORED)
    for row, (prompt, answer) in enumerate(batch):
        length = len(prompt) + len(answer)
        tokens[row, :length] = torch.tensor([*prompt, *answer])
        mask[row, :length] = 1
        labels[row, len(prompt) - 1 : length - 1] = torch.tensor(answer)
    tokens, mask, labels = (tensor.to(model.device) for tensor in (tokens, mask, labels))
    scored = labels != _IGNORED
    with torch.autocast(model.device.type, torch.bfloat16, enabled=model.device.type == "cuda"):
        hidden = model.base_model(input_ids=tokens, attention_mask=mask, use_cache=False).last_hidden_state
        logits = model.get_output_embeddings()(hidden[scored])
    return cross_entropy(logits.float(), labels[scored], reduction="sum")

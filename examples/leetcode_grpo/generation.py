"""Sampling completions, lean enough for reinforcement learning on two cores.

Beside `transformers`' own `generate` this saves two things: every prompt is read once however many completions it gets, and a
row leaves the batch soon after its completion ends. On a GPU a third: tokens are drawn by replaying a captured graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from examples.leetcode_grpo.decoding import FixedDecoder
from svdproj.names import canonical_name

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Finished rows cost work until they are dropped, dropping copies the cache: worth it once a quarter has finished.
COMPACT_BELOW = 0.75


class Sampler:
    """Draws completions from a policy while it is being trained.

    On a GPU it decodes with a bfloat16 copy of the weights, brought up to date by `refresh`: under autocast every step of every
    completion would cast all of them anew.

    Args:
        model: the policy, a causal language model with a key-value cache.
        tokenizer: its tokenizer, with an end-of-sequence and a padding token.
        max_new_tokens: longest completion, in tokens, its end-of-sequence token included.
        temperature: of the distribution; 0 takes the most likely token.
        batch_size: rows decoded at once.
        progress: told now and then how far it is.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_new_tokens: int,
        temperature: float = 1.0,
        batch_size: int = 256,
        progress: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.policy = model
        self.tokenizer = tokenizer
        self.max_new_tokens = max_new_tokens
        self.temperature = temperature
        self.batch_size = batch_size
        self.progress = progress
        self.end_ids = torch.tensor(_end_ids(model, tokenizer), device=model.device)
        copied = model.device.type != "cpu" and can_merge(model)
        self._decoder: PreTrainedModel = _bfloat16_copy(model) if copied else model
        self._fixed: FixedDecoder | None = self._fixed_decoder() if copied else None

    def refresh(self) -> None:
        """Take over the policy's present weights; call it after every change to them."""
        if self._decoder is not self.policy:
            _take_over(self._decoder, self.policy)

    def prompt_ids(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """The tokens of chat messages, up to where the assistant's answer begins."""
        text = self.tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def answers(self, prompts: Sequence[Sequence[dict[str, str]]], copies: int = 1) -> list[str]:
        """The texts of `copies` completions of each prompt, in order.

        Args:
            prompts: chat messages.
            copies: how many completions each one gets.
        """
        drawn = self.sample([self.prompt_ids(messages) for messages in prompts], [copies] * len(prompts))
        texts: list[str] = self.tokenizer.batch_decode(drawn, skip_special_tokens=True)
        return texts

    def sample(self, prompts: Sequence[Sequence[int]], copies: Sequence[int]) -> list[list[int]]:
        """`copies[i]` completions of the i-th prompt, as tokens, in order; a completion holds its end token if it has one.

        Args:
            prompts: token sequences, none of them empty.
            copies: how many completions each one gets.
        """
        was_training = self._decoder.training
        self._decoder.eval()  # while it trains, a model that recomputes its activations keeps no cache
        try:
            return self._sample(prompts, copies)
        finally:
            self._decoder.train(was_training)

    def _sample(self, prompts: Sequence[Sequence[int]], copies: Sequence[int]) -> list[list[int]]:
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))  # alike lengths together: less padding
        completions: list[list[list[int]]] = [[] for _ in prompts]
        done = 0
        for batch in _batches(order, copies, self.batch_size):
            self.progress(f"{done} of {sum(copies)} completions drawn")
            done += sum(count for _, count in batch)
            drawn = iter(self._sample_batch([prompts[i] for i, _ in batch], [count for _, count in batch]))
            for i, count in batch:
                completions[i].extend(next(drawn) for _ in range(count))
        return [completion for group in completions for completion in group]

    @torch.inference_mode()
    def _sample_batch(self, prompts: Sequence[Sequence[int]], copies: Sequence[int]) -> list[list[int]]:
        device = self._decoder.device
        tokens, mask = _left_padded(prompts, self.tokenizer.pad_token_id, device)
        positions = (mask.cumsum(1) - 1).clamp_min(0)
        output = self._decoder(
            input_ids=tokens, attention_mask=mask, position_ids=positions, use_cache=True, logits_to_keep=1
        )
        rows = torch.repeat_interleave(torch.arange(len(prompts), device=device), torch.tensor(copies, device=device))
        cache = output.past_key_values
        if self._fixed is not None:
            fixed = self._fixed.decode(cache, rows, mask, positions[:, -1:], output.logits[:, -1])
            return _without_padding(fixed)
        cache.batch_select_indices(rows)
        logits, mask, position = output.logits[rows, -1], mask[rows], positions[rows, -1:]

        drawn = torch.full((len(rows), self.max_new_tokens), -1, dtype=torch.long, device=device)  # -1: behind the end
        alive = torch.arange(len(rows), device=device)  # which completion each row of the shrinking batch belongs to
        running = torch.ones(len(rows), dtype=torch.bool, device=device)
        for step in range(self.max_new_tokens):
            token = self._draw(logits)
            drawn[alive[running], step] = token[running]
            self.progress(f"drawing {len(rows)} completions: token {step + 1} of at most {self.max_new_tokens}")
            running &= ~torch.isin(token, self.end_ids)
            if step == self.max_new_tokens - 1 or not (left := int(running.sum())):
                break
            if left <= COMPACT_BELOW * len(alive):
                kept = running.nonzero().squeeze(1)
                cache.batch_select_indices(kept)
                alive, mask, position, token = alive[kept], mask[kept], position[kept], token[kept]
                running = running[kept]
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
            position = position + 1
            logits = self._decoder(
                input_ids=token[:, None],
                attention_mask=mask,
                position_ids=position,
                past_key_values=cache,
                use_cache=True,
            ).logits[:, -1]
        return _without_padding(drawn)

    def _draw(self, logits: Tensor) -> Tensor:
        if self.temperature == 0:
            return logits.argmax(-1)
        return torch.multinomial((logits.float() / self.temperature).softmax(-1), 1).squeeze(1)

    def _draw_unwatched(self, logits: Tensor) -> Tensor:
        """The same distribution by the Gumbel trick: `multinomial` checks its input on the CPU, which no graph can hold."""
        if self.temperature == 0:
            return logits.argmax(-1)
        exponential = torch.empty_like(logits, dtype=torch.float32).exponential_()
        return (logits.float() / self.temperature - exponential.log()).argmax(-1)

    def _fixed_decoder(self) -> FixedDecoder:
        return FixedDecoder(self._decoder, self.batch_size, self.max_new_tokens, self._draw_unwatched, self.end_ids)


def _without_padding(drawn: Tensor) -> list[list[int]]:
    """Rows of tokens, without the -1 behind each one's end."""
    return [[token for token in row if token >= 0] for row in drawn.tolist()]


def _end_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Every token that ends a completion: the tokenizer's, and those that the model's generation settings name."""
    declared: Any = model.generation_config.eos_token_id if model.generation_config is not None else None
    ids = [declared] if isinstance(declared, int) else list(declared or [])
    return sorted({*ids, *([tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else [])})


def _bfloat16_copy(model: PreTrainedModel) -> PreTrainedModel:
    """A model of the same configuration, adapters merged; made anew, since trainers patch `forward` of the one that they are given."""
    base = _base_model(model)
    copy: PreTrainedModel = type(base)._from_config(base.config, dtype=torch.bfloat16)
    copy.to(model.device).eval().requires_grad_(False)
    _take_over(copy, model)
    return copy


@torch.no_grad()
def _take_over(copy: PreTrainedModel, model: PreTrainedModel) -> None:
    weights = effective_weights(model)
    names, parameters = zip(*copy.named_parameters(), strict=True)
    torch._foreach_copy_(list(parameters), [weights[name] for name in names])


def _base_model(model: PreTrainedModel) -> PreTrainedModel:
    return model.get_base_model() if hasattr(model, "peft_config") else model


def _adapted_layers(model: PreTrainedModel) -> dict[str, Any]:
    """Layers with an adapter, by the name that the layer has without one."""
    if not hasattr(model, "peft_config"):
        return {}
    from peft.tuners.tuners_utils import BaseTunerLayer

    modules = _base_model(model).named_modules()
    return {canonical_name(name): module for name, module in modules if isinstance(module, BaseTunerLayer)}


def can_merge(model: PreTrainedModel) -> bool:
    """Whether every adapter of the model is a change of weights, so that a plain model can stand for it."""
    return all(hasattr(layer, "get_delta_weight") for layer in _adapted_layers(model).values())


@torch.no_grad()
def effective_weights(model: PreTrainedModel) -> dict[str, Tensor]:
    """The weights that the model computes with, by the names of the model without its adapter: the active adapters' changes are added."""
    weights: dict[str, Tensor] = {canonical_name(name): p for name, p in _base_model(model).named_parameters()}
    for name, layer in _adapted_layers(model).items():
        if not layer.merged and not layer.disable_adapters:
            for adapter in layer.active_adapters:
                weights[f"{name}.weight"] = weights[f"{name}.weight"] + layer.get_delta_weight(adapter)
    return weights


def _batches(order: Sequence[int], copies: Sequence[int], size: int) -> list[list[tuple[int, int]]]:
    """Split the wanted completions into batches of at most `size` rows; a prompt with many copies may span several."""
    batches: list[list[tuple[int, int]]] = [[]]
    room = size
    for i in order:
        left = copies[i]
        while left:
            taken = min(left, room)
            batches[-1].append((i, taken))
            left, room = left - taken, room - taken
            if not room:
                batches.append([])
                room = size
    return [batch for batch in batches if batch]


def _left_padded(prompts: Sequence[Sequence[int]], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Token matrix and its mask, both `[prompts, longest]`."""
    longest = max(map(len, prompts))
    tokens = torch.full((len(prompts), longest), pad)
    mask = torch.zeros((len(prompts), longest), dtype=torch.long)
    for row, prompt in enumerate(prompts):
        tokens[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    return tokens.to(device), mask.to(device)

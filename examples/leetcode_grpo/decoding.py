"""Decoding in fixed shapes, so that a GPU replays one captured graph a token instead of launching hundreds of kernels.

A small policy is bound by launches: at 135 million parameters one token of 256 completions takes the GPU a few milliseconds,
and the CPU several times that to ask for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Draw = Callable[[Tensor], Tensor]
"""From logits `[rows, vocabulary]` to tokens `[rows]`; it must not wait for the device."""

# Steps between two looks at which completions are done: a look waits for the device.
LOOK_EVERY = 8
# Cache lengths are rounded up to it, so that prompts of similar lengths share a graph; attention kernels want multiples of 16.
LENGTH_STEP = 64
# Batches are rounded up to one of these shares of the largest; a batch moves to a smaller one as its completions end.
_SHARES = (1, 2, 4, 8)


class FixedCache:
    """Keys and values of every layer in tensors that never move; the part of `transformers.Cache` that attention uses.

    Args:
        slot: the place, `[1]`, that the next token's keys and values go to; the same in all rows.
    """

    def __init__(self, slot: Tensor) -> None:
        self.slot = slot
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    def allocate(self, keys: list[Tensor], values: list[Tensor], rows: int, length: int) -> None:
        """Room for `rows` sequences of `length` tokens, in the shapes of another cache's tensors."""
        self.keys = [k.new_zeros(rows, k.shape[1], length, k.shape[3]) for k in keys]
        self.values = [v.new_zeros(rows, v.shape[1], length, v.shape[3]) for v in values]

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Store one token's keys and values; returns the whole cache of the layer, which the mask cuts to size."""
        self.keys[layer_idx].index_copy_(2, self.slot, keys)
        self.values[layer_idx].index_copy_(2, self.slot, values)
        return self.keys[layer_idx], self.values[layer_idx]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Not known without waiting for the device, and not needed: positions and masks are given."""
        return 0


class FixedDecoding:
    """One batch shape: its buffers, and the graph that draws one more token for each row.

    Args:
        model: in evaluation mode; its parameters must stay where they are.
        rows: sequences in the batch.
        length: longest prompt and completion together, in tokens.
        new_tokens: longest completion.
        draw: from logits to tokens.
        end_ids: tokens that end a completion.
    """

    def __init__(
        self, model: PreTrainedModel, rows: int, length: int, new_tokens: int, draw: Draw, end_ids: Tensor
    ) -> None:
        device = model.device
        self.model, self.draw, self.end_ids = model, draw, end_ids
        self.rows, self.length = rows, length
        self.slot = torch.zeros(1, dtype=torch.long, device=device)
        self.step = torch.zeros(1, dtype=torch.long, device=device)
        self.token = torch.zeros(rows, 1, dtype=torch.long, device=device)
        self.position = torch.zeros(rows, 1, dtype=torch.long, device=device)
        self.mask = torch.zeros(rows, 1, 1, length, dtype=torch.bool, device=device)
        self.running = torch.zeros(rows, dtype=torch.bool, device=device)
        self.drawn = torch.full((rows, new_tokens), -1, dtype=torch.long, device=device)  # -1: behind the end
        self.cache = FixedCache(self.slot)
        self._graph: torch.cuda.CUDAGraph | None = None

    def start(self, cache: Any, rows: Tensor, mask: Tensor, position: Tensor, logits: Tensor) -> None:
        """Take over prompts that were read, and draw each row's first token.

        Args:
            cache: the prompts' keys and values, one layer after the other.
            rows: which prompt each of the first `len(rows)` rows continues; rows beyond them stay empty.
            mask: 1 on the prompts' real tokens, `[prompts, longest]`.
            position: of each prompt's last token, `[prompts, 1]`.
            logits: behind each prompt, `[prompts, vocabulary]`.
        """
        keys, values = [layer.keys for layer in cache.layers], [layer.values for layer in cache.layers]
        if not self.cache.keys:
            self.cache.allocate(keys, values, self.rows, self.length)
        filled, width = len(rows), mask.shape[1]
        for buffers, prompts in ((self.cache.keys, keys), (self.cache.values, values)):
            for buffer, prompt in zip(buffers, prompts, strict=True):
                buffer[:filled, :, :width] = prompt[rows]
        self.mask.zero_()
        self.mask[:filled, 0, 0, :width] = mask[rows].bool()
        # An empty row sees one place, since a softmax over nothing is not a number.
        self.mask[filled:, :, :, 0] = True
        self.position.zero_()
        self.position[:filled] = position[rows]
        self.slot.fill_(width)
        self.step.zero_()
        self.drawn.fill_(-1)
        self.running.zero_()
        self.running[:filled] = True
        first = logits.new_zeros(self.rows, logits.shape[-1])
        first[:filled] = logits[rows]
        self._keep(self.draw(first))

    def take(self, other: FixedDecoding, kept: Tensor) -> None:
        """Go on with some rows of a larger batch."""
        count = len(kept)
        if not self.cache.keys:
            self.cache.allocate(other.cache.keys, other.cache.values, self.rows, self.length)
        for mine, theirs in ((self.cache.keys, other.cache.keys), (self.cache.values, other.cache.values)):
            for buffer, source in zip(mine, theirs, strict=True):
                buffer[:count] = source[kept]
        self.mask.zero_()
        self.mask[count:, :, :, 0] = True
        self.running.zero_()
        self.drawn.fill_(-1)
        for name in ("mask", "position", "token", "running", "drawn"):
            getattr(self, name)[:count] = getattr(other, name)[kept]
        self.slot.copy_(other.slot)
        self.step.copy_(other.step)

    def advance(self) -> None:
        """One more token for each row; on a GPU a replay of the captured graph."""
        if self.model.device.type != "cuda":
            self._advance()
            return
        if self._graph is None:
            self._graph = self._capture()
        self._graph.replay()

    def _capture(self) -> torch.cuda.CUDAGraph:
        state = [self.slot, self.step, self.token, self.position, self.mask, self.running, self.drawn]
        saved = [tensor.clone() for tensor in state]

        def restore() -> None:
            for tensor, value in zip(state, saved, strict=True):
                tensor.copy_(value)

        # Libraries set themselves up at the first calls, which a capture does not allow.
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                self._advance()
                restore()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._advance()
        restore()  # capturing runs nothing, but the place for keys and values was written above
        return graph

    def _advance(self) -> None:
        self.mask.index_fill_(3, self.slot, True)
        logits = self.model(
            input_ids=self.token,
            attention_mask=self.mask,
            position_ids=self.position,
            past_key_values=self.cache,
            use_cache=True,
        ).logits[:, -1]
        self.slot += 1
        self._keep(self.draw(logits))

    def _keep(self, token: Tensor) -> None:
        self.drawn.index_copy_(1, self.step, torch.where(self.running, token, -1)[:, None])
        self.running &= ~torch.isin(token, self.end_ids)
        self.token.copy_(token[:, None])
        self.position += 1
        self.step += 1


class FixedDecoder:
    """Decodes batches of any size in a few fixed shapes.

    Args:
        model, new_tokens, draw, end_ids: as in `FixedDecoding`.
        batch_size: rows of the largest batch.
    """

    def __init__(self, model: PreTrainedModel, batch_size: int, new_tokens: int, draw: Draw, end_ids: Tensor) -> None:
        self.model, self.batch_size, self.new_tokens = model, batch_size, new_tokens
        self.draw, self.end_ids = draw, end_ids
        self._decodings: dict[tuple[int, int], FixedDecoding] = {}
        self._length = 0

    def decode(self, cache: Any, rows: Tensor, mask: Tensor, position: Tensor, logits: Tensor) -> Tensor:
        """Completions of prompts that were read, `[len(rows), new_tokens]`, -1 behind each one's end; see `FixedDecoding.start`."""
        needed = mask.shape[1] + self.new_tokens
        if needed > self._length:
            self._length = -(-needed // LENGTH_STEP) * LENGTH_STEP
            self._decodings.clear()  # graphs of shorter caches would only hold memory
        drawn = torch.full((len(rows), self.new_tokens), -1, dtype=torch.long, device=rows.device)
        current = self._decoding(len(rows))
        current.start(cache, rows, mask, position, logits)
        alive = torch.arange(len(rows), device=rows.device)  # which completion each row belongs to
        for step in range(1, self.new_tokens):
            if step % LOOK_EVERY == 0:
                running = current.running[: len(alive)]
                left = int(running.sum())
                if not left:
                    break
                if (smaller := self._decoding(left)).rows < current.rows:
                    drawn[alive] = current.drawn[: len(alive)]
                    kept = running.nonzero().squeeze(1)
                    smaller.take(current, kept)
                    current, alive = smaller, alive[kept]
            current.advance()
        drawn[alive] = current.drawn[: len(alive)]
        return drawn

    def _decoding(self, rows: int) -> FixedDecoding:
        """The smallest shape that holds so many rows."""
        sizes = {max(1, -(-self.batch_size // share)) for share in _SHARES}
        size = min(size for size in sizes if size >= rows)
        key = size, self._length
        if key not in self._decodings:
            self._decodings[key] = FixedDecoding(
                self.model, size, self._length, self.new_tokens, self.draw, self.end_ids
            )
        return self._decodings[key]

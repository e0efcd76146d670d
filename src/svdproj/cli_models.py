"""A model and its tokenizer from a local folder or the hub, with errors that a command line can show."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from svdproj.cli_errors import UsageError, require
from svdproj.progress import no_loading_bars

# `from_pretrained` alone would retry for a minute where there is no network.
_HUB_SECONDS = 10


def load_model(name: str, device: str, dtype: str) -> tuple[nn.Module, Any]:
    """A causal language model and its tokenizer.

    Args:
        name: a folder, or a name on the hub.
        device: `"auto"`, or what torch calls it.
        dtype: `"auto"` for the one that the weights are stored in, or a torch dtype's name.

    Raises:
        UsageError: it is not there, cannot be reached, or is no causal language model.
    """
    transformers = require("transformers")
    # What costs nothing to check comes before what takes minutes.
    place, wanted = _device(device), _dtype(dtype)
    source, offline = _locate(name)
    with _plain_errors(name), no_loading_bars(transformers):
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, local_files_only=offline)
        model = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=wanted, local_files_only=offline)
    return model.to(place).eval(), tokenizer


def load_skeleton(name: str) -> nn.Module:
    """The model without weights, which costs nothing: parameter names and shapes only.

    Raises:
        UsageError: as from `load_model`.
    """
    transformers = require("transformers")
    source, offline = _locate(name)
    with _plain_errors(name), torch.device("meta"):
        config = transformers.AutoConfig.from_pretrained(source, local_files_only=offline)
        return transformers.AutoModelForCausalLM.from_config(config)


def _locate(name: str) -> tuple[str, bool]:
    """What transformers is to load, and whether the files have to be taken from this machine; asks the hub once, with a
    deadline.

    Raises:
        UsageError: there is nothing of that name here, and the hub does not give it.
    """
    folder = Path(name).expanduser()  # a shell leaves the ~ in --model=~/model
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise UsageError(f"the folder {name} holds no model: it has no config.json")
        return str(folder), True
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name:
        raise UsageError(
            f"no such folder: {name}; give a folder with a transformers model, or a hub name such as org/model"
        )
    if ":" in name:
        raise UsageError(
            f"{name!r} is no model that transformers knows; give a folder, or a hub name such as org/model"
        )
    hub = require("huggingface_hub")
    try:
        hub.HfApi().model_info(name, timeout=_HUB_SECONDS)
    except Exception as error:  # the hub client's HTTP library changes, and its exceptions with it
        if isinstance(hub.try_to_load_from_cache(name, "config.json"), str):
            return name, True
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".:")
        raise UsageError(
            f"cannot get {name!r} from the hub ({reason}); check the name and the network, or give a local folder"
        ) from None
    return name, False


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
        reason = str(error).splitlines()[0].rstrip(".")
        raise UsageError(f"the device {name!r} is not usable here ({reason}); choose --device cpu") from None
    return device


def _dtype(name: str) -> torch.dtype | str:
    if name == "auto":
        return name
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise UsageError(f"unknown dtype {name!r}; choose auto, float32, bfloat16 or float16")
    return found


@contextmanager
def _plain_errors(name: str) -> Iterator[None]:
    try:
        yield
    # What transformers raises for files that are missing, cut short, or do not fit each other.
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".:")
        raise UsageError(
            f"cannot load {name!r}: {reason}; give a causal language model that transformers can read"
        ) from error
